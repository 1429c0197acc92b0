"""Layers rounded to nearest: seconds where GPTQ takes minutes, and neither kernels nor speeds depend on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.native.encoder import Encoder
from edgeq.numerics.trellis import sequences
from edgeq.numerics.weights import (
    HIGHEST,
    WIDTHS,
    BitWidth,
    Float,
    QuantLayer,
    QuantTensor,
    packed_shape,
    starting_scales,
    storable,
)


def round_to_nearest(network: Network, node: Node) -> dict[float, QuantLayer]:
    """A layer at every width; its bias stays as it is."""
    weight, bias = (value.numpy() for value in network.weight_and_bias(node.name))
    return {width.bits: QuantLayer(_nearest(weight, width), bias) for width in WIDTHS}


def _nearest(weight: Float, width: BitWidth) -> QuantTensor:
    rows = weight.reshape(len(weight), -1)
    scale = storable(np.abs(rows).max(axis=1) / HIGHEST) if width.bits == 8 else starting_scales(weight, width)
    return QuantTensor(_bytes(rows / scale[:, None], width), weight.shape, scale, width)


def _bytes(levels: Float, width: BitWidth) -> NDArray[np.uint8]:
    """The bytes of real-valued levels `[out, fan-in]`, uint8 `[rows, fan-in]`."""
    if width.bits == 8:
        return np.rint(levels).clip(-HIGHEST, HIGHEST).astype(np.int8).view(np.uint8)
    rows, inputs = packed_shape(levels.shape, width)
    count, length = sequences(rows)
    filled = np.pad(levels.T, ((0, 0), (0, rows * width.per_byte - len(levels))))
    targets = filled.reshape(inputs * count, length, width.per_byte)
    found = Encoder(width.trellis).encode(targets, np.ones_like(targets))
    return np.ascontiguousarray(found.reshape(inputs, rows).T)
