"""Ops that turn blocks of pixels into channels, and back.

The channels of a block are ordered by pixel: first all channels of the first pixel, then all of the next (what ONNX
calls DCR). So with the channels last, as integer kernels have them, whole rows of bytes are moved: in ONNX Runtime in a
third of the time of a DepthToSpace, which computes with the channels first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from torch import Tensor

from edgeq.ir.node import Node
from edgeq.ir.ops.op import Op, Writer


def _depth_to_space(x: Tensor, block: Sequence[int]) -> Tensor:
    """`[n, rows * columns * c, h, w]` to `[n, c, h * rows, w * columns]`."""
    (n, channels, height, width), (rows, columns) = x.shape, block
    parts = x.reshape(n, rows, columns, channels // (rows * columns), height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, -1, height * rows, width * columns)


def _space_to_depth(x: Tensor, block: Sequence[int]) -> Tensor:
    """`[n, c, h * rows, w * columns]` to `[n, rows * columns * c, h, w]`."""
    (n, channels, height, width), (rows, columns) = x.shape, block
    parts = x.reshape(n, channels, height // rows, rows, width // columns, columns).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, -1, height // rows, width // columns)


def _to_onnx(writer: Writer, node: Node, parts: Sequence[int]) -> None:
    """Both ways exchange two of the parts `[.., .., .., ..]` that the input has with its channels last."""
    channels, *size = node.shape
    seen, shape = (
        writer.constant(f"{node.name}.{key}", np.array([0, *dims], np.int64))  # 0 leaves the batch as it is
        for key, dims in (("parts", parts), ("shape", (*size, channels)))
    )
    last = writer.node("Transpose", [writer.value(node.inputs[0])], perm=[0, 2, 3, 1])
    moved = writer.node("Transpose", [writer.node("Reshape", [last, seen])], perm=[0, 1, 3, 2, 4])
    writer.write(node, "Transpose", [writer.node("Reshape", [moved, shape])], perm=[0, 3, 1, 2])


def _depth_to_space_to_onnx(writer: Writer, node: Node) -> None:
    (channels, height, width), (rows, _) = writer.shape(node.inputs[0]), node.attrs["block"]
    _to_onnx(writer, node, (height, width, rows, channels // rows))


def _space_to_depth_to_onnx(writer: Writer, node: Node) -> None:
    (channels, height, width), (rows, columns) = writer.shape(node.inputs[0]), node.attrs["block"]
    _to_onnx(writer, node, (height // rows, rows, width // columns, columns * channels))


BLOCKS: Final = (
    Op(
        "depth_to_space",
        lambda x, a: _depth_to_space(x[0], a["block"]),
        onnx=_depth_to_space_to_onnx,
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "space_to_depth",
        lambda x, a: _space_to_depth(x[0], a["block"]),
        onnx=_space_to_depth_to_onnx,
        same_scale=True,
        in_islands=True,
    ),
)
