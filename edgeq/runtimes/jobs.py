"""Jobs: the interface of all runtimes, a model file and the input to run it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError

Runtime = Literal["onnxruntime", "openvino", "torch", "torch-reference", "native"]
PYTORCH: Final = ("torch", "torch-reference")
PACKED: Final = (*PYTORCH, "native")
"""Those that run the packed network beside an ONNX file, not the file; they need no session."""

Run = Callable[[Sequence[NDArray[Any]]], object]
"""Runs a loaded model once, on inputs of its job's shapes and types."""

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A model as a function from float32 images `[n, 3, H, W]` to float32 logits `[n, classes]`."""

Inputs = NDArray[np.float32] | Mapping[str, NDArray[np.float32]]
"""What a model takes for some images: float32 `[n, ...]`; if it has several inputs, one array each by name."""

Outputs = Mapping[str, NDArray[Any]]
"""All outputs of a model for some images by name, each of the type and shape that it has in the model."""

Model = Callable[[Any], NDArray[Any] | Outputs]
"""A model as a function from `Inputs` to its outputs; one that has a single output may return it without a name."""

_SEED: Final = 0


class TensorType(NamedTuple):
    """The shape and the type of an input, `float32` or `uint8`."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Job:
    """A model file to run on the CPU with inputs of fixed shapes.

    Attributes:
        runtime: name of the runtime, a key of `edgeq.runtimes.opening.OPENERS`.
        file: path of the file that the runtime loads.
        inputs: in the order in which the model has them.
        threads: number of threads of the runtime.
    """

    runtime: str
    file: str
    inputs: tuple[TensorType, ...]
    threads: int

    @staticmethod
    def of(runtime: str, file: str, image: Sequence[int], batch: int, threads: int, pixels: bool) -> Job:
        """Return a job for images of shape `(C, H, W)`, as float32 or, with `pixels`, as uint8 with channels last."""
        channels, *size = image
        shape = (batch, *size, channels) if pixels else (batch, channels, *size)
        return Job(runtime, file, (TensorType(shape, "uint8" if pixels else "float32"),), threads)


def model_file(runtime: str, path: Path) -> Path:
    """Return the file with what the runtime runs for the .onnx file `path`: for PyTorch and the native engine, the
    .safetensors beside it.

    Raises:
        ArtifactError: there is no such .safetensors file.
    """
    if runtime not in PACKED:
        return path
    packed = path.with_suffix(".safetensors")
    if not packed.exists():
        raise ArtifactError(f"{packed}: the {runtime} runtime needs this file beside {path.name}; export it again")
    return packed


def random_inputs(job: Job) -> list[NDArray[Any]]:
    """Return standard normal values, or uniform ones for uint8; always the same for the same shapes and types."""
    return [_random(*one) for one in job.inputs]


def _random(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    generator = np.random.default_rng(_SEED)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)
