"""What a network costs: multiply-accumulates, BitOps, bytes. Counted densely: a zero weight costs like any other."""

from __future__ import annotations

from math import log2, prod

from edgeq.pack import packed_bytes
from edgeq.quantize import BitWidth
from edgeq.record import LayerInfo

FLOAT_BITS = 32


def macs(weight_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a convolution or linear layer for one image.

    Args:
        weight_shape: `[out, in / groups, height, width]` or `[out, in]`.
        output_shape: `[out, height, width]` or `[out]`.
    """
    return prod(output_shape) * prod(weight_shape[1:])


def bitops(layer: LayerInfo, weight_bits: int, activation_bits: int) -> int:
    """BitOps as most papers count them: MACs x weight bits x activation bits (HAQ, arXiv:1811.08886)."""
    return layer.macs * weight_bits * activation_bits


def bitops_with_accumulator(layer: LayerInfo, weight_bits: int, activation_bits: int) -> float:
    """BitOps of UNIQ (arXiv:1804.10969): MACs x (bw ba + bw + ba + log2(n k^2)), the additions counted too."""
    fan_in = prod(layer.shape[1:])
    return layer.macs * (weight_bits * activation_bits + weight_bits + activation_bits + log2(fan_in))


def weight_bytes(layer: LayerInfo, bits: int) -> int:
    """Bytes of the weights alone, packed; 32 bits means float."""
    return layer.weights * 4 if bits == FLOAT_BITS else packed_bytes(layer.weights, BitWidth(bits))


def layer_bytes(layer: LayerInfo, bits: int) -> int:
    """Bytes of the weights, the float32 bias and, unless the weights are float, one float32 scale a channel."""
    per_channel = 4 if bits == FLOAT_BITS else 8
    return weight_bytes(layer, bits) + per_channel * layer.channels
