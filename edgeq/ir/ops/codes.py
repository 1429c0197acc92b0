"""Ops of values in uint8 and of columns as channels, which passes insert on the way to a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from edgeq.ir.node import Node
from edgeq.ir.ops.op import Op, Writer
from edgeq.ir.ops.quantize import bordered, levels_to_onnx
from edgeq.numerics.activations import LEVELS


def to_codes(x: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    """Quantize to uint8 as ONNX QuantizeLinear does: divide, round half to even, add the zero point, saturate."""
    return (x / scale).round_().add_(zero_point).clamp_(0, 255).to(torch.uint8)


def from_codes(codes: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    """Read uint8 codes back as float32, as ONNX DequantizeLinear does."""
    return codes.float().sub_(zero_point).mul_(scale)


def as_scale(scale: float, x: Tensor) -> Tensor:
    """A scale in float32, where a value is."""
    return torch.tensor(scale, dtype=torch.float32, device=x.device)


def channels_first(x: Tensor, view: Sequence[int] | None = None) -> Tensor:
    """A map `[n, rows, columns, channels]`, or what it is as a `view` of these three, with its channels first."""
    return (x if view is None else x.reshape(len(x), *view)).permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """A map `[n, channels, rows, columns]` with its channels last."""
    return x.permute(0, 2, 3, 1)


def _to_codes_to_onnx(writer: Writer, node: Node) -> None:
    writer.write(node, "QuantizeLinear", [writer.value(node.inputs[0]), *levels_to_onnx(writer, node)])


def _clip_codes_to_onnx(writer: Writer, node: Node) -> None:
    highest = writer.constant(f"code{node.attrs['max']}", np.array(node.attrs["max"], np.uint8))
    writer.write(node, "Clip", [writer.value(node.inputs[0]), "", highest])


def _dequantize_to_onnx(writer: Writer, node: Node) -> None:
    scale = writer.constant(f"{writer.prefix(node)}.scale", np.array(node.attrs["scale"], np.float32))
    zero = writer.constant(f"code{node.attrs['zero_point']}", np.array(node.attrs["zero_point"], np.uint8))
    writer.write(node, "DequantizeLinear", [writer.value(node.inputs[0]), scale, zero])


def _viewed(writer: Writer, value: str, view: Sequence[int]) -> str:
    shape = writer.constant(f"view{writer.count}", np.array([-1, *view], np.int64))
    return writer.node("Reshape", [value, shape])


def _regroup_columns_to_onnx(writer: Writer, node: Node) -> None:
    last = writer.node("Transpose", [writer.value(node.inputs[0])], perm=[0, 2, 3, 1])
    writer.write(node, "Transpose", [_viewed(writer, last, node.attrs["view"])], perm=[0, 3, 1, 2])


def _read_pixels_to_onnx(writer: Writer, node: Node) -> None:
    scale, image = writer.constant("pixel", np.array(1 / LEVELS, np.float32)), writer.value(node.inputs[0])
    if "view" in node.attrs:
        image = _viewed(writer, image, node.attrs["view"])
    first = writer.node("Transpose", [image], perm=[0, 3, 1, 2])
    writer.write(node, "DequantizeLinear", [first, scale])


def _pixel_border_to_onnx(writer: Writer, node: Node) -> None:
    """Rows above and below, then columns on the left and the right, for as many images as there are."""
    image, (rows, columns, channels) = writer.value(node.inputs[0]), node.shape
    top, left, bottom, right = node.attrs["pads"]
    colour = np.array(node.attrs["values"], np.uint8)
    batch = writer.node("Shape", [image], end=1)

    def strip(rows: int, columns: int) -> list[str]:
        if not rows * columns:
            return []
        size = writer.constant(f"strip{rows}x{columns}", np.array([rows, columns, channels], np.int64))
        shape = writer.node("Concat", [batch, size], axis=0)
        return [writer.node("Expand", [writer.constant(f"{writer.prefix(node)}.colour", colour), shape])]

    inner = columns - left - right
    higher = writer.node("Concat", [*strip(top, inner), image, *strip(bottom, inner)], axis=1)
    writer.write(node, "Concat", [*strip(rows, left), higher, *strip(rows, right)], axis=2)


CODES: Final = (
    Op(
        "to_codes",
        lambda x, a: to_codes(x[0], as_scale(a["scale"], x[0]), a["zero_point"]),
        onnx=_to_codes_to_onnx,
    ),
    Op("clip_codes", lambda x, a: x[0].clamp(max=a["max"]), onnx=_clip_codes_to_onnx),
    Op(
        "dequantize",
        lambda x, a: from_codes(x[0], as_scale(a["scale"], x[0]), a["zero_point"]),
        onnx=_dequantize_to_onnx,
    ),
    Op(  # of uint8 with the channels last: floats in 0..1 with the channels first
        "read_pixels",
        lambda x, a: from_codes(channels_first(x[0], a.get("view")), as_scale(1 / LEVELS, x[0]), 0),
        onnx=_read_pixels_to_onnx,
    ),
    Op(  # a border in uint8, the channels last
        "pixel_border",
        lambda x, a: channels_last(bordered(channels_first(x[0]), a["pads"], a["values"])),
        onnx=_pixel_border_to_onnx,
    ),
    Op(  # groups of columns to channels, or back
        "regroup_columns",
        lambda x, a: channels_first(channels_last(x[0]), a["view"]),
        onnx=_regroup_columns_to_onnx,
    ),
)
