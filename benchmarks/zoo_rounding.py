"""Layers rounded to nearest: seconds where the encoder takes minutes, and neither kernels nor speeds depend on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.numerics.trellis import NODES, sequences
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
    return np.ascontiguousarray(_step_by_step(targets, width).reshape(inputs, rows).T)


def _step_by_step(targets: Float, width: BitWidth) -> NDArray[np.uint8]:
    """Bytes `[sequences, bytes]` of levels `[sequences, bytes, K]`: of each step, the levels nearest to its own.

    The last byte, from which a sequence starts, is 0, whatever its levels should be.
    """
    code = width.trellis
    made = np.zeros(targets.shape[:2], np.uint8)
    for place in range(targets.shape[1] - 1):
        node = made[:, place - 1].astype(np.int64)
        parts = np.split(targets[:, place], len(code.steps), axis=1)
        for number, (step, wanted) in enumerate(zip(code.steps, parts, strict=True)):
            first, levels = code.lookup(number)
            choices = levels.astype(np.float32)[first[node, None] + np.arange(1 << step.bits)]
            new = np.square(choices - wanted[:, None]).sum(axis=2).argmin(axis=1)
            node = ((node << step.bits) + new) % NODES
        made[:, place] = node
    return made
