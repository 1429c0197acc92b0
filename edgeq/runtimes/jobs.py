"""Jobs: the interface of all runtimes, a model file and the input to run it on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError

Runtime = Literal["onnxruntime", "openvino", "torch"]
Run = Callable[[NDArray[Any]], object]
"""Runs a loaded model once, on an input of its job's shape and type."""

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A model as a function from float32 images `[n, 3, H, W]` to float32 logits `[n, classes]`."""

_SEED: Final = 0


@dataclass(frozen=True)
class Job:
    """A model file to run on the CPU with inputs of one shape: float32 `[batch, C, H, W]` or uint8 `[batch, H, W, C]`.

    Attributes:
        runtime: name of the runtime, a key of `edgeq.runtimes.opening.OPENERS`.
        file: path of the file that the runtime loads.
        shape: shape of the input.
        threads: number of threads of the runtime.
        dtype: type of the input, `float32` or `uint8`.
    """

    runtime: str
    file: str
    shape: tuple[int, ...]
    threads: int
    dtype: str = "float32"

    @staticmethod
    def of(runtime: str, file: str, image: Sequence[int], batch: int, threads: int, pixels: bool) -> Job:
        """Return a job for images of shape `(C, H, W)`, as float32 or, with `pixels`, as uint8 with channels last."""
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


def random_input(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """Return standard normal values, or uniform ones for uint8; always the same for a shape and type."""
    generator = np.random.default_rng(_SEED)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)
