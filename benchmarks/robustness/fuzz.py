"""Broken and hostile files for everything that reads one: what edgeq makes of a hundred thousand of each kind.

    python benchmarks/robustness/fuzz.py                                       # writes results/fuzz.json
    python benchmarks/robustness/fuzz.py record images                         # only these rows of it
    python benchmarks/robustness/fuzz.py --inputs 1000 --keep FOLDER record    # writes no results, but inputs that
    failed

Seeds are real files of a network of two layers. An input is one of them, changed where its format has its parts: values
of a JSON tree, fields of a safetensors header or of an ONNX message, entries of a zip archive, chunks of a PNG, or just
bytes. It depends on the seeds, the name of its reader and its number only.

A reader runs in a process of its own, which may take 1 GB more than it has after reading all seeds, and 10 s for an
input. What ends it is counted as a failure, and a new process goes on behind the input. A failure is also any exception
but an `EdgeqError` of one line, a lack of memory that such an error hides, and a file written by Python.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import click
import torchvision.models
from fuzz_readers import READERS, SHAPE, HiddenError, Net, check, make_seeds
from torchvision.models import MobileNet_V2_Weights

import edgeq
from edgeq.artifacts.files import read_json, write_json
from edgeq.artifacts.schema import TEXT
from edgeq.errors import EdgeqError
from edgeq.frontends import sources
from edgeq.system.environment import environment

INPUTS: Final = 100_000
SECONDS: Final = 10
MEMORY: Final = 10**9
EVENTS: Final = ("os.rename", "os.remove", "os.system", "os.exec", "subprocess.Popen")
RESULTS: Final = Path(__file__).resolve().parent.parent / "results" / "fuzz.json"


def input_of(name: str, number: int, seeds: Sequence[Path]) -> tuple[str, bytes]:
    """The suffix and the bytes of an input."""
    chance = random.Random(f"{name} {number}")
    seed = chance.choice(seeds)
    return READERS[name].suffix or seed.suffix, READERS[name].mutate(chance, seed.read_bytes())


def seeds_of(name: str) -> list[Path]:
    return sorted(Path("../seeds").glob(READERS[name].seeds))


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """One line: `accepted`, `refused`, or what went wrong."""
    try:
        try:
            read(path)
        except EdgeqError as error:
            check(error)
            return "refused"
    except HiddenError as failure:
        return str(failure)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in last if "/edgeq/" in frame.filename][-1:] or last[-1:]
        return f"{type(error).__name__} in {Path(ours[0].filename).name}, {ours[0].name}"
    return "accepted"


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
        "list_models": lambda module: ["net"] * (module is torchvision.models),
        "get_model_weights": lambda model: MobileNet_V2_Weights,
        "get_model": lambda model, weights, num_classes=3: Net(num_classes),
    }
    traced = edgeq.trace(Net(), SHAPE)  # tracing reads no file any more
    with mock.patch.multiple("torchvision.models", **known), mock.patch.object(sources, "trace", return_value=traced):
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
