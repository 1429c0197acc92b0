"""The weights of a layer in ONNX: packed bytes, and the standard operators that decode them.

A layer below 8 bits is kept as its packed bytes; standard operators turn them into int8 weights
(`edgeq.numerics.trellis` has the arithmetic):

    packed uint8 [sequences, bytes, fan-in] -> MatMulInteger(pairs uint8 [bytes, bytes], packed) -> Gather(decoder)
      -> Transpose -> Reshape(-1, in / groups, rows, columns) -> [Slice if there are more channels] -> DequantizeLinear

A row of `pairs` has 224 for the byte before and 1 for the byte itself, so the product makes U of all bytes at once, in
int32. `decoder` int8 [57376, K] has the levels of every U. It is made of the table of its width, once in a file:

    Range(57376) -> Reshape(-1, 1) -> Div(2^left) -> Mod(224 x 2^bits) -> Mod(entries) -> Add(start) -> Gather(trellis)

with `K` divisors, moduli, entries and starts: those of each weight of a byte.

All of it before DequantizeLinear is constant. A runtime computes it once when it loads the file, finds int8 weights
between DequantizeLinear and Conv as in any quantized model, and fuses them into its integer convolution. 8-bit layers
are int8 initializers (plain QDQ). With float activations, DequantizeLinear would stay in the graph and run on every
inference, because runtimes keep it out of constant folding; there Cast and Mul do its work and fold.

The weights of a convolution that reads groups of pixels (`edgeq.exporters.onnx.space_to_depth`) are laid out for them
before DequantizeLinear, and those of one with merged groups (`edgeq.exporters.onnx.merged_groups`) get zeros there:

    levels -> Reshape(groups, merged, out, 1, fan-in) -> Cast -> Mul(identity [merged, 1, merged, 1]) -> Cast -> Reshape

Scales and biases of packed layers are float16 initializers with a Cast to float32, which folds too, wherever float16
holds all their values exactly; else they are float32. So the conversion never changes a result.
"""

from __future__ import annotations

from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from edgeq.exporters.onnx.merged_groups import MergedGroups
from edgeq.exporters.onnx.space_to_depth import SpaceToDepthConv2d
from edgeq.ir.ops.op import Writer
from edgeq.numerics.trellis import PAIRS, RADIX, sequences
from edgeq.numerics.weights import BitWidth, as_stored, fills
from edgeq.packed.modules import PackedConv2d


def as_array(value: Tensor | nn.Module) -> NDArray[Any]:
    """A parameter of a module."""
    return cast(Tensor, value).detach().contiguous().cpu().numpy()


def write_parameters(writer: Writer, name: str, layer: nn.Module, in_integers: bool) -> tuple[str, str]:
    """Write the weight and the bias of a layer.

    Args:
        writer: of the graph.
        name: of the layer, for its constants.
        layer: packed or float.
        in_integers: whether the activations are quantized, so that runtimes can compute the layer in integers.

    Returns:
        The names of the float32 weight and bias, as a Conv reads them.
    """
    if isinstance(layer, SpaceToDepthConv2d):
        return _over_groups(writer, name, layer)
    count, layer = (layer.count, layer.layer) if isinstance(layer, MergedGroups) else (1, layer)
    if not isinstance(layer, PackedConv2d):
        weight = writer.constant(f"{name}.weight", as_array(layer.weight))
        return weight, writer.constant(f"{name}.bias", as_array(layer.bias))
    bias = _floats(writer, f"{name}.bias", as_array(layer.bias))
    levels, scale = _levels(writer, name, layer), as_array(layer.scale)
    levels = _merged(writer, name, levels, layer, count) if count > 1 else levels
    if in_integers:
        return _dequantized(writer, name, levels, _floats(writer, f"{name}.scale", scale)), bias
    factors = _floats(writer, f"{name}.scale", scale.reshape(-1, 1, 1, 1))
    floats = writer.node("Cast", [levels], to=TensorProto.FLOAT)
    return writer.node("Mul", [floats, factors], f"{name}.weight"), bias


def _over_groups(writer: Writer, name: str, layer: SpaceToDepthConv2d) -> tuple[str, str]:
    """As `SpaceToDepthConv2d.spread` lays weights out; what a channel has is repeated for each output of a group."""
    bias = _floats(writer, f"{name}.bias", as_array(layer.layer.bias))
    levels = _levels(writer, name, layer.layer)
    ends = writer.constant(f"{name}.ends", np.array([0, 0, 0, 0, 0, 0, 0, 1], np.int64))
    taps = [writer.node("Pad", [levels, ends]), writer.constant(f"{name}.taps", layer.groups.taps)]
    spread = writer.node("Gather", taps, axis=3)
    ordered = writer.node("Transpose", [spread], perm=[3, 0, 5, 1, 2, 4])
    shape = writer.constant(f"{name}.groups", np.array(layer.shape, np.int64))
    laid_out = writer.node("Reshape", [ordered, shape])
    scale = _floats(writer, f"{name}.scale", as_array(layer.layer.scale))
    scales = writer.node("Concat", [scale] * layer.groups.outputs, axis=0)
    weight = _dequantized(writer, name, laid_out, scales)
    return weight, writer.node("Concat", [bias] * layer.groups.outputs, axis=0)


