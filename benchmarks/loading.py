"""Load time and peak memory of packed files beside those that another version of edgeq writes, in ONNX Runtime.

    python benchmarks/loading.py make BEFORE        # once with the other version on PYTHONPATH
    python benchmarks/loading.py make AFTER         # once with this one
    python benchmarks/loading.py compare BEFORE AFTER

The files are MobileNetV2 with random weights, as what is measured does not depend on them. Every one is loaded in fresh
processes, all in turns. Everything goes to `benchmarks/results/loading.json`.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np
import torch
from torchvision.models import mobilenet_v2

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.evaluation.latency import from_path
from edgeq.evaluation.memory import empty_model, memory_in_fresh_process
from edgeq.system.environment import environment

SCHEMES: Final = ("8bit", "4bit", "2bit")
SHAPE: Final = (3, 224, 224)


@click.group()
def main() -> None:
    """Make files, and compare those of two versions."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images = [np.random.default_rng(0).standard_normal((8, *SHAPE), np.float32)]
    network = edgeq.trace(mobilenet_v2(weights=None).eval(), SHAPE)
    record = edgeq.calibrate(network, images, "minmax")
    for scheme in SCHEMES:
        plan = edgeq.plan(record, scheme)
        packed = edgeq.pack(network, edgeq.quantize(network, record, plan, images), record, plan)
        edgeq.export(packed, folder / f"{scheme}.onnx", record, plan, images, force=True)


@main.command()
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
@click.option("--runs", default=11, show_default=True, help="Processes for each file.")
def compare(before: Path, after: Path, runs: int) -> None:
    folders = {"before": before, "after": after}
    found: dict[str, Any] = {scheme: {version: [] for version in folders} for scheme in SCHEMES}
    with TemporaryDirectory() as temporary, empty_model("onnxruntime") as empty:
        for version, folder in folders.items():  # without manifests, as the other version may write them differently
            for scheme in SCHEMES:
                shutil.copy(folder / f"{scheme}.onnx", Path(temporary) / f"{version}-{scheme}.onnx")
        for number in range(runs):
            for scheme in SCHEMES:
                for version in [*folders][:: 1 if number % 2 == 0 else -1]:
                    job = from_path(Path(temporary) / f"{version}-{scheme}.onnx").job("onnxruntime", 1, 1)
                    found[scheme][version].append(asdict(memory_in_fresh_process(job, empty)))
    sizes = {s: {v: (folder / f"{s}.onnx").stat().st_size for v, folder in folders.items()} for s in SCHEMES}
    body = {"environment": environment(), "bytes": sizes, "memory": found}
    write_json(Path(__file__).parent / "results" / "loading.json", "loading", 1, body)


if __name__ == "__main__":
    main()
