"""What a network costs: multiply-accumulates, BitOps, bytes. Counted densely: a zero weight costs like any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log2, prod
from typing import Final

from edgeq.artifacts.record import CalibrationRecord, LayerInfo
from edgeq.numerics.weights import BitWidth, packed_bytes

FLOAT_BITS: Final = 32
_CODEBOOK_HEAD: Final = 64  # at most: the name, type and shape of a codebook


def macs(weight_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a convolution or linear layer for one image.

    Args:
        weight_shape: `[out, in / groups, height, width]` or `[out, in]`.
        output_shape: `[out, height, width]` or `[out]`.
    """
    return prod(output_shape) * prod(weight_shape[1:])


def bitops(layer: LayerInfo, weight_bits: int, activation_bits: int) -> int:
    """BitOps as most papers count them: MACs x weight bits x activation bits (HAQ, arXiv:1811.08886).

    Width 3 counts as 3 bits, although it is stored in 2.67.
    """
    return layer.macs * weight_bits * activation_bits


def bitops_with_accumulator(layer: LayerInfo, weight_bits: int, activation_bits: int) -> float:
    """BitOps of UNIQ (arXiv:1804.10969): MACs x (bw ba + bw + ba + log2(n k^2)), the additions counted too."""
    fan_in = prod(layer.shape[1:])
    return layer.macs * (weight_bits * activation_bits + weight_bits + activation_bits + log2(fan_in))


def weight_bytes(layer: LayerInfo, bits: int) -> int:
    """Bytes of the weights alone, packed; 32 bits means float."""
    return layer.weights * 4 if bits == FLOAT_BITS else packed_bytes(layer.shape, BitWidth(bits))


def layer_bytes(layer: LayerInfo, bits: int) -> int:
    """Bytes of the weights and, for each channel, of a float32 bias, or of scale and bias in float16 below 32 bits."""
    return weight_bytes(layer, bits) + 4 * layer.channels


def stored_bytes(record: CalibrationRecord, layer: LayerInfo, bits: int) -> int:
    """Bytes that a layer takes in the file: its own and, below 8 bits, those of the operators that decode it."""
    return layer_bytes(layer, bits) + (record.packed_layer_bytes if bits < 8 else 0)


def codebook_bytes(widths: Iterable[int]) -> int:
    """Bytes of the codebooks, int8 `[256, K]` one for each width below 8 bits, at most."""
    return sum(256 * BitWidth(bits).per_byte + _CODEBOOK_HEAD for bits in set(widths) if bits < 8)


def file_bytes(record: CalibrationRecord, bits: Mapping[str, int]) -> int:
    """Bytes of the ONNX file: never fewer than it has, unless a scale or bias does not fit float16.

    Args:
        record: of the network.
        bits: width of each layer by name; 32 is float.
    """
    layers = sum(stored_bytes(record, layer, bits[layer.name]) for layer in record.layers)
    return record.graph_bytes + codebook_bytes(bits.values()) + layers
