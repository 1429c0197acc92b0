"""Broken and hostile programs of the native engine: libFuzzer on `eq_open` and on the kernels behind it.

    python benchmarks/robustness/fuzz_native.py                # twenty minutes; writes results/fuzz_native.json
    python benchmarks/robustness/fuzz_native.py --seconds 60   # less; writes no results

Seeds are the programs of small networks with all kinds of steps, and of every operator in float. What `eq_open` takes
is run with the inner loops of every instruction set that this processor has, in buffers of exactly the sizes that the
program names, under the address sanitizer and that for undefined behaviour; sums of hostile weights may wrap (-fwrapv,
as in setup.py). Needs clang with libFuzzer.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.lowering.floats import OPERATORS
from edgeq.lowering.lower import lower
from edgeq.native.program import Kind, Program
from edgeq.system.environment import environment

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from float_cases import CASES, network_of  # noqa: E402 (after the path)

SECONDS: Final = 1200
SHAPE: Final = (3, 12, 12)
SOURCES: Final = Path(edgeq.__file__).parent / "native" / "sources"
TARGET: Final = Path(__file__).with_suffix(".c")
RESULTS: Final = ROOT / "benchmarks" / "results" / "fuzz_native.json"
FLAGS: Final = (
    "-std=gnu99", "-O1", "-g", "-fwrapv", "-ffp-contract=off", "-fno-sanitize-recover=undefined",
    "-fsanitize=fuzzer,address,undefined",
)  # fmt: skip


class Net(nn.Module):
    """A stem and a classifier with 12 channels between them, which something works on."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.alone = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.wide, self.narrow = nn.Conv2d(12, 72, 1), nn.Conv2d(72, 12, 1)
        self.grouped, self.last = nn.Conv2d(12, 20, (3, 2), 1, 2, 2, 4), nn.LazyLinear(5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.between(self, self.stem(x).relu()).flatten(1))
        return y


def _shuffled(x: Tensor) -> Tensor:
    return x.reshape(-1, 3, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


NETS: Final[dict[str, Callable[[Net, Tensor], Tensor]]] = {
    "block": lambda net, x: (x + net.narrow(F.hardswish(net.wide(x)))).mean((2, 3)),
    "rows": lambda net, x: x + net.narrow(net.wide(net.alone(x).relu()).relu()),
    "gate": lambda net, x: x * net.narrow(net.wide(x.mean((2, 3), keepdim=True)).relu()).sigmoid(),
    "joined": lambda net, x: torch.cat([F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(F.silu(net.alone(x)), 2)], 1),
    "gathered": lambda net, x: x + net.alone(x).relu()[:, [4, 0, 9, 1, 1, 7, 2, 11, 3, 8, 5, 6]],
    "shares": lambda net, x: (net.alone(x).flatten(2).softmax(1) * x.flatten(2)).mean(2),
    "moved": lambda net, x: F.pad(net.grouped(_shuffled(x)).relu()[:, 1:7], (1, 0, 2, 1)).transpose(2, 3),
}


def programs() -> Iterator[tuple[str, Program]]:
    """Programs of all networks at all widths and with scaling in integers, and of every operator in float."""
    for name, between in NETS.items():
        torch.manual_seed(0)
        module = Net(between).eval()
        module(torch.zeros(1, *SHAPE))
        images = [np.random.default_rng(0).random((4, *SHAPE), np.float32)]
        network = edgeq.trace(module, SHAPE)
        record = edgeq.calibrate(network, images)
        for scheme in ("8bit", "4bit", "2bit"):
            plan = edgeq.plan(record, scheme)
            packed = edgeq.pack(network, edgeq.quantize(network, record, plan, images), record, plan)
            yield f"{name}-{scheme}", lower(packed)
        yield f"{name}-integer", lower(packed).in_integers()
    for operator in sorted(OPERATORS):
        for number, case in enumerate(CASES[operator]):
            yield f"{operator}-{number}", lower(network_of(operator, case))


def make_seeds(folder: Path) -> None:
    """Write the programs, in which every kind of step is."""
    missing = {*Kind}
    for name, program in programs():
        (folder / name).write_bytes(program.to_bytes())
        missing -= {step.kind for step in program.steps}
    if missing:
        raise SystemExit(f"no seed has {', '.join(kind.name for kind in missing)}")


def fuzz(seconds: int, folder: Path) -> tuple[int, int, str]:
    """Compile the target and run it: executions, edges that were covered, and what it says of a failure, if any."""
    sources = [TARGET, *sorted({*SOURCES.glob("*.c")} - {SOURCES / "here.c"})]  # the target includes it
    target, seeds, found = folder / "target", folder / "seeds", folder / "found"
    subprocess.run(["clang", *FLAGS, f"-I{SOURCES}", *map(str, sources), "-o", str(target)], check=True)
    for each in (seeds, found):
        each.mkdir()
    make_seeds(seeds)
    options = [f"-max_total_time={seconds}", "-max_len=65536", "-timeout=60", "-seed=1", "-print_final_stats=1"]
    options += [f"-artifact_prefix={Path.cwd()}/", str(found), str(seeds)]
    ran = subprocess.run([str(target), *options], capture_output=True, text=True, check=False)
    counts = re.findall(r"number_of_executed_units: (\d+)|cov: (\d+)", ran.stderr)
    executed = max((int(units) for units, _ in counts if units), default=0)
    covered = max((int(edges) for _, edges in counts if edges), default=0)
    failed = re.search(r"^.*(?:ERROR: |runtime error: ).*$", ran.stderr, re.MULTILINE)
    return executed, covered, (failed[0] if failed else "") or ("" if ran.returncode == 0 else ran.stderr[-2000:])


@click.command()
@click.option("--seconds", default=SECONDS, show_default=True)
def main(seconds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        executed, covered, failure = fuzz(seconds, Path(folder))
    print(f"{executed:,} executions, {covered:,} edges, {failure or 'no failure'}")
    if failure:
        sys.exit(1)
    if seconds == SECONDS:
        body = {"seconds": seconds, "executions": executed, "edges": covered, "environment": environment()}
        write_json(RESULTS, "fuzz-native", 1, body)


if __name__ == "__main__":
    main()