def _merged(writer: Writer, name: str, levels: str, layer: PackedConv2d, count: int) -> str:
    """Weights of so many groups as those of one, with 0 where an output does not read a group."""
    (out, depth, *kernel), groups = layer.shape, layer.geometry[-1]
    apart = np.array([groups // count, count, out // groups, 1, depth * prod(kernel)], np.int64)
    cut = writer.node("Reshape", [levels, writer.constant(f"{name}.apart", apart)])
    own = writer.constant(f"own{count}", np.eye(count, dtype=np.int32).reshape(count, 1, count, 1))
    # ONNX Runtime multiplies no int8.
    spread = writer.node("Mul", [writer.node("Cast", [cut], to=TensorProto.INT32), own])
    shape = writer.constant(f"{name}.merged", np.array([out, count * depth, *kernel], np.int64))
    return writer.node("Reshape", [writer.node("Cast", [spread], to=TensorProto.INT8), shape])


def _dequantized(writer: Writer, name: str, levels: str, scale: str) -> str:
    # Without a zero point DequantizeLinear takes 0, and each channel saves a byte.
    return writer.node("DequantizeLinear", [levels, scale], f"{name}.weight", axis=0)


def _levels(writer: Writer, name: str, layer: PackedConv2d) -> str:
    """The weights in int8."""
    width, packed = BitWidth(layer.bits), as_array(layer.packed)
    if width.bits == 8:
        # ONNX Runtime's exact kernels (session.x64quantprecision) fail where two layers share their weights.
        return writer.constant(f"{name}.int8", packed.view(np.int8).reshape(layer.shape), shared=False)
    return _decoded(writer, name, packed, layer.shape, width)


def _decoded(writer: Writer, name: str, packed: NDArray[np.uint8], shape: list[int], width: BitWidth) -> str:
    """Weights below 8 bits, decoded."""
    count, length = sequences(len(packed))
    cut = writer.constant(f"{name}.packed", packed.reshape(count, length, -1))
    one = np.eye(length, dtype=np.uint8)
    pairs = writer.constant(f"pairs{length}", one + RADIX * np.roll(one, -1, axis=1))
    decoder = writer.shared(f"decoder{width.bits}", lambda: _write_decoder(writer, width))
    levels = writer.node("Gather", [decoder, writer.node("MatMulInteger", [pairs, cut])], axis=0)
    values = writer.node("Transpose", [levels], perm=[0, 1, 3, 2])
    rows = writer.node("Reshape", [values, writer.constant(f"{name}.shape", np.array([-1, *shape[1:]], np.int64))])
    if fills(tuple(shape), width):
        return rows
    ends = [writer.constant(f"int{v}", np.array([v], np.int64)) for v in (0, shape[0])]
    return writer.node("Slice", [rows, *ends])


def _write_decoder(writer: Writer, width: BitWidth) -> None:
    """The levels of every U, from the table of a width."""
    bits, (lefts, moduli, entries, starts) = width.bits, np.array(width.trellis.places, np.int32).T

    def numbers(name: str, values: int | NDArray[np.int32]) -> str:
        return writer.constant(f"{name}{bits}", np.asarray(values, np.int32))

    pairs = writer.node("Range", [numbers("first", 0), numbers("limit", PAIRS), numbers("step", 1)])
    column = writer.node("Reshape", [pairs, writer.constant("column", np.array([-1, 1], np.int64))])
    index = writer.node("Div", [column, numbers("divisors", 1 << lefts)])
    index = writer.node("Mod", [index, numbers("moduli", moduli)])
    index = writer.node("Mod", [index, numbers("entries", entries)])
    index = writer.node("Add", [index, numbers("starts", starts)])
    writer.node("Gather", [writer.constant(f"trellis{bits}", width.trellis.table), index], f"decoder{bits}", axis=0)


def _floats(writer: Writer, name: str, array: NDArray[np.float32]) -> str:
    """A constant in float32, kept in half the bytes where that loses nothing."""
    stored = as_stored(array)
    constant = writer.constant(name, stored)
    return constant if stored.dtype == np.float32 else writer.node("Cast", [constant], to=TensorProto.FLOAT)
