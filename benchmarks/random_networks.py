"""Whatever network it is, the file computes what PyTorch does: random ones, with channels that training switched off.

    python benchmarks/random_networks.py --networks 200

The networks are those of `tests/drawn.py`: two thirds of them have channels with weights, or a gamma of a batch norm,
between 1e-9 and 10 times what is usual, and biases of thirty times that. Each file is compared with the packed PyTorch
module in ONNX Runtime, with and without optimizations, and in OpenVINO. Everything goes to
`benchmarks/results/random_networks.json`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.errors import ParityError
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import compare
from edgeq.system.environment import environment, int8_overflows

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from drawn import SIZE, in_openvino, networks, openvino_takes, through_stages  # noqa: E402 (after the path)
from nets import images  # noqa: E402

SHAPE: Final = (3, SIZE, SIZE)
SCHEMES: Final = ("8bit", "4bit", "2bit", "adaptive")
STEPS: Final = 8


def measured(module: nn.Module, scheme: str, odd: bool, seed: int) -> dict[str, Any]:
    """One network through all stages; 8-bit weights have a reduced range where this CPU would overflow."""
    made = through_stages(module, scheme, odd, seed)
    network, record, packed, batches = made.network, made.record, made.packed, made.batches
    x = images(8, seed + 2, SHAPE)
    row = {"scheme": scheme, "odd": odd, "seed": seed, "layers": len(network.graph.layers)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        try:
            edgeq.export(packed, path, record, made.plan, batches)
        except ParityError as error:
            return {**row, "refused": str(error)}
        found = compare(translate(packed), path, record.activations, [x])
        logits = found.outputs["logits"]
        with torch.inference_mode():
            expected, floats = packed(torch.from_numpy(x)).numpy(), network(torch.from_numpy(batches[0])).numpy()
        third = None
        if openvino_takes(module):
            third = float((np.abs(in_openvino(path, x) - expected) <= STEPS * logits.step).mean())
        # On calibration images: of others, such small networks make values far beyond the ranges.
        noise = np.square(edgeq.onnx_runner(path)(batches[0]) - floats).sum()
    return {
        **row,
        "nodes_within_one_step": found.nodes_within_one_step,
        "worst_channel": found.worst_channel,
        "within_eight_steps": logits.within_eight_steps,
        "optimized_within_eight_steps": logits.optimized_within_eight_steps,
        "openvino_within_eight_steps": third,
        "sqnr_db": round(10 * float(np.log10(np.square(floats).sum() / noise)), 1) if noise else None,
    }


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Draw and measure so many networks."""
    made: list[dict[str, Any]] = []

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(networks(), st.sampled_from(SCHEMES), st.sampled_from([True, True, False]), st.integers(0, 10_000))
    def go(module: nn.Module, scheme: str, odd: bool, seed: int) -> None:
        made.append(measured(module, scheme, odd, seed))
        click.echo(f"{len(made)} of {count}: {made[-1]}", err=True)

    go()
    yield from made


@click.command()
@click.option("--networks", "count", type=int, default=200, show_default=True)
def main(count: int) -> None:
    """Measure, store, and say what is worst."""
    torch.set_num_threads(1)
    found = list(rows(count))
    body = {"environment": environment(), "portable": int8_overflows(), "rows": found}
    write_json(ROOT / "benchmarks" / "results" / "random_networks.json", "random-networks", 1, body)
    written = [row for row in found if "refused" not in row]
    click.echo(f"{len(found)} networks, {len(found) - len(written)} refused")
    for key in ("nodes_within_one_step", "within_eight_steps", "optimized_within_eight_steps"):
        click.echo(f"{key}, of the worst network: {min(row[key] for row in written):.2%}")
    in_third = [share for row in written if (share := row["openvino_within_eight_steps"]) is not None]
    click.echo(f"openvino_within_eight_steps, of the worst of {len(in_third)}: {min(in_third):.2%}")
    for scheme in SCHEMES:
        signal = [row["sqnr_db"] for row in written if row["scheme"] == scheme and row["sqnr_db"] is not None]
        click.echo(f"SQNR at {scheme}: {min(signal)} dB at least, {np.median(signal):.1f} dB in the middle")
    click.echo(f"worst channel: {max(row['worst_channel'] for row in written):.2f} steps")


if __name__ == "__main__":
    main()
