"""Ops that move values and compute none but zeros; dimensions are counted with the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.ir.node import Node
from edgeq.ir.ops.op import Op, Writer


def _padded(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Put zeros before the last dimensions, and after them: `pads` are first all of the one, then all of the other."""
    count = len(pads) // 2
    return F.pad(x, [pads[i + side] for i in reversed(range(count)) for side in (0, count)])


def _pad_to_onnx(writer: Writer, node: Node) -> None:
    pads, half = node.attrs["pads"], len(node.attrs["pads"]) // 2
    before = [0] * (len(node.shape) + 1 - half)
    whole = np.array([*before, *pads[:half], *before, *pads[half:]])
    writer.call("Pad", node, writer.constant(f"{node.name}.pads", whole))


def _slice_to_onnx(writer: Writer, node: Node) -> None:
    ends = [writer.constant(f"int{node.attrs[key]}", np.array([node.attrs[key]])) for key in ("start", "end", "dim")]
    writer.call("Slice", node, *ends)


def _gather_to_onnx(writer: Writer, node: Node) -> None:
    """Take pixels of a map with the channels last, as integer kernels have them, and join copies of all channels.

    With the channels first, ONNX Runtime takes seven times longer to double the rows and columns of a map, and it has
    integer kernels that join maps with the channels last.
    """
    dim, indices, source = node.attrs["dim"], node.attrs["indices"], writer.value(node.inputs[0])
    channels = writer.shape(node.inputs[0])[0]
    copies, rest = divmod(len(indices), channels)
    if dim == 1 and not rest and indices == [*range(channels)] * copies:
        writer.write(node, "Concat", [source] * copies, name=node.name, axis=1)
        return
    taken = writer.constant(f"{node.name}.indices", np.array(indices, np.int64))
    if dim == 1 or len(node.shape) != 3:
        writer.call("Gather", node, taken, axis=dim)
    else:
        last = writer.node("Transpose", [source], perm=[0, 2, 3, 1])
        writer.write(node, "Transpose", [writer.node("Gather", [last, taken], axis=dim - 1)], perm=[0, 3, 1, 2])


def _reshape_to_onnx(writer: Writer, node: Node) -> None:
    shape = np.array([0, *node.attrs["sizes"]])  # 0 leaves the batch as it is
    writer.call("Reshape", node, writer.constant(f"{node.name}.shape", shape))


SHAPE: Final = (
    Op(
        "flatten",
        lambda x, _: x[0].reshape(len(x[0]), -1),  # a number an image, too
        onnx=lambda writer, node: writer.call("Flatten", node, axis=1),
        same_scale=True,
        in_islands=True,
    ),
    Op(  # to `sizes`, without the batch
        "reshape",
        lambda x, a: x[0].reshape(len(x[0]), *a["sizes"]),
        onnx=_reshape_to_onnx,
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "permute",
        lambda x, a: x[0].permute(a["dims"]),
        onnx=lambda writer, node: writer.call("Transpose", node, perm=node.attrs["dims"]),
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "cat",
        lambda x, a: torch.cat(list(x), dim=a["dim"]),
        onnx=lambda writer, node: writer.call("Concat", node, axis=node.attrs["dim"]),
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "slice",
        lambda x, a: x[0].narrow(a["dim"], a["start"], a["end"] - a["start"]),
        onnx=_slice_to_onnx,
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "gather",
        lambda x, a: x[0].index_select(a["dim"], torch.tensor(a["indices"], device=x[0].device)),
        onnx=_gather_to_onnx,
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "pad",
        lambda x, a: _padded(x[0], a["pads"]),
        onnx=_pad_to_onnx,
        same_scale=True,
        in_islands=True,
    ),
)
