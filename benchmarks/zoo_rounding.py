"""Layers rounded to nearest: seconds where GPTQ takes minutes, and neither kernels nor speeds depend on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.numerics.weights import WIDTHS, BitWidth, Float, QuantLayer, QuantTensor, starting_scales


def round_to_nearest(network: Network, node: Node) -> dict[int, QuantLayer]:
    """A layer at every width; its bias stays as it is."""
    weight, bias = (value.numpy() for value in network.weight_and_bias(node.name))
    return {width.bits: QuantLayer(_nearest(weight, width), bias) for width in WIDTHS}


def _nearest(weight: Float, width: BitWidth) -> QuantTensor:
    scale = starting_scales(weight, width)
    return QuantTensor(_bytes(weight.reshape(len(weight), -1) / scale[:, None], width), weight.shape, scale, width)


def _bytes(levels: Float, width: BitWidth) -> NDArray[np.uint8]:
    """The bytes of real-valued levels `[out, fan-in]`, uint8 `[ceil(out / K), fan-in]`."""
    if width.bits == 8:
        return np.rint(levels).clip(-width.highest, width.highest).astype(np.int8).view(np.uint8)
    outputs, inputs = levels.shape
    filled = np.pad(levels, ((0, -outputs % width.per_byte), (0, 0)))
    vectors = filled.reshape(-1, width.per_byte, inputs).transpose(0, 2, 1)
    table = width.codebook.astype(np.float32)
    norms = np.square(table).sum(axis=1)
    return np.stack([(norms - 2 * row @ table.T).argmin(axis=1) for row in vectors]).astype(np.uint8)
