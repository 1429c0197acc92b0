"""Inputs that a browser computes as well, and what ONNX Runtime makes of them: known answers."""

from __future__ import annotations

from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.data.preprocess import Preprocess
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import overflows, runner
from edgeq.ir.batches import Images
from edgeq.ir.network import Network

IMAGES: Final = 2


def answers(network: Network, pixels: bool, preprocess: Preprocess | None) -> NDArray[np.float32]:
    """Run ONNX Runtime on the inputs that `check()` of edgeq.js makes.

    Args:
        network: packed.
        pixels: whether it takes the image in uint8.
        preprocess: of its images, if it takes any.

    Returns:
        All outputs of all images behind each other, float32 `[values]`.
    """
    made = translate(network, pixels)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(made.model.SerializeToString())
        run = runner(made, path, exact=overflows(network))
        found = list[NDArray[Any]]()
        for number in range(IMAGES):
            arrays = [
                _input(number * 16 + i, one.shape, pixels, preprocess) for i, one in enumerate(network.graph.inputs)
            ]
            found += run(Images(arrays))
    return np.concatenate([np.asarray(one, np.float32).reshape(-1) for one in found])


def pattern(number: int, count: int) -> NDArray[np.uint8]:
    """Noise on stripes: `pattern` of edgeq.js, uint8 `[count]`."""
    i = np.arange(count, dtype=np.uint32)
    return ((_hash(i, number) & 127) + (_hash(i >> 10, number + 8) & 127)).astype(np.uint8)


def _hash(i: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    x = i * np.uint32(2654435761) + np.uint32(number * 40503)
    x = (x ^ (x >> 15)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return (x ^ (x >> 16)) >> np.uint32(24)


def _input(number: int, shape: tuple[int, ...], pixels: bool, preprocess: Preprocess | None) -> NDArray[np.float32]:
    """What a network takes of a pattern, `[1, *shape]`: that of pixels has its channels last."""
    codes = pattern(number, prod(shape))
    if pixels:
        channels, rows, columns = shape
        return np.moveaxis(codes.reshape(1, rows, columns, channels), 3, 1).astype(np.float32) / np.float32(255)
    if preprocess is None:
        return ((codes.astype(np.float32) - np.float32(127.5)) / np.float32(64)).reshape(1, *shape)
    axis = [-1, 1, 1] if preprocess.layout == "channels_first" else [1, 1, -1]
    mean, std = (np.array(values, np.float32).reshape(axis) for values in (preprocess.mean, preprocess.std))
    normalized: NDArray[np.float32] = (codes.reshape(1, *shape).astype(np.float32) / np.float32(255) - mean) / std
    return normalized
