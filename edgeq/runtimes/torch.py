"""PyTorch on the CPU, which runs packed networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.ir.network import Network, as_tensor
from edgeq.packed.file import load_packed
from edgeq.runtimes.jobs import Job, Run, Runner
from edgeq.system.threads import side_by_side, stage_threads, torch_threads

_AT_ONCE: Final = 4  # images in a part of a batch


def open_torch(job: Job) -> Run:
    """The opener of PyTorch."""
    torch.set_num_threads(job.threads)
    module = load_packed(Path(job.file)).eval()

    def run(x: NDArray[Any]) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(x))

    return run


def float_runner(network: Network) -> Runner:
    """A float network as a function from images to logits."""

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch_threads(stage_threads()):
            parts = torch.split(as_tensor(images), _AT_ONCE)
            logits: NDArray[np.float32] = torch.cat(list(side_by_side(network, parts, at_once=2))).numpy()
        return logits

    return run
