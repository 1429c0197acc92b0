"""Broken and hostile files for everything that reads one: what edgeq makes of a hundred thousand of each kind.

    python benchmarks/fuzz.py                                       # writes results/fuzz.json
    python benchmarks/fuzz.py record images                         # only these rows of it
    python benchmarks/fuzz.py --inputs 1000 --keep FOLDER record    # writes no results, but inputs that failed

Seeds are real files of a network of two layers. An input is one of them, changed where its format has its parts: values
of a JSON tree, fields of a safetensors header or of an ONNX message, entries of a zip archive, chunks of a PNG, or just
bytes. It depends on the seeds, the name of its reader and its number only.

A reader runs in a process of its own, which may take 1 GB more than it has after reading all seeds, and 10 s for an
input. What ends it is counted as a failure, and a new process goes on behind the input. A failure is also any exception
but an `EdgeqError` of one line, a lack of memory that such an error hides, and a file written by Python.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from unittest import mock

import click
import numpy as np
import onnx
import torch
from PIL import Image
from rich.table import Table
from safetensors.torch import save
from torch import Tensor, nn

import edgeq
from edgeq import inspection, models, plots, reports, runtimes, sweep, tables
from edgeq.artifact import read_json, write_json
from edgeq.bench import FORM as BENCH
from edgeq.bench import KIND as BENCH_KIND
from edgeq.bench import VERSION as BENCH_VERSION
from edgeq.bench import bench, from_path
from edgeq.checkpoint import Checkpoint
from edgeq.console import show
from edgeq.environment import environment
from edgeq.errors import EdgeqError
from edgeq.forms import TEXT, Form
from edgeq.images import ImageSet
from edgeq.preprocess import Preprocess

INPUTS: Final = 100_000
SECONDS: Final = 10
MEMORY: Final = 10**9
SHAPE: Final = (3, 8, 8)
NUMBERS: Final = (0, 1, -1, 2, 3, 127, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63))
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, "", "x", "../../x", "/etc/passwd", "a\nb", "\ud800", "1" * 5000, [], {}, [[]], [None], 0.5, 1e30,
    1e308, float("nan"), float("inf"), -float("inf"), 2**64, 10**400, *NUMBERS,
)  # fmt: skip
NAMES: Final = (
    "", "x", "input", "../../x", "Identity", "Loop", "ConstantOfShape", "Expand", "Resize", "a\nb",
)  # fmt: skip
EVENTS: Final = ("os.rename", "os.remove", "os.system", "os.exec", "subprocess.Popen")
RESULTS: Final = Path(__file__).parent / "results" / "fuzz.json"
DEEP: Final = "[" * 100_000 + "]" * 100_000
Body = Mapping[str, Any]
Mutate = Callable[[random.Random, bytes], bytes]


class Net(nn.Module):
    """A convolution and a classifier."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return y


# --- Mutators -----------------------------------------------------------------------------------------------------


def in_bytes(chance: random.Random, seed: bytes) -> bytes:
    """Flip, cut, repeat, overwrite by a number."""
    found = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(found) + 1)
        end = min(len(found), start + chance.choice((1, 2, 4, 8, 64)))
        number = struct.pack(chance.choice("<>") + "q", chance.choice(NUMBERS))[: chance.choice((1, 2, 4, 8))]
        part = chance.choice((b"", number, number, chance.randbytes(end - start), bytes(found[start:end]) * 2))
        found[start:end] = part
    return bytes(found[: chance.randrange(len(found) + 1)]) if chance.random() < 0.1 else bytes(found)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container below a value, with every key or index in it."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def in_tree(chance: random.Random, seed: bytes) -> bytes:
    """Replace, remove, exchange or double values of a JSON tree; at times nest it deep."""
    tree = [json.loads(seed)]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        (holder, key), (other, place) = chance.choices(list(_places(tree)), k=2)
        match chance.randrange(5):
            case 0:
                del holder[key]
            case 1:
                holder[key] = deepcopy(other[place])
            case 2 if isinstance(holder, list):
                holder.append(deepcopy(holder[key]))
            case _:
                holder[key] = deepcopy(chance.choice(VALUES))
        if not tree or not list(_places(tree)):
            break
    text = json.dumps(tree[0] if tree else None)
    if chance.random() < 0.001:
        text = text.replace("null", DEEP, 1) if "null" in text else DEEP
    if text.startswith("{") and chance.random() < 0.02:
        text = text[:-1] + "," + text[1:]  # every key twice
    return text.encode()


def in_json(chance: random.Random, seed: bytes) -> bytes:
    return (in_bytes if chance.random() < 0.2 else in_tree)(chance, seed)


