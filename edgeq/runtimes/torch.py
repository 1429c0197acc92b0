"""PyTorch on the CPU, which runs packed networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edgeq.packed.file import load_packed
from edgeq.runtimes.jobs import Job, Run


def open_torch(job: Job) -> Run:
    """The opener of PyTorch."""
    torch.set_num_threads(job.threads)
    module = load_packed(Path(job.file)).eval()

    def run(x: NDArray[Any]) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(x))

    return run
