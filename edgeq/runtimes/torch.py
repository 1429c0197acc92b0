"""The runtime PyTorch, on the CPU, for packed and float networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.errors import UnsupportedError
from edgeq.ir.network import Network, as_tensor
from edgeq.packed.file import load_packed
from edgeq.runtimes.jobs import Job, Run, Runner
from edgeq.system.threads import side_by_side, stage_threads, torch_threads

_AT_ONCE: Final = 4  # images of a batch that run together on a thread


def open_torch(job: Job) -> Run:
    """Load a packed network into PyTorch.

    Raises:
        ArtifactError: as for `load_packed`.
    """
    torch.set_num_threads(job.threads)
    module = load_packed(Path(job.file)).eval()

    def run(inputs: Sequence[NDArray[Any]]) -> object:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs))

    return run


def float_runner(network: Network) -> Runner:
    """Return a float network as a function from images to logits; images run side by side on all threads."""

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch_threads(stage_threads()):
            parts = torch.split(as_tensor(images), _AT_ONCE)
            made = list(side_by_side(network, parts, at_once=2))
        if not isinstance(made[0], Tensor):
            names = ", ".join(output.name for output in network.graph.outputs)
            raise UnsupportedError(f"expected a network with one output, the logits, found {names}")
        logits: NDArray[np.float32] = torch.cat(made).numpy()
        return logits

    return run
