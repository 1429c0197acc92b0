"""What the quantization steps before and behind a layer ask of its scales and its bias.

Integer kernels add up `weight level x input code` in int32, and the bias as an int32 number of `weight scale x input
step` (Jacob et al., arXiv:1712.05877, section 2.4). Where the weights of a channel are nearly zero, because training
has switched it off, the scale that suits them is so small that an ordinary bias is beyond int32: runtimes saturate it,
and the channel is another one. So every scale is at least as large as its bias needs. The weights of such a channel
become coarser, which nobody sees: what they add is far less than the bias, and less than a step of the output.
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
_LEAST_ROOM: Final = 2**27  # for a bias in int32, however many products are added to it
_CODES: Final = 255  # the highest code of an input
_BIAS_ERROR: Final = 1 / 4  # of a step of the output: the most that rounding a bias to float16 may move it
_UNSEEN: Final = 1 / 16  # of a step of the output: what the weights of a channel may be off by
_MARGIN: Final = 1.15  # as float16 moves the least scales by an eighth at most


@dataclass(frozen=True)
class Steps:
    """The quantization steps before and behind a layer.

    Attributes:
        input: scale of its input in uint8; None if the input is float.
        output: scale of the range of its output, whether that is stored in uint8 or not.
    """

    input: float | None
    output: float


def layer_steps(graph: Graph, node: Node, ranges: Mapping[str, ActivationRange], act_bits: int) -> Steps:
    """The steps of one layer.

    Args:
        graph: of the float network.
        node: the layer.
        ranges: of every value that gets a quantizer.
        act_bits: 8, or 32 for float activations.
    """
    output = ranges[stored_as(graph, node.name, ranges)].scale
    return Steps(ranges[node.inputs[0]].scale if act_bits == 8 else None, output)


def least_scales(bias: Float, steps: Steps, fan_in: int, spread: float) -> Float:
    """Return the least scale of each output channel that does everything a scale is for, float32 `[out]`.

    Its bias and every sum of products fit into int32 together. And rounding to its levels is not far below a step of
    the output, which is no use: the scale of a channel that is switched off is left within float16, where files keep
    scales.

    Args:
        bias: float32 `[out]`, before the weights are rounded. Rounding moves it by less than all products add up to.
        steps: of the layer.
        fan_in: weights of an output.
        spread: root of the summed variances of all that an output reads.
    """
    unseen = _UNSEEN * steps.output / (HIGHEST_REDUCED * spread) if spread > 0 else 0.0
    least = np.full(bias.shape, unseen)
    if steps.input is not None:
        room = max(_INT32 - 2 * fan_in * HIGHEST * _CODES, _LEAST_ROOM)
        least = np.maximum(least, np.abs(bias.astype(np.float64)) / (room * steps.input))
    return storable((_MARGIN * least).astype(np.float32))


def stored_bias(bias: Float, scale: Float, steps: Steps) -> Float:
    """Round a bias to what files and kernels hold, float32 `[out]`.

    Args:
        bias: float32 `[out]`.
        scale: of the weights, `[out]`, at least those of `least_scales`.
        steps: of the layer; integer kernels add the bias in units of `scale x input step`.
    """
    if steps.input is not None:
        unit = np.maximum(scale * np.float32(steps.input), np.finfo(np.float32).tiny)
        bias = np.rint(bias / unit) * unit
    return half_precision(bias.astype(np.float32), _BIAS_ERROR * steps.output)
