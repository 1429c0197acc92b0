"""What is left to the machine's limit: the native engine's time by kind of layer, beside that of its products alone.

    python benchmarks/native_limit.py exports/mobilenet_v2-{8bit,4bit}.onnx --store

The limit is how many products of bytes this processor's dot-product instruction makes a second at the clock that it
has: measured by a loop that does nothing else. Times of steps are medians, taken by a program in C that is compiled
here, without Python; what reading the clock takes is small, and stays in them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import click
from shared import publish

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.lowering.files import program_of
from edgeq.native.program import Kind, Program, Step
from edgeq.system.environment import environment

SOURCES: Final = Path(edgeq.__file__).parent / "native" / "sources"
TIMER: Final = Path(__file__).with_name("native_steps.c")
LEFT_OUT: Final = ("file.c", "wasm.c")
FLAGS: Final = ("-std=gnu99", "-O3", "-ffp-contract=off", "-fwrapv")  # as setup.py compiles


def layer_of(step: Step) -> str:
    """What a step is in the table."""
    if step.kind == Kind.DEPTHWISE:
        return "depthwise"
    if step.kind != Kind.CONVOLUTION:
        return {Kind.QUANTIZE: "input", Kind.ADD: "sums"}.get(step.kind, "others")
    if step.out_rows * step.out_columns == 1:
        return "linear"
    return "1 x 1" if step.kernel_rows * step.kernel_columns == 1 else "k x k"


def products_of(step: Step) -> int:
    """How many products of an input and a weight a step sums up."""
    if step.kind not in (Kind.CONVOLUTION, Kind.DEPTHWISE):
        return 0
    each = step.kernel_rows * step.kernel_columns * step.channels // step.groups
    return step.out_rows * step.out_columns * step.out_channels * each


def timed(program: Program, runs: int) -> dict[str, Any]:
    """Compile the timer, and run it on a program."""
    with tempfile.TemporaryDirectory() as folder:
        file, timer = Path(folder) / "net.eqp", Path(folder) / "timer"
        file.write_bytes(program.to_bytes())
        sources = [str(path) for path in SOURCES.glob("*.c") if path.name not in LEFT_OUT]
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, *FLAGS, f"-I{SOURCES}", str(TIMER), *sources, "-lm", "-o", str(timer)], check=True)
        found = subprocess.run([str(timer), str(file), str(runs)], check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout))


def account(program: Program, runs: int) -> dict[str, Any]:
    """Time and products by kind of layer."""
    found, layers = timed(program, runs), dict[str, dict[str, float]]()
    for step, spent in zip(program.steps, found.pop("steps_us"), strict=True):
        row = layers.setdefault(layer_of(step), {"us": 0.0, "products": 0})
        row["us"] += spent
        row["products"] += products_of(step)
    return found | {"layers": layers}


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--runs", default=500, show_default=True, help="Timed runs of each.")
@click.option("--store", is_flag=True, help="Store what was found.")
def main(files: tuple[Path, ...], runs: int, store: bool) -> None:
    found = {path.stem: account(program_of(path.with_suffix(".safetensors"), False), runs) for path in files}
    for name, one in found.items():
        limit = sum(row["products"] for row in one["layers"].values()) / max(one["products_a_ns"], 1e-9) / 1e3
        click.echo(f"{name}: {one['whole_us']:.0f} us, products alone {limit:.0f} us ({one['kernels']})")
        for layer, row in sorted(one["layers"].items(), key=lambda item: -item[1]["us"]):
            click.echo(f"  {layer:10} {row['us']:8.1f} us  {row['products'] / row['us'] / 1e3:6.1f} products/ns")
    if store:
        report = Path(tempfile.mkdtemp()) / "native_limit.json"
        body = {"environment": environment(), "runs": runs, "files": found}
        write_json(report, "native-limit", 1, body)
        publish(report, Path(__file__).parent / "results" / "native_limit.json", [report.parent])


if __name__ == "__main__":
    main()
