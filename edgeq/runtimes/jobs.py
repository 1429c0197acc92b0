"""A file to run in a runtime, by name: what every runtime can do.

Runtimes are imported only when one is asked for: an import costs memory, which `edgeq.evaluation.memory` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, EdgeqError, one_line

Runtime = Literal["onnxruntime", "openvino", "torch"]
Run = Callable[[NDArray[Any]], object]
"""Runs a loaded model once on an input of its job's shape and type."""

_SEED: Final = 0


@dataclass(frozen=True)
class Job:
    """A file to load into a runtime on the CPU; it takes float32 `[batch, C, H, W]` or uint8 `[batch, H, W, C]`."""

    runtime: str
    file: str
    shape: tuple[int, ...]
    threads: int
    dtype: str = "float32"

    @staticmethod
    def of(runtime: str, file: str, image: Sequence[int], batch: int, threads: int, pixels: bool) -> Job:
        """A job for images of `(C, H, W)`, taken as floats in planes or as pixels with the channels last."""
        channels, *size = image
        if pixels:
            return Job(runtime, file, (batch, *size, channels), threads, "uint8")
        return Job(runtime, file, (batch, channels, *size), threads)


def model_file(runtime: str, path: Path) -> Path:
    """Return the file that the runtime loads for the .onnx file `path`: for torch, the .safetensors beside it.

    Raises:
        ArtifactError: there is no such .safetensors file.
    """
    if runtime != "torch":
        return path
    packed = path.with_suffix(".safetensors")
    if not packed.exists():
        raise ArtifactError(f"{packed}: the torch runtime needs this file beside {path.name}; export it again")
    return packed


def open_model(job: Job) -> Run:
    """Load a model and run it once.

    Raises:
        UnsupportedError: the runtime is not installed.
        ArtifactError: the runtime cannot load or run the model.
    """
    try:
        run = OPENERS[job.runtime](job)
        run(random_input(job.shape, job.dtype))
    except EdgeqError:
        raise
    except Exception as error:  # every runtime raises its own classes
        problem = f"{job.file}: {job.runtime} cannot run it on a {job.dtype} input {list(job.shape)}"
        raise ArtifactError(f"{problem}: {one_line(error)}") from error
    return run


def torch_threads_of(jobs: Sequence[Job]) -> AbstractContextManager[None]:
    """Torch on as many threads as its jobs want, where it has any: their number belongs to the whole process."""
    wanted = [job.threads for job in jobs if job.runtime == "torch"]
    if not wanted:
        return nullcontext()
    from edgeq.system.threads import torch_threads

    return torch_threads(wanted[0])


def random_input(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """Return standard normal values, or for uint8 any pixels, always the same for a shape."""
    generator = np.random.default_rng(_SEED)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)


def _onnxruntime(job: Job) -> Run:
    from edgeq.runtimes.onnxruntime import open_onnxruntime

    return open_onnxruntime(job)


def _openvino(job: Job) -> Run:
    from edgeq.runtimes.openvino import open_openvino

    return open_openvino(job)


def _torch(job: Job) -> Run:
    from edgeq.runtimes.torch import open_torch

    return open_torch(job)


OPENERS: Final[dict[str, Callable[[Job], Run]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
}
