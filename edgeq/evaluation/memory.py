"""Measure memory and load time of a model in a fresh process (`python -m edgeq.evaluation.memory`).

The process first opens a session of the same runtime with an empty model, and both numbers are in addition to that: the
cost of the runtime itself is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

import psutil

from edgeq.errors import ArtifactError
from edgeq.runtimes.jobs import PACKED, Job, Runtime, TensorType, random_inputs
from edgeq.runtimes.opening import OPENERS, open_model

_MEMORY_RUNS: Final = 5  # runs before memory is read


@dataclass(frozen=True)
class Memory:
    """Memory and load time of one model, in addition to those of the runtime with an empty session.

    Attributes:
        load_ms: milliseconds from the file to a session that is ready to run.
        peak_rss_bytes: peak resident set size while loading and running five times, above that of the empty session.
        uss_bytes: unique set size after the five runs, above that of the empty session.
        peak_method: how the peak was measured.
    """

    load_ms: float
    peak_rss_bytes: int
    uss_bytes: int
    peak_method: str


@contextmanager
def empty_model(runtime: Runtime) -> Iterator[str | None]:
    """Yield the file of an ONNX model of one Identity node; None for runtimes that need no session."""
    if runtime in PACKED:
        yield None
        return
    onnx = import_module("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 1, 1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "empty", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "empty.onnx")
        yield str(Path(folder) / "empty.onnx")


def memory_in_fresh_process(
    job: Job, empty: str | None, script: Sequence[str] = ("-P", "-m", "edgeq.evaluation.memory")
) -> Memory:
    """Load and run a model in a new process, after the model that `empty_model` yields for the runtime.

    Args:
        job: the model to load.
        empty: the empty model, from `empty_model`.
        script: Python's arguments for the process, which must call `measure_memory`; another script can add runtimes.

    Raises:
        ArtifactError: the process failed; the message quotes its last line.
    """
    command = [sys.executable, *script, json.dumps([asdict(job), empty])]
    # The same edgeq as here, whatever folder of that name the process starts in: -P, and this one first.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=found)
    if child.returncode:
        reason = child.stderr.strip().rpartition("\n")[2] or f"its process ended with {child.returncode}"
        raise ArtifactError(f"{job.file}: cannot measure the memory it takes in {job.runtime}: {reason}")
    return Memory(**json.loads(child.stdout.splitlines()[-1]))  # runtimes may print before the last line


def _measure_memory(job: Job, empty: str | None) -> Memory:
    """Load and run the model in this process, which must be a fresh one."""
    inputs = random_inputs(job)
    # Load the runtime itself first. The session is kept, so that the model cannot reuse its memory.
    nothing = (TensorType((1, 1, 1, 1)),)
    paid = _imported(job.runtime) if empty is None else open_model(Job(job.runtime, empty, nothing, job.threads))
    before = psutil.Process().memory_full_info()
    read_peak, method = _peak_reader()
    start = time.perf_counter_ns()
    run = OPENERS[job.runtime](job)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    for _ in range(_MEMORY_RUNS):
        run(inputs)
    uss = psutil.Process().memory_full_info().uss - before.uss
    del paid
    return Memory(load_ms, read_peak() - before.rss, uss, method)


def _imported(runtime: str) -> object:
    if runtime == "native":
        from edgeq.runtimes.native import open_native

        return open_native
    from edgeq.runtimes.torch import open_torch

    return open_torch


def _peak_reader() -> tuple[Callable[[], int], str]:
    """Return a function that reads the peak RSS in bytes, from now on if it can be reset, and how it is measured."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        resource = import_module("resource")
        unit = 1 if sys.platform == "darwin" else 1024
        return lambda: int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit, "ru_maxrss of the whole process"
    return _vm_hwm, "VmHWM, reset before the model is loaded"


def _vm_hwm() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure_memory(argument: str) -> None:
    """Measure in this process, the child of `memory_in_fresh_process`, and print the result as one line of JSON."""
    job, empty = json.loads(argument)
    inputs = tuple(TensorType(tuple(shape), dtype) for shape, dtype in job["inputs"])
    print(json.dumps(asdict(_measure_memory(Job(**{**job, "inputs": inputs}), empty))))


if __name__ == "__main__":
    measure_memory(sys.argv[1])
