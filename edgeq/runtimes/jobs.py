"""A file to run in a runtime: what is asked of every runtime."""

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
"""Runs a loaded model once on an input of its job's shape and type."""

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 images `[n, 3, H, W]` -> float32 logits `[n, classes]`."""

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


def random_input(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """Return standard normal values, or for uint8 any pixels, always the same for a shape."""
    generator = np.random.default_rng(_SEED)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)
