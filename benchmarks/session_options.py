"""Memory and speed of exported files under the settings of ONNX Runtime that trade one for the other.

    python benchmarks/session_options.py FILE.onnx...            # writes results/session_options.json
    python benchmarks/session_options.py memory JOB              # see edgeq.evaluation.memory.measure_memory

Memory is that of a fresh process over one with an empty session, the middle of some; the time of a run is measured in
one process in which all settings take turns. A setting of the C library's allocator is that of a process: its memory is
measured only.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np

from edgeq.artifacts.files import write_json
from edgeq.evaluation.latency import from_path, interleaved
from edgeq.evaluation.memory import empty_model, measure_memory, memory_in_fresh_process
from edgeq.runtimes.jobs import Job
from edgeq.runtimes.onnxruntime import open_onnxruntime
from edgeq.runtimes.opening import OPENERS
from edgeq.system.environment import environment

PROCESSES: Final = 5
RUNS: Final = 100
WARM_UP: Final = 10
ALLOCATOR: Final = ("MALLOC_MMAP_THRESHOLD_", "65536")
"""For glibc: what is larger comes from the system by itself, and goes back to it when it is freed."""

SETTINGS: Final[dict[str, dict[str, bool | str]]] = {
    "as it is": {},
    "no memory arena": {"enable_cpu_mem_arena": False},
    "no memory pattern": {"enable_mem_pattern": False},
    "neither": {"enable_cpu_mem_arena": False, "enable_mem_pattern": False},
    "no prepacking": {"session.disable_prepacking": "1"},
    "initializers outside of the arena": {"session.use_device_allocator_for_initializers": "1"},
}
"""Attributes of SessionOptions, and its configuration entries."""


OPENERS.update({name: partial(open_onnxruntime, settings=settings) for name, settings in SETTINGS.items()})


def memory(job: Job) -> dict[str, float]:
    with empty_model("onnxruntime") as empty:
        found = [memory_in_fresh_process(job, empty, (__file__, "memory")) for _ in range(PROCESSES)]
    return {
        name: statistics.median(getattr(one, name) for one in found)
        for name in ("load_ms", "peak_rss_bytes", "uss_bytes")
    }


def main(*files: str) -> None:
    rows: list[dict[str, Any]] = []
    for file in files:
        model = from_path(Path(file))
        jobs = [replace(model.job("onnxruntime", 1, 1), runtime=name) for name in SETTINGS]
        samples = interleaved(jobs, RUNS, WARM_UP, lambda done: None)
        base = float(np.median(samples[0]))
        for job, times in zip(jobs, samples, strict=True):
            ratio = float(np.median(times)) / base
            row = {"file": Path(file).stem, "setting": job.runtime, "time_over_as_it_is": ratio, "samples_ms": times}
            rows.append(row | memory(job))
        with mock.patch.dict(os.environ, [ALLOCATOR]):
            rows.append({"file": Path(file).stem, "setting": "=".join(ALLOCATOR)} | memory(jobs[0]))
    output = Path(__file__).parent / "results" / "session_options.json"
    write_json(output, "session_options", 1, {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    if sys.argv[1] == "memory":
        measure_memory(sys.argv[2])
    else:
        main(*sys.argv[1:])
