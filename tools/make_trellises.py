"""Make the tables of the trellis codes that come with edgeq.

    python tools/make_trellises.py 1.6 1.33 1

Lloyd's algorithm (doi:10.1109/TIT.1982.1056489) with an encoder that sees ahead: sequences of independent normal values
are encoded, and each entry becomes the mean of the values that it stood for. The tables start with random values, since
random trellis codes are good ones. They are stretched so that the largest value is `HIGHEST`, and rounded to int8.
Writes `edgeq/assets/trellis*.npy` of the widths that are named, since those of files that are out there must stay.
Measures all in `results/trellises.json`: the noise of each, beside that of the best uniform grid of about as many bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.native.encoder import Encoder
from edgeq.numerics.trellis import RADIX, Step, Trellis
from edgeq.numerics.weights import STEPS, BitWidth, starting_scales
from edgeq.system.environment import environment

HIGHEST: Final = 63
"""Of the levels: two products with a uint8 sum up to 2 x 63 x 255 < 2^15, which even CPUs without VNNI add exactly."""

SEQUENCES: Final = 1500
MEASURED: Final = 3000
BYTES: Final = 31
ROUNDS: Final = 80
KEPT: Final = 8.0
"""How many values the present value of an entry counts as much as, so that rare ones stay where they are."""

Values = NDArray[np.float32]


def trained(steps: tuple[Step, ...], rng: np.random.Generator) -> Values:
    """A table for values of variance 1, float32, as `Trellis.table`."""
    per_byte = sum(step.weights for step in steps)
    spread = float(np.sqrt(1 - 4.0 ** (-8 / per_byte)))
    starts = [rng.standard_normal((step.entries, step.weights)).T for step in dict.fromkeys(steps)]
    table: Values = (np.concatenate([start.reshape(-1) for start in starts]) * spread).astype(np.float32)
    for _ in range(ROUNDS):
        values = rng.standard_normal((SEQUENCES, BYTES, per_byte)).astype(np.float32)
        code = Trellis(steps, table)
        data = Encoder(code).encode(values, np.ones_like(values))
        windows = RADIX * np.roll(data, 1, axis=1).astype(np.int64) + data
        index = code.index(windows)
        counts = np.bincount(index.reshape(-1), minlength=len(table))
        sums = np.zeros_like(table)
        np.add.at(sums, index, values)
        table = np.asarray((sums + KEPT * table) / (counts + KEPT), np.float32)
    return table


def decibels(signal: Values, error: Values) -> float:
    return float(10 * np.log10(np.square(signal).mean() / np.square(error).mean()))


def uniform(values: Values, levels: int) -> float:
    """Decibels of the best grid of so many equal steps."""
    best = 0.0
    for step in np.linspace(0.05, 2.0, 200):
        grid = np.clip(np.rint(values / step - 0.5) + 0.5, -(levels - 1) / 2, (levels - 1) / 2) * step
        best = max(best, decibels(values, values - grid))
    return best


def noise(code: Trellis, unit: float, values: Values) -> float:
    """Decibels of a code with a scale."""
    decoded = code.decode(Encoder(code).encode(values / np.float32(unit), np.ones_like(values)))
    return decibels(values, values - decoded * np.float32(unit))


@click.command()
@click.argument("made", nargs=-1, type=click.Choice([str(bits) for bits in STEPS]), metavar="BITS...")
def main(made: tuple[str, ...]) -> None:
    rows: list[dict[str, Any]] = []
    for bits, steps in STEPS.items():
        path, rng = Path(edgeq.__file__).parent / "assets" / f"trellis{bits}.npy", np.random.default_rng(0)
        if str(bits) in made:
            table = trained(steps, rng)
            np.save(path, np.rint(table * (HIGHEST / np.abs(table).max())).astype(np.int8))
        code = Trellis(steps, np.load(path))
        unit = float(starting_scales(np.ones((1, 1), np.float32), BitWidth(bits))[0])
        values = rng.standard_normal((MEASURED, BYTES, code.per_byte)).astype(np.float32)
        if str(bits) in made:
            units = np.linspace(0.8, 1.6, 41) / np.std(code.decoder)
            best = max(units, key=lambda one: noise(code, one, values[: MEASURED // 4]))
            click.echo(f"{bits} bits: the best scale is {best:.4f}, that of weights.py {unit:.4f}")
        rows.append({
            "bits": 8 / code.per_byte, "weights_a_byte": code.per_byte, "unit": unit, "db": noise(code, unit, values),
            "uniform_db": uniform(values.reshape(-1), round(2 ** (8 / code.per_byte))),
        })  # fmt: skip
        click.echo(rows[-1])
    results = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "trellises.json"
    write_json(results, "trellises", 1, {"environment": environment(), "trellises": rows})


if __name__ == "__main__":
    main()
