"""Inputs that browsers compute as well, for known answers."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.data.preprocess import Preprocess
from edgeq.ir.batches import Images
from edgeq.ir.graph import Graph

IMAGES: Final = 2


def asked(graph: Graph, pixels: bool, preprocess: Preprocess | None) -> Images:
    """What `check()` of edgeq.js runs a network on.

    Args:
        graph: of the packed network.
        pixels: whether its program takes the image in uint8.
        preprocess: of its images, if it takes any.
    """
    inputs = enumerate(graph.inputs)
    found = [[_input(number * 16 + i, one.shape, pixels, preprocess) for number in range(IMAGES)] for i, one in inputs]
    return Images(tuple(map(np.concatenate, found)))


def pattern(number: int, count: int) -> NDArray[np.uint8]:
    """Noise on stripes: `pattern` of edgeq.js, uint8 `[count]`."""
    i = np.arange(count, dtype=np.uint32)
    return ((_hash(i, number) & 127) + (_hash(i >> np.uint32(10), number + 8) & 127)).astype(np.uint8)


def _hash(i: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    x: NDArray[Any] = i * np.uint32(2654435761) + np.uint32(number * 40503)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return np.asarray((x ^ (x >> np.uint32(16))) >> np.uint32(24), np.uint32)


def _input(number: int, shape: tuple[int, ...], pixels: bool, preprocess: Preprocess | None) -> NDArray[np.float32]:
    """What a network takes of a pattern, float32 `[1, *shape]`; pixels lie with their channels last in the pattern."""
    codes = pattern(number, prod(shape))
    if pixels:
        channels, rows, columns = shape
        last = codes.reshape(1, rows, columns, channels).astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(np.moveaxis(last, 3, 1))
    if preprocess is None:
        return ((codes.astype(np.float32) - np.float32(127.5)) / np.float32(64)).reshape(1, *shape)
    axis = [-1, 1, 1] if preprocess.layout == "channels_first" else [1, 1, -1]
    mean, std = (np.array(values, np.float32).reshape(axis) for values in (preprocess.mean, preprocess.std))
    normalized: NDArray[np.float32] = (codes.reshape(1, *shape).astype(np.float32) / np.float32(255) - mean) / std
    return normalized
