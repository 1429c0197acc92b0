"""What `fuzz.py` reads: the files that inputs are made from, and what edgeq does with each kind of them."""

from __future__ import annotations

import json
import random
import struct
import zlib
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from fuzz_mutators import in_image, in_json, in_onnx, in_safetensors, in_zip
from PIL import Image
from rich.table import Table
from safetensors.torch import save
from torch import Tensor, nn

import edgeq
from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.artifacts.files import kind_of, write_json
from edgeq.artifacts.measured import BENCH, EVALUATION, SWEEP, Kind
from edgeq.commands.console import show
from edgeq.commands.inspect import inspect
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import EdgeqError
from edgeq.evaluation.latency import bench, from_path
from edgeq.frontends.onnx.load import load as load_onnx
from edgeq.frontends.sources import load
from edgeq.reports import figures, tables
from edgeq.runtimes.jobs import Job
from edgeq.runtimes.opening import open_model

SHAPE: Final = (3, 8, 8)
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


class HiddenError(Exception):
    """An `EdgeqError` that is none of a clear line, or hides what should not happen."""


def check(error: EdgeqError) -> None:
    """Raise a HiddenError if the text is not one line, or stands for a lack of memory."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or any(text in str(cause) for text in ("allocate", "bad_alloc", "BFCArena")):
            raise HiddenError("memory, hidden by an error")
        cause = cause.__cause__
    if not str(error) or not str(error).isprintable():
        raise HiddenError("an error of several lines, or of none")


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
    kind, body = inspect(path)
    _shown(path, tables.content_table(kind, body))
    record = edgeq.CalibrationRecord.load(path)
    tables.record_text(record)
    tables.plan_table(edgeq.plan(record, "adaptive"))
    tables.plan_table(edgeq.plan(record, edgeq.Recipe("adaptive", budget="drop=1")))
    tables.images_text(body)
    ImageSet.from_dict(record.data)


def _rarely(path: Path) -> bool:
    """Tables and figures take up to a thousand times as long to draw as the reading that this is about."""
    return zlib.crc32(path.read_bytes()) % 1000 == 0


def _manifest(path: Path) -> None:
    kind, body = inspect(path)
    _shown(path, tables.content_table(kind, body))
    tables.content_text(kind, body)
    tables.images_text(body)
    if _rarely(path) and body["network"]:  # those that lack it are refused where figures are saved
        figures.bitops_figure([body])
        figures.bits_by_position_figure([body])


REPORTS: Final[dict[str, tuple[Kind, Callable[[Body, Body], object]]]] = {
    BENCH.name: (BENCH, lambda m, b: figures.size_latency_figure([m], b)),
    SWEEP.name: (SWEEP, lambda m, b: figures.sweep_figure(b)),
    EVALUATION.name: (EVALUATION, lambda m, b: figures.accuracy_size_figure([m], b)),
}


def _report(path: Path) -> None:
    kind = kind_of(path)
    expected, draw = REPORTS.get(str(kind), REPORTS[EVALUATION.name])
    body = expected.read(path)
    if _rarely(path) and body.get("network", True):
        draw(_manifest_body(), body)


def _packed(path: Path) -> None:
    kind, body = inspect(path)
    _shown(path, tables.content_table(kind, body))
    tables.content_text(kind, body)
    shape = edgeq.load_packed(path).graph.image.shape
    open_model(Job.of("torch", str(path), shape, 1, 1, False))


def _onnx(path: Path) -> None:
    """What `inspect`, `bench` and `evaluate` do; what one refuses, the next may still take."""
    refused: list[EdgeqError] = []
    for step in (_inspected, _described, _benched, _evaluated):
        try:
            step(path)
        except EdgeqError as error:
            check(error)
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
    kind, body = inspect(path)
    _shown(path, tables.content_table(kind, body))


def _benched(path: Path) -> None:
    open_model(from_path(path).job("onnxruntime", 1, 1))


def _evaluated(path: Path) -> None:
    run = edgeq.onnx_runner(path, threads=1)
    run(np.zeros((2, *SHAPE), np.float32))


def _onnx_in(path: Path) -> None:
    load_onnx(path)


def _weights(path: Path) -> None:
    load("net", str(path))


def _program(path: Path) -> None:
    load(str(path))


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
    "program": Reader("*.pt2", ".pt2", in_zip, _program),
    "checkpoint": Reader("checkpoint.safetensors", ".safetensors", in_safetensors, _checkpoint),
    "images": Reader("image.*", "", in_image, _images),
    "ONNX": Reader("*.onnx", ".onnx", in_onnx, _onnx),
    "ONNX as a network": Reader("float-*.onnx", ".onnx", in_onnx, _onnx_in),
}


def _detector(batch: int | str) -> onnx.ModelProto:
    """A float file with a batch norm, a reshape with the batch in its target, and boxes behind."""
    rng, node = np.random.default_rng(0), onnx.helper.make_node
    norm = {name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in ("gamma", "beta", "mean", "var")}
    constants = {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "size": np.array([1, 4, 64]), **norm}
    constants |= {"most": np.array([5]), "iou": np.array([0.5], np.float32)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("BatchNormalization", ["c", *norm], ["b"]),
        node("Sigmoid", ["b"], ["s"]), node("Mul", ["b", "s"], ["m"]), node("Reshape", ["m", "size"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]), node("ReduceMax", ["r"], ["best"], axes=[1]),
        node("NonMaxSuppression", ["t", "best", "most", "iou"], ["kept"]),
    ]  # fmt: skip
    taken = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, *SHAPE])]
    made = [onnx.helper.make_tensor_value_info("kept", onnx.TensorProto.INT64, ["k", 3])]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "detector", taken, made, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def make_seeds(folder: Path) -> None:
    """Every kind of file that is read, as edgeq and others write them."""
    torch.manual_seed(0)
    module, images = Net().eval(), [np.random.default_rng(i).random((4, *SHAPE), np.float32) for i in range(2)]
    network = edgeq.trace(module, SHAPE)
    preprocess = Preprocess(8, 8, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)).to_dict()
    origin = {"model": "net", "weights": "x.pth", "sha256": "0" * 64, "classes": 3}
    origin |= {"preprocess": preprocess}
    files = [["a.png", "0" * 16], ["b.png", "1" * 16]]
    data = {"source": "folder", "root": "/images", "files": files, "labels": [0, 1]}
    sources = {"network": origin, "preprocess": preprocess, "data": data}
    batch = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(module, (torch.zeros(2, *SHAPE),), dynamic_shapes=batch), folder / "net.pt2")
    record = edgeq.calibrate(network, images, sources=sources)
    record.save(folder / "record.json")
    for scheme in ("4bit", "fp32"):
        plan = edgeq.plan(record, scheme)
        layers = edgeq.quantize(network, record, plan, images)
        packed = edgeq.pack(network, layers, record, plan) if layers else network
        manifest = edgeq.export(packed, folder / f"{scheme}.onnx", record, plan, images)
        (folder / f"{scheme}.safetensors").rename(folder / f"packed-{scheme}.safetensors")
        (folder / f"{scheme}.json").replace(folder / "manifest.json")
    sizes: tuple[int | str, ...] = 1, "n"
    for size in sizes:
        (folder / f"float-{size}.onnx").write_bytes(_detector(size).SerializeToString())
    timed = bench([from_path(folder / f"{scheme}.onnx") for scheme in ("4bit", "fp32")], runs=2, warmup=0)
    write_json(folder / "report-bench.json", BENCH.name, BENCH.version, timed.to_dict())
    score = {"top1": 50.0, "top5": 100.0, "agreement": 50.0, "sqnr_db": 20.0, "metrics": {}}
    row = {"name": "fp32", "predictions": [0, 1], "outputs": {}, **score}
    facts = {key: manifest[key] for key in ("scheme", "bytes")}
    scored = {"data": "images", "images": 2, "labels": [0, 1], "metric": "top1", "reference": row}
    scored |= {"models": [row | facts]}
    write_json(folder / "report-evaluation.json", EVALUATION.name, EVALUATION.version, scored)
    swept = {
        "name": "4bit", "scheme": "4bit", "budget": None, "missed": None, "effort": "fast", "seed": 0, "bytes": 2000,
        "predicted_bytes": 2000, "sha256": "0" * 64, "bitops": 10**6, "damage": 0.1, "estimated_drop": 0.5, "drop": 0.5,
        "seconds": 1.0, **score,
    }  # fmt: skip
    report = {"network": origin, "effort": "fast", "seed": 0, "data": "images", "evaluation_sha256": "0" * 64}
    report |= {"images": 2, "metric": "top1", "reference": score, "rows": [swept]}
    write_json(folder / "report-sweep.json", SWEEP.name, SWEEP.version, report)
    state = module.state_dict()
    (folder / "weights.safetensors").write_bytes(save(state))
    torch.save(state, folder / "weights-new.pth")
    torch.save(state, folder / "weights-old.pth", _use_new_zipfile_serialization=False)
    averaged = {f"module.{key}": value for key, value in state.items()}
    beside = {"args": Namespace(lr=0.1), "best": np.float64(70.5), "optimizer": defaultdict(dict, a={"step": 1})}
    torch.save({"model": state, "model_ema": averaged} | beside, folder / "weights-checkpoint.pth")
    Checkpoint(folder / "checkpoint.safetensors", "work").put("layer.", state)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        picture.save(folder / f"image.{suffix}")
    picture.convert("P").save(folder / "image.palette.png", transparency=0)
    picture.convert("I;16").save(folder / "image.wide.png")
    (folder / "image.bomb.png").write_bytes(
        (folder / "image.png").read_bytes()[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + bytes(5)
    )