def in_safetensors(chance: random.Random, seed: bytes) -> bytes:
    """Change the header, the JSON in its metadata, its length, or the data, at times to NaN."""
    size = int.from_bytes(seed[:8], "little")
    header, data = seed[8 : 8 + size], seed[8 + size :]
    match chance.randrange(8):
        case 0:
            return in_bytes(chance, seed)
        case 1:
            return struct.pack("<q", chance.choice((*NUMBERS, size + 1, size - 1))) + seed[8:]
        case 2:
            data = data[: len(data) // 4 * 4 - 4] + struct.pack("<f", chance.choice((np.nan, np.inf, -1.0, 0.0, 1e38)))
        case 3:
            data = in_bytes(chance, data)
        case 4 | 5:
            header = in_json(chance, header)
        case _:
            tree = json.loads(header)
            inner = next(iter(tree["__metadata__"]), None) if "__metadata__" in tree else None
            if inner and tree["__metadata__"][inner].startswith("{"):
                text = in_json(chance, tree["__metadata__"][inner].encode())
                tree["__metadata__"][inner] = text.decode(errors="replace")
            else:
                tree[chance.choice(list(tree))] = chance.choice(list(tree.values()))
            header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + data


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part)


def in_onnx(chance: random.Random, seed: bytes) -> bytes:
    """Change fields of messages: numbers, names, bytes, whole messages removed, doubled or exchanged."""
    if chance.random() < 0.2:
        return in_bytes(chance, seed)
    model = onnx.ModelProto.FromString(seed)
    for _ in range(chance.choice((1, 1, 2, 3))):
        message = chance.choice([part for part in _messages(model) if part.ListFields()] or [model])
        if isinstance(message, onnx.TensorProto) and chance.random() < 0.1:
            message.data_location = onnx.TensorProto.EXTERNAL
            for key, value in zip(("location", "offset", "length"), chance.choices(VALUES, k=3), strict=True):
                with suppress(UnicodeEncodeError):
                    message.external_data.add(key=key, value=str(value))
        if not message.ListFields():  # nothing is left of the model
            break
        field, value = chance.choice(message.ListFields())
        if chance.random() < 0.1 or (not field.is_repeated and field.type == field.TYPE_MESSAGE):
            message.ClearField(field.name)
        elif not field.is_repeated:
            with suppress(ValueError):  # no value of an enumeration
                setattr(message, field.name, _scalar(chance, field, value))
        elif field.type != field.TYPE_MESSAGE:
            value[chance.randrange(len(value))] = _scalar(chance, field, value[0])
        elif chance.random() < 0.5:
            value.add().CopyFrom(chance.choice(value))
        else:
            del value[chance.randrange(len(value))]
    return bytes(model.SerializeToString())


def _scalar(chance: random.Random, field: Any, value: Any) -> Any:
    if isinstance(value, str):
        return chance.choice((*NAMES, value * 2))
    if isinstance(value, bytes):
        return in_bytes(chance, value)
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    narrow = field.type in (field.TYPE_INT32, field.TYPE_ENUM)
    number = chance.choice((value + 1, value - 1, *NUMBERS))
    return max(-(2**31), min(number, 2**31 - 1)) if narrow else max(-(2**63), min(number, 2**63 - 1))


def in_zip(chance: random.Random, seed: bytes) -> bytes:
    """Change an entry of an archive, its name, or its compression; files of the older format are bytes."""
    if not seed.startswith(b"PK") or chance.random() < 0.2:
        return in_bytes(chance, seed)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(made, "w") as new:
        entries = {name: old.read(name) for name in old.namelist()}
        chosen = chance.choice([next(name for name in entries if name.endswith("data.pkl")), *entries])
        for name, content in entries.items():
            written = content
            if name == chosen:
                match chance.randrange(8):
                    case 0:
                        name = chance.choice(("../../x", "/x", name * 2, f"{name}\0", chance.choice(list(entries))))  # noqa: PLW2901
                    case 1:
                        continue
                    case 2:
                        written = content * chance.choice((0, 2, 1000))
                    case _:
                        written = in_bytes(chance, content)
            method = zipfile.ZIP_DEFLATED if chance.random() < 0.1 else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(name), written, method)
    return made.getvalue()


