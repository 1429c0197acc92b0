"""The weights of a layer in ONNX: packed bytes, and the standard operators that decode them.

A layer of 4, 3 or 2 bits is kept as its packed bytes; standard operators turn them into int8 weights:

    packed uint8 [ceil(out / K), fan-in] -> Cast(int32) -> Gather(codebook int8 [256, K]) -> Transpose
      -> [Reshape -> Slice if out % K] -> Reshape(weight shape) -> DequantizeLinear

All of it before DequantizeLinear is constant. A runtime computes it once when it loads the file, finds int8 weights
between DequantizeLinear and Conv as in any quantized model, and fuses them into its integer convolution. 8-bit layers
are int8 initializers (plain QDQ). With float activations, DequantizeLinear would stay in the graph and run on every
inference, because runtimes keep it out of constant folding; there Cast and Mul do its work and fold.

The weights of a convolution that reads groups of pixels (`edgeq.exporters.onnx.space_to_depth`) are laid out for them
before DequantizeLinear.

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

from edgeq.exporters.onnx.space_to_depth import SpaceToDepthConv2d
from edgeq.ir.ops.op import Writer
from edgeq.numerics.weights import BitWidth, as_stored
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
    if not isinstance(layer, PackedConv2d):
        weight = writer.constant(f"{name}.weight", as_array(layer.weight))
        return weight, writer.constant(f"{name}.bias", as_array(layer.bias))
    bias = _floats(writer, f"{name}.bias", as_array(layer.bias))
    levels, scale = _levels(writer, name, layer), as_array(layer.scale)
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


def _dequantized(writer: Writer, name: str, levels: str, scale: str) -> str:
    # Without a zero point DequantizeLinear takes 0, and each channel saves a byte.
    return writer.node("DequantizeLinear", [levels, scale], f"{name}.weight", axis=0)


def _levels(writer: Writer, name: str, layer: PackedConv2d) -> str:
    """The weights in int8."""
    width, packed = BitWidth(layer.bits), as_array(layer.packed)
    if width.bits == 8:
        # ONNX Runtime's exact kernels (session.x64quantprecision) fail where two layers share their weights.
        return writer.constant(f"{name}.int8", packed.view(np.int8).reshape(layer.shape), shared=False)
    return _looked_up(writer, name, writer.constant(f"{name}.packed", packed), layer.shape, width)


def _looked_up(writer: Writer, name: str, packed: str, shape: list[int], width: BitWidth) -> str:
    """Each byte as the vector of levels that the codebook has for it."""
    table = writer.constant(f"codebook{width.bits}", width.codebook)
    index = writer.node("Cast", [packed], to=TensorProto.INT32)
    vectors = writer.node("Gather", [table, index], axis=0)
    values = writer.node("Transpose", [vectors], perm=[0, 2, 1])
    if shape[0] % width.per_byte:
        flat = writer.constant(f"{name}.rows", np.array([-1, prod(shape[1:])], np.int64))
        rows = writer.node("Reshape", [values, flat])
        ends = [writer.constant(f"int{v}", np.array([v], np.int64)) for v in (0, shape[0])]
        values = writer.node("Slice", [rows, *ends])
    return writer.node("Reshape", [values, writer.constant(f"{name}.shape", np.array(shape, np.int64))])


def _floats(writer: Writer, name: str, array: NDArray[np.float32]) -> str:
    """A constant in float32, kept in half the bytes where that loses nothing."""
    stored = as_stored(array)
    constant = writer.constant(name, stored)
    return constant if stored.dtype == np.float32 else writer.node("Cast", [constant], to=TensorProto.FLOAT)
