"""Packed networks in PyTorch, by the native engine and by PyTorch alone, beside the float network: time, memory, load.

    python benchmarks/packed_torch.py exports/mobilenet_v2-{8bit,4bit}.onnx --weights mobilenet_v2.safetensors --store

The weights are torchvision's, in a file named after their network, which runs in eager mode. `saved` is what
`edgeq.to_native` returns, written by `torch.save`. All take turns in one process, for one image and for several, on one
thread; memory and load are measured in a process for each, above one that has imported PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from peer_tools import __file__ as peer_tools
from shared import publish

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.evaluation.latency import from_path, interleaved
from edgeq.evaluation.memory import memory_in_fresh_process
from edgeq.runtimes.jobs import PYTORCH, Job
from edgeq.system.environment import environment

FLOAT: Final = "float"
BATCHES: Final = (1, 8)
_WARM_UP: Final = 5


def with_batch(job: Job, images: int) -> Job:
    return replace(job, inputs=tuple(one._replace(shape=(images, *one.shape[1:])) for one in job.inputs))


def jobs_of(files: Sequence[Path], weights: Path, folder: Path) -> dict[str, Job]:
    """Every file in both ways and as it is saved in a folder, and the float network."""
    jobs: dict[str, Job] = {}
    for model in map(from_path, files):
        for runtime in PYTORCH:
            jobs[f"{model.name}, {runtime}"] = job = model.job(runtime, 1, 1)
        saved = folder / f"{model.name}.pt"
        torch.save(edgeq.to_native(edgeq.load_packed(job.file)), saved)
        jobs[f"{model.name}, saved"] = replace(job, runtime="saved", file=str(saved))
    return jobs | {FLOAT: replace(job, runtime="eager", file=str(weights))}


def measured(jobs: Mapping[str, Job], runs: int) -> dict[str, dict[str, Any]]:
    """Latency for each number of images, memory and load of every job."""
    rows: dict[str, dict[str, Any]] = {name: {"runtime": job.runtime, "latency": []} for name, job in jobs.items()}
    for images in BATCHES:
        samples = interleaved([with_batch(job, images) for job in jobs.values()], runs, _WARM_UP, lambda done: None)
        for row, found in zip(rows.values(), samples, strict=True):
            row["latency"].append({"batch": images, "median_ms": float(np.median(found)), "samples_ms": found})
    for name, job in jobs.items():
        rows[name]["memory"] = asdict(memory_in_fresh_process(job, None, (peer_tools, "memory")))
    return rows


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True, help="Of the float network.")
@click.option("--runs", default=100, show_default=True, help="Timed runs of each.")
@click.option("--store", is_flag=True, help="Store what was found.")
def main(files: tuple[Path, ...], weights: Path, runs: int, store: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(jobs_of(files, weights, Path(folder)), runs)
    base = rows[FLOAT]["latency"]
    for name, row in rows.items():
        times = [one["median_ms"] / other["median_ms"] for one, other in zip(row["latency"], base, strict=True)]
        memory, shown = row["memory"], " and ".join(f"{ratio:.2f}x" for ratio in times)
        click.echo(
            f"{name}: {row['latency'][0]['median_ms']:.2f} ms, {shown} of the float network's with {BATCHES} images; "
            f"peak {memory['peak_rss_bytes'] / 1e6:.0f} MB, kept {memory['uss_bytes'] / 1e6:.0f} MB, "
            f"load {memory['load_ms']:.0f} ms"
        )
    if store:
        report = Path(tempfile.mkdtemp()) / "packed_torch.json"
        write_json(report, "packed_torch", 1, {"environment": environment(), "runs": runs, "rows": rows})
        private = [report.parent, weights.absolute().parent, *{path.absolute().parent for path in files}]
        publish(report, Path(__file__).parent / "results" / report.name, private)


if __name__ == "__main__":
    main()