def in_image(chance: random.Random, seed: bytes) -> bytes:
    """Change bytes, of a PNG within a chunk whose checksum is then right again."""
    if not seed.startswith(b"\x89PNG") or chance.random() < 0.3:
        return in_bytes(chance, seed)
    found, chunks = seed[:8], []
    position = 8
    while position < len(seed):
        size = int.from_bytes(seed[position : position + 4], "big")
        chunks.append((seed[position + 4 : position + 8], seed[position + 8 : position + 8 + size]))
        position += size + 12
    chosen = chance.randrange(len(chunks))
    for i, (kind, content) in enumerate(chunks):
        body = kind + (in_bytes(chance, content) if i == chosen else content)
        found += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return found


# --- Readers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """What is done with a file, whose name ends in `suffix`; `seeds` names the files of `make_seeds` to start from."""

    seeds: str
    suffix: str
    mutate: Mutate
    read: Callable[[Path], object]


def _shown(path: Path, table: Table) -> None:
    if _rarely(path):
        show(table)


def _record(path: Path) -> None:
    kind, body = inspection.inspect(path)
    _shown(path, tables.content_table(kind, body))
    record = edgeq.CalibrationRecord.load(path)
    tables.record_text(record)
    tables.plan_table(edgeq.plan(record, "adaptive"))
    tables.plan_table(edgeq.plan(record, "adaptive", budget="drop=1"))
    Preprocess.from_dict(record.preprocess)
    ImageSet.from_dict(record.data)


def _rarely(path: Path) -> bool:
    """Tables and figures take up to a thousand times as long to draw as the reading that this is about."""
    return zlib.crc32(path.read_bytes()) % 1000 == 0


def _manifest(path: Path) -> None:
    kind, body = inspection.inspect(path)
    _shown(path, tables.content_table(kind, body))
    tables.content_text(kind, body)
    if _rarely(path) and body["network"]:  # those that lack it are refused where figures are saved
        plots.bitops_figure([body])
        plots.bits_by_position_figure([body])


REPORTS: Final[dict[str, tuple[int, Form, Callable[[Body, Body], object]]]] = {
    BENCH_KIND: (BENCH_VERSION, BENCH, lambda m, b: plots.size_latency_figure([m], b)),
    sweep.KIND: (sweep.VERSION, sweep.FORM, lambda m, b: plots.sweep_figure(b)),
    "evaluation": (
        reports.EVALUATION_VERSION, reports.EVALUATION, lambda m, b: plots.accuracy_size_figure([m], b),
    ),
}  # fmt: skip


def _report(path: Path) -> None:
    kind = inspection.kind_of(path)
    version, form, draw = REPORTS.get(str(kind), REPORTS["evaluation"])
    body = read_json(path, kind if kind in REPORTS else "evaluation", version, form)
    if _rarely(path) and body.get("network", True):
        draw(_manifest_body(), body)


def _packed(path: Path) -> None:
    kind, body = inspection.inspect(path)
    _shown(path, tables.content_table(kind, body))
    tables.content_text(kind, body)
    shape = edgeq.load_packed(path).graph.input_shape
    runtimes.open_model(runtimes.Job.of("torch", str(path), shape, 1, 1, False))


def _onnx(path: Path) -> None:
    """What `inspect`, `bench` and `evaluate` do; what one refuses, the next may still take."""
    refused: list[EdgeqError] = []
    for step in (_inspected, _described, _benched, _evaluated):
        try:
            step(path)
        except EdgeqError as error:
            _check(error)
            refused.append(error)
    if refused:
        raise refused[0]


def _described(path: Path) -> None:
    """Inspect it with a manifest that says it was not changed."""
    digest, beside = sha256(path.read_bytes()).hexdigest(), path.with_suffix(".json")
    beside.write_text(json.dumps(_manifest_body() | {"sha256": digest}))
    try:
        _inspected(path)
    finally:
        beside.unlink()


@cache
def _manifest_body() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(Path("../seeds/manifest.json").read_bytes())
    return body


def _inspected(path: Path) -> None:
    kind, body = inspection.inspect(path)
    _shown(path, tables.content_table(kind, body))


def _benched(path: Path) -> None:
    runtimes.open_model(from_path(path).job("onnxruntime", 1, 1))


def _evaluated(path: Path) -> None:
    run = edgeq.onnx_runner(path, threads=1)
    run(np.zeros((2, *SHAPE), np.float32))


def _weights(path: Path) -> None:
    models.load("net", str(path))


def _checkpoint(path: Path) -> None:
    Checkpoint(path, "work").under("")


def _images(path: Path) -> None:
    for _ in ImageSet.folder(path.parent, None, 0).batches(Preprocess(8, 8, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)), 1):
        pass


