"""Costs of a network: multiply-accumulates, BitOps, bytes. Counted densely: a zero weight costs like any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log2, prod
from typing import Final

from edgeq.artifacts.record import CalibrationRecord, LayerInfo
from edgeq.numerics.trellis import sequences
from edgeq.numerics.weights import BitWidth, fills, packed_bytes, packed_shape

FLOAT_BITS: Final = 32
_DECODER: Final = 560  # most bytes of the nodes and constants that make a decoder of a table
_MATRIX_HEAD: Final = 32  # most bytes of a small matrix' name, type and shape


def macs(weight_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of a convolution for one image.

    Args:
        weight_shape: `[out, in / groups, height, width]`.
        output_shape: `[out, height, width]`.
    """
    return prod(output_shape) * prod(weight_shape[1:])


def bitops(multiplies: int, weight_bits: float, activation_bits: int) -> int:
    """Return the BitOps as most papers count them: MACs x weight bits x activation bits (HAQ, arXiv:1811.08886).

    Bits of a weight count as whole ones: 3 for those that are stored in 2.67, and 2 for 1.6 and 1.33.
    """
    return multiplies * ceil(weight_bits) * activation_bits


def bitops_with_accumulator(layer: LayerInfo, weight_bits: float, activation_bits: int) -> float:
    """Return the BitOps of UNIQ (arXiv:1804.10969), with additions: MACs x (bw ba + bw + ba + log2(fan-in)), of whole
    bits as in `bitops`."""
    whole, fan_in = ceil(weight_bits), prod(layer.shape[1:])
    return layer.macs * (whole * activation_bits + whole + activation_bits + log2(fan_in))


def weight_bytes(layer: LayerInfo, bits: float) -> int:
    """Return the bytes of the packed weights alone; 32 bits are float weights."""
    return layer.weights * 4 if bits == FLOAT_BITS else packed_bytes(layer.shape, BitWidth(bits))


def layer_bytes(layer: LayerInfo, bits: float) -> int:
    """Return the bytes of weights and biases, and of scales below 32 bits.

    A channel takes 4 bytes: a float32 bias at 32 bits, else scale and bias in float16.
    """
    return weight_bytes(layer, bits) + 4 * layer.channels


def stored_bytes(record: CalibrationRecord, layer: LayerInfo, bits: float) -> int:
    """Return the bytes of a layer in the file: `layer_bytes` and, below 8 bits, the operators that decode it."""
    if bits >= 8:
        return layer_bytes(layer, bits)
    cut = 0 if fills(layer.shape, BitWidth(bits)) else record.cut_layer_bytes
    return layer_bytes(layer, bits) + record.packed_layer_bytes + cut


def trellis_bytes(layers: Iterable[LayerInfo], widths: Iterable[float]) -> int:
    """Return the most bytes of what layers share that have one of some widths, if each layer may have any of them.

    It is a table for each width below 8 bits, with the operators that make a decoder of it, and a matrix that pairs the
    bytes of a sequence for each length of sequences.
    """
    below = [BitWidth(bits) for bits in set(widths) if bits < 8]
    lengths = {sequences(packed_shape(layer.shape, width)[0])[1] for layer in layers for width in below}
    tables = sum(width.trellis.table.nbytes + _DECODER for width in below)
    return tables + sum(length**2 + _MATRIX_HEAD for length in lengths)


def file_bytes(record: CalibrationRecord, bits: Mapping[str, float]) -> int:
    """Predict the bytes of the ONNX file: an upper bound, unless a scale or bias does not fit float16.

    Args:
        record: calibration record of the network.
        bits: width of each layer by name; 32 is float.
    """
    layers = sum(stored_bytes(record, layer, bits[layer.name]) for layer in record.layers)
    return record.graph_bytes + trellis_bytes(record.layers, bits.values()) + layers
