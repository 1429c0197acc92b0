"""Make the codebooks that come with edgeq: for each width the 256 vectors that stand best for Gaussian ones.

    python tools/make_codebooks.py

Lloyd's algorithm (doi:10.1109/TIT.1982.1056489) on random vectors of K independent normal values, K weights to a byte.
The vectors are stretched so that the largest value is `HIGHEST`, and rounded to int8. Writes
`edgeq/assets/codebook*.npy` and `results/codebooks.json`: the noise of each beside that of the best uniform grid of as
many bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from torch import Tensor

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.system.environment import environment

HIGHEST: Final = 63
"""Of the levels: two products with a uint8 sum up to 2 x 63 x 255 < 2^15, which even CPUs without VNNI add exactly."""

SAMPLES: Final = 400_000
ROUNDS: Final = 100
PER_BYTE: Final = {4: 2, 3: 3, 2: 4}


def nearest(vectors: Tensor, table: Tensor) -> Tensor:
    """Index of the row of `table` `[256, K]` that is closest to each of `vectors` `[n, K]`."""
    return torch.cat([torch.cdist(part, table).argmin(1) for part in torch.split(vectors, 65536)])


def lloyd(vectors: Tensor) -> Tensor:
    table = vectors[:256].clone()
    for _ in range(ROUNDS):
        index = nearest(vectors, table)
        counts = index.bincount(minlength=256)[:, None]
        table = torch.zeros_like(table).index_add_(0, index, vectors) / counts.clamp(min=1)
    return table


def decibels(signal: Tensor, error: Tensor) -> float:
    return float(10 * torch.log10(signal.square().mean() / error.square().mean()))


def uniform(values: Tensor, levels: int) -> float:
    """Decibels of the best grid of so many equal steps."""
    best = 0.0
    for step in torch.linspace(0.05, 1.5, 600):
        grid = ((values / step - 0.5).round() + 0.5).clamp(-(levels - 1) / 2, (levels - 1) / 2) * step
        best = max(best, decibels(values, values - grid))
    return best


@click.command()
def main() -> None:
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    for bits, size in PER_BYTE.items():
        table = lloyd(torch.randn(SAMPLES, size, generator=generator))
        levels = (table * (HIGHEST / table.abs().max())).round()
        held_out = torch.randn(SAMPLES, size, generator=generator)
        vectors = levels[nearest(held_out, table)]
        unit = float((held_out * vectors).sum() / vectors.square().sum())
        error = held_out - levels[nearest(held_out, levels * unit)] * unit
        grid = uniform(held_out.reshape(-1), {4: 16, 3: 6, 2: 4}[bits])
        rows.append({
            "bits": 8 / size, "levels_together": size, "unit": unit, "db": decibels(held_out, error), "uniform_db": grid
        })  # fmt: skip
        order = np.lexsort(levels.numpy().T[::-1])
        np.save(Path(edgeq.__file__).parent / "assets" / f"codebook{bits}.npy", levels.numpy()[order].astype(np.int8))
        click.echo(rows[-1])
    results = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "codebooks.json"
    write_json(results, "codebooks", 1, {"environment": environment(), "codebooks": rows})


if __name__ == "__main__":
    main()
