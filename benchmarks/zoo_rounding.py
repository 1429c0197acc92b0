"""Layers rounded to nearest: seconds where GPTQ takes minutes, and neither kernels nor speeds depend on it."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.numerics.weights import (
    HIGHEST,
    HIGHEST_REDUCED,
    WIDTHS,
    BitWidth,
    Float,
    QuantLayer,
    QuantTensor,
    starting_scales,
    storable,
)

_CELLS: Final = {2: 63, 3: 31, 4: 15}
"""How many cells an axis of a codebook has, by the levels in a byte. Levels get the vector nearest to their cell."""


def round_to_nearest(network: Network, node: Node) -> dict[int, QuantLayer]:
    """A layer at every width; its bias stays as it is."""
    weight, bias = (value.numpy() for value in network.weight_and_bias(node.name))
    return {width.bits: QuantLayer(_nearest(weight, width), bias) for width in WIDTHS}


def _nearest(weight: Float, width: BitWidth) -> QuantTensor:
    rows = weight.reshape(len(weight), -1)
    scale = storable(np.abs(rows).max(axis=1) / HIGHEST) if width.bits == 8 else starting_scales(weight, width)
    return QuantTensor(_bytes(rows / scale[:, None], width), weight.shape, scale, width)


def _bytes(levels: Float, width: BitWidth) -> NDArray[np.uint8]:
    """The bytes of real-valued levels `[out, fan-in]`, uint8 `[ceil(out / K), fan-in]`."""
    if width.bits == 8:
        return np.rint(levels).clip(-HIGHEST, HIGHEST).astype(np.int8).view(np.uint8)
    outputs, inputs = levels.shape
    filled = np.pad(levels, ((0, -outputs % width.per_byte), (0, 0)))
    far = _CELLS[width.per_byte] // 2
    cells = np.rint(filled * (far / HIGHEST_REDUCED)).clip(-far, far).astype(np.int32) + far
    found: NDArray[np.uint8] = _table(width)[tuple(cells.reshape(-1, width.per_byte, inputs).swapaxes(0, 1))]
    return found


@cache
def _table(width: BitWidth) -> NDArray[np.uint8]:
    """The nearest vector of a codebook for every cell, uint8 `[cells, ...]`, an axis for each level in a byte."""
    ends = np.linspace(-HIGHEST_REDUCED, HIGHEST_REDUCED, _CELLS[width.per_byte], dtype=np.float32)
    middles = np.stack(np.meshgrid(*[ends] * width.per_byte, indexing="ij"), -1)
    codebook = width.codebook.astype(np.float32)
    nearest: NDArray[np.int64] = (np.square(codebook).sum(axis=1) - 2 * middles @ codebook.T).argmin(axis=-1)
    return nearest.astype(np.uint8)
