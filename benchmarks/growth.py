"""How time and memory grow: with the images in a batch, resolution, width, depth, and the images calibrated on.

    python benchmarks/growth.py --work DIR

MobileNetV2 with random weights, as speed does not depend on them, in float and at 4 bits, in ONNX Runtime on one
thread; one quantity grows at a time, the others stay those of the usual network. All networks of a quantity take turns.
Calibration is that of the embedded network, on images that edgeq draws. Everything goes to `benchmarks/results/`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from shared import CLI, timed
from torchvision.models import MobileNetV2

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.evaluation.latency import bench, from_path
from edgeq.system.environment import environment

SIZE: Final = 224
BLOCKS: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Of MobileNetV2: expansion, channels, repeats, stride."""

GROWING: Final[dict[str, tuple[float, ...]]] = {
    "batch": (1, 2, 4, 8, 16, 32),
    "resolution": (96, 128, 160, 224, 320, 448),
    "width": (0.35, 0.5, 0.75, 1.0, 1.4, 2.0),
    "depth": (1, 2, 3, 4),
}
SAMPLES: Final = (100, 300, 1000, 3000, 10000)
IMPORTS: Final = "import edgeq.calibration.calibrate, edgeq.frontends.sources, edgeq.data.images"


@dataclass(frozen=True)
class Case:
    """One network and how it is run: `depth` times as many repeats of each block."""

    batch: int = 1
    resolution: int = SIZE
    width: float = 1.0
    depth: int = 1

    @property
    def name(self) -> str:
        return f"r{self.resolution}-w{self.width}-d{self.depth}"


def cases(quantity: str) -> Iterator[Case]:
    for value in GROWING[quantity]:
        grown: dict[str, Any] = {quantity: value if quantity == "width" else int(value)}
        yield replace(Case(), **grown)


def files(case: Case, work: Path) -> list[Path]:
    """The network in float and at 4 bits, exported unless it is there."""
    paths = [work / f"{case.name}-{scheme}.onnx" for scheme in ("fp32", "4bit")]
    if not all(path.exists() for path in paths):
        torch.manual_seed(0)
        setting = [
            [expansion, channels, repeats * case.depth, stride] for expansion, channels, repeats, stride in BLOCKS
        ]
        module = MobileNetV2(width_mult=case.width, inverted_residual_setting=setting).eval()
        shape = (3, case.resolution, case.resolution)
        images = [np.random.default_rng(i).standard_normal((4, *shape), np.float32) for i in range(2)]
        network = edgeq.trace(module, shape)
        record = edgeq.calibrate(network, images, "minmax")
        for path in paths:
            plan = edgeq.plan(record, path.stem.rpartition("-")[2])
            layers = edgeq.quantize(network, record, plan, images)
            packed = edgeq.pack(network, layers, record, plan) if layers else network
            edgeq.export(packed, path, record, plan, images)
    return paths


def measured(quantity: str, work: Path, runs: int) -> list[dict[str, Any]]:
    """Latency and memory for every value of a quantity, in float and at 4 bits."""
    grown = list(cases(quantity))
    made = {case: files(case, work) for case in grown}
    rows = []
    # One batch is one call of `bench`, in which all models take turns.
    for batch in sorted({case.batch for case in grown}):
        chosen = [case for case in grown if case.batch == batch]
        models = [from_path(path) for case in chosen for path in made[case]]
        report = bench(models, threads=1, batch=batch, runs=runs)
        for case, pair in zip(chosen, zip(report.rows[::2], report.rows[1::2], strict=True), strict=True):
            rows += [asdict(case) | asdict(row) for row in pair]
            click.echo(f"{quantity}: {case} {pair[0].median_ms:.2f} {pair[1].median_ms:.2f} ms", err=True)
    return rows


def calibrated(work: Path) -> list[dict[str, float]]:
    """Seconds and peak memory of `edgeq calibrate`, as processes."""
    base = timed([sys.executable, "-c", IMPORTS], work)
    rows = []
    for samples in SAMPLES:
        cost = timed([*CLI, "calibrate", "--samples", str(samples), "--output", f"{samples}.calib"], work)
        rows.append(cost | {"samples": samples, "imports_mb": base["peak_rss_mb"]})
    return rows


def figure(body: dict[str, Any]) -> Figure:
    """Time above, memory below, a column for each quantity; axes are logarithmic: linear growth has slope 1."""
    drawn = Figure(figsize=(16, 8), layout="constrained", dpi=120)
    grid = drawn.subplots(2, len(GROWING) + 1)
    for column, quantity in enumerate(GROWING):
        for scheme, colour in (("fp32", "#6E6E6E"), ("4bit", "#56B4E9")):
            rows = [row for row in body["growth"][quantity] if row["scheme"] == scheme]
            values = [row[quantity] for row in rows]
            grid[0, column].loglog(values, [row["median_ms"] for row in rows], "o-", color=colour, label=scheme)
            peaks = [row["memory"]["peak_rss_bytes"] / 1e6 for row in rows]
            grid[1, column].loglog(values, peaks, "o-", color=colour, label=scheme)
        grid[1, column].set_xlabel(quantity, fontsize=13)
    samples = [row["samples"] for row in body["calibration"]]
    grid[0, -1].loglog(samples, [row["seconds"] for row in body["calibration"]], "o-", color="#D55E00")
    grid[0, -1].set_title("calibration, seconds", fontsize=13)
    extra = [row["peak_rss_mb"] - row["imports_mb"] for row in body["calibration"]]
    grid[1, -1].semilogx(samples, extra, "o-", color="#D55E00")
    grid[1, -1].set_ylim(0, 1.2 * max(*extra, 1))
    grid[1, -1].set_xlabel("images calibrated on", fontsize=13)
    grid[0, 0].set_ylabel("median ms of a run", fontsize=13)
    grid[1, 0].set_ylabel("peak MB over an empty session", fontsize=13)
    grid[0, 0].legend(fontsize=13, frameon=False)
    for axes in grid.flat:
        axes.minorticks_off()
        axes.grid(color="#DDDDDD", linewidth=0.8)
    drawn.suptitle("MobileNetV2: what grows with what", fontsize=20, fontweight="bold")
    return drawn


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for models; kept.")
@click.option("--runs", default=30)
def main(work: Path, runs: int) -> None:
    work = work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    body = {
        "environment": environment(),
        "runs": runs,
        "growth": {quantity: measured(quantity, work, runs) for quantity in GROWING},
        "calibration": calibrated(work),
    }
    results = Path(__file__).parent / "results"
    write_json(results / "growth.json", "growth", 1, body)
    figure(body).savefig(results / "growth.png")


if __name__ == "__main__":
    main()
