"""What another busy process does to edgeq: calibration and export, alone and beside it.

    python benchmarks/contention.py

MobileNetV3 small with random weights on 16 images of 96 x 96 pixels, each time in a fresh process, imports left out.
The other process runs convolutions in torch without end. Both states take turns; every sample goes to
`benchmarks/results/contention.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, Final

import click
import numpy as np
import torch
from torchvision.models import mobilenet_v3_small

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.system.environment import environment
from edgeq.system.threads import stage_threads

SHAPE: Final = (3, 96, 96)
WARM_UP_SECONDS: Final = 5  # until the other process is busy
STATES: Final = ("quiet", "beside")

Cost = dict[str, float]
"""`seconds` of a stage, and `cpu_seconds` of all threads together."""


@contextmanager
def busy(threads: int) -> Iterator[None]:
    """Another process that keeps so many threads of torch busy, in a session of its own as another user's is."""
    command = [sys.executable, __file__, "--load", str(threads)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            sleep(WARM_UP_SECONDS)
            yield
        finally:
            process.kill()


def load(threads: int) -> None:
    torch.set_num_threads(threads)
    layer, x = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(4, 64, 56, 56)
    with torch.inference_mode():
        while True:
            layer(x).relu_()


def measure() -> dict[str, Cost]:
    """What each stage costs, in this process."""
    torch.manual_seed(0)
    batches = [np.random.default_rng(i).standard_normal((8, *SHAPE), np.float32) for i in range(2)]
    network = edgeq.trace(mobilenet_v3_small(weights=None).eval(), SHAPE)
    found: dict[str, Cost] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = perf_counter(), process_time()
        result = work()
        found[name] = {"seconds": round(perf_counter() - wall, 3), "cpu_seconds": round(process_time() - cpu, 3)}
        return result

    def exported() -> None:
        plan = edgeq.plan(record, "4bit")
        layers = edgeq.quantize(network, record, plan, batches)
        packed = edgeq.pack(network, layers, record, plan)
        with tempfile.TemporaryDirectory() as folder:
            edgeq.export(packed, Path(folder) / "net.onnx", record, plan, batches)

    record = timed("calibrate", lambda: edgeq.calibrate(network, batches))
    timed("export, 4bit, fast", exported)
    return found


def in_fresh_process() -> dict[str, Cost]:
    """`measure`, in one."""
    done = subprocess.run([sys.executable, __file__, "--measure"], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Cost] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True, help="Of the other process.")
@click.option("--measure", "measures", is_flag=True, hidden=True)
@click.option("--load", "loads", type=int, hidden=True)
def main(rounds: int, threads: int, measures: bool, loads: int | None) -> None:
    if loads is not None:
        load(loads)
    if measures:
        click.echo(json.dumps(measure()))
        return
    samples: dict[str, dict[str, list[Cost]]] = {}
    for number in range(rounds):
        for state in STATES if number % 2 == 0 else STATES[::-1]:
            with busy(threads) if state == "beside" else nullcontext():
                found = in_fresh_process()
            click.echo(f"{state}: {found}", err=True)
            for work, cost in found.items():
                samples.setdefault(work, {name: [] for name in STATES})[state].append(cost)
    body = {"environment": environment(), "threads": stage_threads(), "load_threads": threads, "samples": samples}
    write_json(Path(__file__).parent / "results" / "contention.json", "contention", 1, body)


if __name__ == "__main__":
    main()
