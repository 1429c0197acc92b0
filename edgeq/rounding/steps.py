"""Constraints on the scales and the bias of a layer from the quantization steps of its input and output.

Integer kernels accumulate `weight level x input code` in int32, and add the bias as an int32 multiple of `weight scale
x input scale` (Jacob et al., arXiv:1712.05877, section 2.4). If training has switched a channel off, its weights are
nearly zero, and their best scale is so small that an ordinary bias overflows int32: runtimes saturate it, and the
channel's output is wrong. So every scale is at least as large as its bias needs. The weights of such a channel become
coarser, which is harmless: they add far less than the bias, and less than a step of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeq.ir.analysis import stored_as
from edgeq.ir.graph import Graph
from edgeq.ir.node import Node
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import HIGHEST, HIGHEST_REDUCED, Float, half_precision, storable

_INT32: Final = 2**31 - 1
_LEAST_ROOM: Final = 2**27  # room for a bias in int32, however many products are added to it
_CODES: Final = 255  # the highest code of an input
_BIAS_ERROR: Final = 1 / 4  # largest error of a bias in float16, in steps of the output
_UNSEEN: Final = 1 / 16  # error of a channel's weights that does not matter, in steps of the output
_MARGIN: Final = 1.15  # rounding to float16 changes the smallest scales by up to an eighth


@dataclass(frozen=True)
class Steps:
    """The quantization steps of a layer's input and output.

    Attributes:
        input: scale of its input in uint8; None if the input is float.
        output: scale of its output in uint8, even if the output is float.
    """

    input: float | None
    output: float


def layer_steps(graph: Graph, node: Node, ranges: Mapping[str, ActivationRange], act_bits: int) -> Steps:
    """Return the quantization steps of one layer.

    Args:
        graph: graph of the float network.
        node: the layer.
        ranges: range of every value that gets a quantizer, by name.
        act_bits: 8, or 32 for float activations.
    """
    output = ranges[stored_as(graph, node.name, ranges)].scale
    return Steps(ranges[node.inputs[0]].scale if act_bits == 8 else None, output)


def least_scales(bias: Float, steps: Steps, fan_in: int, spread: float) -> Float:
    """Return the smallest useful scale of each output channel, float32 `[out]`.

    With it, the bias and every sum of products fit into int32 together. It is also not so small that rounding errors
    are far below a step of the output, which gains nothing: so the scale of a channel that is switched off stays within
    float16, in which files store scales.

    Args:
        bias: float32 `[out]`, before the weights are rounded. Rounding changes it by less than the sum of all products.
        steps: quantization steps of the layer.
        fan_in: number of weights of an output.
        spread: root of the summed variances of an output's inputs.
    """
    unseen = _UNSEEN * steps.output / (HIGHEST_REDUCED * spread) if spread > 0 else 0.0
    least = np.full(bias.shape, unseen)
    if steps.input is not None:
        room = max(_INT32 - 2 * fan_in * HIGHEST * _CODES, _LEAST_ROOM)
        least = np.maximum(least, np.abs(bias.astype(np.float64)) / (room * steps.input))
    return storable((_MARGIN * least).astype(np.float32))


def stored_bias(bias: Float, scale: Float, steps: Steps) -> Float:
    """Round a bias to values that kernels and files represent exactly, float32 `[out]`.

    Args:
        bias: float32 `[out]`.
        scale: scales of the weights, float32 `[out]`, at least those of `least_scales`.
        steps: quantization steps of the layer; integer kernels add the bias in units of `scale x input scale`.
    """
    if steps.input is not None:
        unit = np.maximum(scale * np.float32(steps.input), np.finfo(np.float32).tiny)
        bias = np.rint(bias / unit) * unit
    return half_precision(bias.astype(np.float32), _BIAS_ERROR * steps.output)
