"""The runtime PyTorch, on the CPU, for packed and float networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.ir.batches import Images
from edgeq.ir.network import Network, as_tensor
from edgeq.packed.file import load_packed
from edgeq.runtimes.jobs import Inputs, Job, Run
from edgeq.runtimes.torch_native import to_native
from edgeq.system.threads import side_by_side, stage_threads, torch_threads

_AT_ONCE: Final = 4  # images of a batch that run together on a thread


def open_torch(job: Job) -> Run:
    """Load a packed network into PyTorch. The native engine runs it where its activations are quantized.

    Raises:
        ArtifactError: as for `load_packed`.
        UnsupportedError: as for `to_native`.
    """
    network = load_packed(Path(job.file))
    if not network.graph.quantized:
        return _run(network, job)
    try:
        return _run(to_native(network), job)
    except UnsupportedError as error:
        way_out = "--runtime torch-reference takes PyTorch alone"
        raise UnsupportedError(f"{job.file}: {error}; {way_out}", error.layer) from error


def open_torch_reference(job: Job) -> Run:
    """Load a packed network as modules of PyTorch alone, what files are compared with.

    Raises:
        ArtifactError: as for `load_packed`.
    """
    return _run(load_packed(Path(job.file)), job)


def _run(module: nn.Module, job: Job) -> Run:
    torch.set_num_threads(job.threads)

    def run(inputs: Sequence[NDArray[Any]]) -> object:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs))

    return run


def float_runner(network: Network) -> Callable[[Inputs], dict[str, NDArray[np.float32]]]:
    """Return a float network as a function from its inputs to its outputs by name.

    Images run side by side on all threads. The function raises `DataError` for inputs that do not fit, see `Images.of`.
    """
    names = [output.name for output in network.graph.outputs]

    def run(batch: Inputs) -> dict[str, NDArray[np.float32]]:
        images = Images.of(network.graph, batch)
        few = [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]
        with torch.inference_mode(), torch_threads(stage_threads()):
            made = list(side_by_side(lambda part: _outputs(network, part), few, at_once=2))
        return {name: torch.cat(parts).numpy() for name, *parts in zip(names, *made, strict=True)}

    return run


def _outputs(network: Network, images: Images) -> tuple[Tensor, ...]:
    found = network(*map(as_tensor, images.arrays))
    return (found,) if isinstance(found, Tensor) else found