READERS: Final = {
    "record": Reader("record.json", ".json", in_json, _record),
    "manifest": Reader("manifest.json", ".json", in_json, _manifest),
    "reports": Reader("report-*.json", ".json", in_json, _report),
    "packed network": Reader("packed-*.safetensors", ".safetensors", in_safetensors, _packed),
    "weights, safetensors": Reader("weights.safetensors", ".safetensors", in_safetensors, _weights),
    "weights, torch.save": Reader("weights-*.pth", ".pth", in_zip, _weights),
    "checkpoint": Reader("checkpoint.safetensors", ".safetensors", in_safetensors, _checkpoint),
    "images": Reader("image.*", "", in_image, _images),
    "ONNX": Reader("*.onnx", ".onnx", in_onnx, _onnx),
}


def make_seeds(folder: Path) -> None:
    """Every kind of file that is read, as edgeq and others write them."""
    torch.manual_seed(0)
    module, images = Net().eval(), [np.random.default_rng(i).random((4, *SHAPE), np.float32) for i in range(2)]
    network = edgeq.trace(module, SHAPE)
    origin = {"model": "net", "weights": "x.pth", "sha256": "0" * 64, "classes": 3, "keep_float": False}
    files = [["a.png", "0" * 16], ["b.png", "1" * 16]]
    data = {"source": "folder", "root": "/images", "files": files, "labels": [0, 1]}
    preprocess = Preprocess(8, 8, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    sources = {"network": origin, "preprocess": preprocess.to_dict(), "data": data}
    record = edgeq.calibrate(network, images, sources=sources)
    record.save(folder / "record.json")
    for scheme in ("4bit", "fp32"):
        plan = edgeq.plan(record, scheme)
        layers = edgeq.quantize(network, record, plan, images)
        packed = edgeq.pack(network, layers, record, plan) if layers else network
        manifest = edgeq.export(packed, folder / f"{scheme}.onnx", record, plan, images)
        (folder / f"{scheme}.safetensors").rename(folder / f"packed-{scheme}.safetensors")
        (folder / f"{scheme}.json").replace(folder / "manifest.json")
    timed = bench([from_path(folder / f"{scheme}.onnx") for scheme in ("4bit", "fp32")], runs=2, warmup=0)
    write_json(folder / "report-bench.json", BENCH_KIND, BENCH_VERSION, timed.to_dict())
    score = {"top1": 50.0, "top5": 100.0, "agreement": 50.0, "sqnr_db": 20.0}
    row = {"name": "fp32", "predictions": [0, 1], **score}
    facts = {key: manifest[key] for key in ("scheme", "bytes")}
    scored = {"data": "images", "images": 2, "labels": [0, 1], "reference": row, "models": [row | facts]}
    write_json(folder / "report-evaluation.json", "evaluation", reports.EVALUATION_VERSION, scored)
    swept = {
        "name": "4bit", "scheme": "4bit", "budget": None, "missed": None, "effort": "fast", "seed": 0, "bytes": 2000,
        "predicted_bytes": 2000, "sha256": "0" * 64, "bitops": 10**6, "damage": 0.1, "estimated_drop": 0.5, "drop": 0.5,
        "seconds": 1.0, **score,
    }  # fmt: skip
    report = {"network": origin, "effort": "fast", "seed": 0, "data": "images", "evaluation_sha256": "0" * 64}
    report |= {"images": 2, "reference": score, "rows": [swept]}
    write_json(folder / "report-sweep.json", sweep.KIND, sweep.VERSION, report)
    state = module.state_dict()
    (folder / "weights.safetensors").write_bytes(save(state))
    torch.save(state, folder / "weights-new.pth")
    torch.save(state, folder / "weights-old.pth", _use_new_zipfile_serialization=False)
    Checkpoint(folder / "checkpoint.safetensors", "work").put("layer.", state)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        picture.save(folder / f"image.{suffix}")
    picture.convert("P").save(folder / "image.palette.png", transparency=0)
    picture.convert("I;16").save(folder / "image.wide.png")
    (folder / "image.bomb.png").write_bytes(
        (folder / "image.png").read_bytes()[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + bytes(5)
    )


# --- Processes ----------------------------------------------------------------------------------------------------


def input_of(name: str, number: int, seeds: Sequence[Path]) -> tuple[str, bytes]:
    """The suffix and the bytes of an input."""
    chance = random.Random(f"{name} {number}")
    seed = chance.choice(seeds)
    return READERS[name].suffix or seed.suffix, READERS[name].mutate(chance, seed.read_bytes())


def seeds_of(name: str) -> list[Path]:
    return sorted(Path("../seeds").glob(READERS[name].seeds))


class HiddenError(Exception):
    """An `EdgeqError` that is none of a clear line, or hides what should not happen."""


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """One line: `accepted`, `refused`, or what went wrong."""
    try:
        try:
            read(path)
        except EdgeqError as error:
            _check(error)
            return "refused"
    except HiddenError as failure:
        return str(failure)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in last if "/edgeq/" in frame.filename][-1:] or last[-1:]
        return f"{type(error).__name__} in {Path(ours[0].filename).name}, {ours[0].name}"
    return "accepted"


def _check(error: EdgeqError) -> None:
    """Raise a HiddenError if the text is not one line, or stands for a lack of memory."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or any(text in str(cause) for text in ("allocate", "bad_alloc", "BFCArena")):
            raise HiddenError("memory, hidden by an error")
        cause = cause.__cause__
    if not str(error) or not str(error).isprintable():
        raise HiddenError("an error of several lines, or of none")


def child(name: str, start: int, end: int) -> None:
    """Read inputs in the current folder; a line of stdout for each."""
    lines = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    written: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if guard and (writes or event in EVENTS) and str(arguments[0]) != "input.json":
            written.append(f"{event} {arguments[0]}")

    guard: list[int] = []
    sys.addaudithook(audit)
    known: dict[str, Any] = {
        "list_models": lambda module: ["net"],
        "get_model": lambda model, weights, num_classes=3: Net(num_classes),
    }
    traced = edgeq.trace(Net(), SHAPE)  # tracing reads no file any more
    with mock.patch.multiple("torchvision.models", **known), mock.patch.object(models, "trace", return_value=traced):
        seeds = seeds_of(name)
        for seed in seeds:
            path = Path("warm-up").with_suffix(READERS[name].suffix or seed.suffix)
            path.write_bytes(seed.read_bytes())
            outcome(READERS[name].read, path)
            path.unlink()
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(start, end):
            suffix, content = input_of(name, number, seeds)
            path = Path("input").with_suffix(suffix)
            path.write_bytes(content)
            signal.alarm(SECONDS)
            guard.append(number)
            found = outcome(READERS[name].read, path)
            guard.clear()
            signal.alarm(0)
            if written or list(Path().iterdir()) != [path]:
                found = f"written: {written[:1] or list(Path().iterdir())}"
                written.clear()
            path.unlink()
            os.write(lines, f"{found}\n".encode())


def run(name: str, inputs: int, work: Path, keep: Path | None) -> dict[str, Any]:
    """All inputs of a reader, in as many processes as it takes."""
    found: list[str] = []
    folder = work / "input"
    while len(found) < inputs:
        folder.mkdir()
        command = [sys.executable, "-X", "faulthandler", __file__, "child", name, str(len(found)), str(inputs)]
        variables = os.environ | {"MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(Path(edgeq.__file__).parents[1])}
        ended = subprocess.run(command, check=False, cwd=folder, capture_output=True, env=variables)
        found += ended.stdout.decode().splitlines()
        if ended.returncode > 0:
            raise click.ClickException(f"{name}: {ended.stderr.decode()}")
        if ended.returncode < 0:
            ending = signal.Signals(-ended.returncode)
            found.append("hang" if ending == signal.SIGALRM else f"crash, {ending.name}")
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
    counts = Counter(found)
    seeds = sorted((work / "seeds").glob(READERS[name].seeds))
    for kind in set(found) - {"accepted", "refused"}:
        if keep:
            for number in [i for i, one in enumerate(found) if one == kind][:3]:
                suffix, content = input_of(name, number, seeds)
                label = "".join(c if c.isalnum() else "-" for c in kind)[:60]
                (keep / f"{name.replace(' ', '-')}-{label}-{number}{suffix}").write_bytes(content)
    row = {"inputs": len(found), "accepted": counts.pop("accepted", 0), "refused": counts.pop("refused", 0)}
    return {"reader": name, **row, "failures": dict(counts)}


@click.command()
@click.argument("readers", nargs=-1, type=click.Choice(list(READERS)))
@click.option("--inputs", default=INPUTS)
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for inputs that fail.")
def main(readers: Sequence[str], inputs: int, keep: Path | None) -> None:
    rows = {}
    if RESULTS.exists():
        rows = {row["reader"]: row for row in read_json(RESULTS, "fuzz", 1, {"rows": [{"reader": TEXT}]})["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "seeds").mkdir()
        make_seeds(work / "seeds")
        began = time.monotonic()
        for name in readers or READERS:
            rows[name] = run(name, inputs, work, keep)
            if inputs == INPUTS:
                write_json(RESULTS, "fuzz", 1, {"environment": environment(), "rows": list(rows.values())})
            click.echo(f"{time.monotonic() - began:.0f} s {json.dumps(rows[name])}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
