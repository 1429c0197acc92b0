"""Transposed convolutions, as convolutions whose channels become pixels: runtimes have integer kernels for these.

A transposed convolution of stride `s` makes `s` outputs for each input along an axis, and every output reads a few
neighbouring inputs, with its own part of the kernel:

    y[s q + r - t] = sum over j of w[s j + r + p - t] x[q - j],   0 <= r < s,

where `p` is the padding and `t = p mod s` outputs too many come first. So one convolution of stride 1, of `ceil(k/s)`
taps makes the outputs of all `r` as channels; depth-to-space puts them in their places, and a slice takes what is
wanted. Where `s` divides `k`, it multiplies as often as the transposed convolution does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from edgeq.frontends.torch_export.builder import GraphBuilder, Handler, Parameters
from edgeq.frontends.torch_export.shapes import cropped, viewed
from edgeq.ir.node import Node
from edgeq.ir.ops.layers import pair


@dataclass(frozen=True)
class Phases:
    """The convolution that stands for a transposed one along an axis.

    Attributes:
        stride: number of phases, which are outputs for each input.
        taps: `[stride, kernel]`, tap of the transposed kernel that a phase reads an input with; -1 where it has none.
        padding: zeros on both sides.
        rows: of its output, for each phase.
        start: place of the first output that is wanted, after depth-to-space.
    """

    stride: int
    taps: Tensor
    padding: int
    rows: int
    start: int


def phases(size: int, out: int, kernel: int, stride: int, padding: int) -> Phases:
    """Arrange a transposed convolution along an axis.

    Args:
        size: of the input.
        out: of the output.
        kernel: taps, those that are zero because of a dilation included.
        stride: of the transposed convolution.
        padding: of the transposed convolution: outputs that it leaves out at the start.
    """
    first, whole = padding % stride, padding // stride
    earliest, latest = -whole, (kernel - 1) // stride - whole  # of `j`
    needed = -(-(out + first) // stride)
    zeros = max(latest, needed - size - earliest, 0)
    steps = torch.arange(latest, earliest - 1, -1)
    taps = torch.arange(stride)[:, None] + stride * (steps + whole)
    rows = size + 2 * zeros - len(steps) + 1
    return Phases(stride, torch.where(taps < kernel, taps, -1), zeros, rows, stride * (zeros - latest) + first)


def as_convolution(weight: Tensor, groups: int, dilation: Sequence[int], axes: Sequence[Phases]) -> Tensor:
    """The weights of the convolution that makes all phases.

    Args:
        weight: float32 `[in, out / groups, rows, columns]`, of the transposed convolution.
        groups: of it.
        dilation: of its rows and columns.
        axes: how its rows and its columns are arranged.

    Returns:
        Float32 `[phases * out, in / groups, rows', columns']`, the channels of the first phase first. For several
        groups, those of all phases are groups of their own.
    """
    inputs, out, *kernel = weight.shape
    dilated = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    filled = weight.new_zeros(inputs, out, dilated[0] + 1, dilated[1] + 1)  # the last of each is the tap that is none
    filled[:, :, : dilated[0] : dilation[0], : dilated[1] : dilation[1]] = weight
    rows, columns = (axis.taps for axis in axes)
    picked = filled[:, :, rows[:, :, None, None], columns]
    by_group = picked.reshape(groups, -1, *picked.shape[1:])
    ordered = by_group.permute(3, 5, 0, 2, 1, 4, 6)  # phases, groups, outputs, inputs, taps
    return ordered.reshape(-1, inputs // groups, rows.shape[1], columns.shape[1]).contiguous()


def _conv_transpose2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    _upsampled(builder, node, args["input"], builder.parameters(args, node), args, builder.shape(node))


def _conv_transpose1d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Over rows of values, as over maps of one row."""
    (channels, length), (out, columns) = builder.shape(args["input"]), builder.shape(node)
    source = viewed(builder, node, builder.value(args["input"], node), (channels, 1, length))
    parameters = builder.parameters(args, node)
    in_maps = {
        "stride": [1, *args["stride"]], "padding": [0, *args["padding"]], "dilation": [1, *args["dilation"]],
        "groups": args["groups"],
    }  # fmt: skip
    over_maps = parameters._replace(weight=parameters.weight[:, :, None])
    made = _upsampled(builder, node, source, over_maps, in_maps, (out, 1, columns))
    viewed(builder, node, made, (out, columns))


def _upsampled(
    builder: GraphBuilder,
    node: fx.Node,
    source: Argument | str,
    parameters: Parameters,
    args: dict[str, Any],
    shape: tuple[int, ...],
) -> str:
    """Append the convolution of a transposed one, and what moves its values; the name of the last node."""
    name = source if isinstance(source, str) else builder.value(source, node)
    channels, *sizes = builder.shape_of(name)
    stride, padding, dilation = (pair(args[key]) for key in ("stride", "padding", "dilation"))
    kernel = [d * (k - 1) + 1 for d, k in zip(dilation, parameters.weight.shape[2:], strict=True)]
    axes = [phases(*of_axis) for of_axis in zip(sizes, shape[1:], kernel, stride, padding, strict=True)]
    groups, count = int(args["groups"]), stride[0] * stride[1]
    weight = as_convolution(parameters.weight, groups, dilation, axes)
    if groups > 1 and count > 1:  # every phase gets the groups of its own, so that its channels are together
        repeated = {"dim": 1, "indices": [*range(channels)] * count}
        copies = (channels * count, *sizes)
        name, groups = builder.emit(node, "gather", [name], repeated, shape=copies).name, groups * count
    bias = parameters.bias if parameters.bias is None else parameters.bias.repeat(count)
    attrs = {"stride": [1, 1], "padding": [axis.padding for axis in axes], "dilation": [1, 1], "groups": groups}
    size = tuple(axis.rows for axis in axes)
    made = builder.add_layer(
        node, "conv2d", name, parameters._replace(weight=weight, bias=bias), attrs, (len(weight), *size)
    )
    return _placed(builder, node, made, axes, shape)


def _placed(builder: GraphBuilder, node: fx.Node, made: Node, axes: Sequence[Phases], shape: tuple[int, ...]) -> str:
    """Append what puts the phases in their places, and takes as many outputs as are wanted."""
    block, name, channels = [axis.stride for axis in axes], made.name, shape[0]
    size = [channels, *(axis.rows * axis.stride for axis in axes)]
    if block != [1, 1]:
        spread = builder.emit(
            node, "depth_to_space", [name], {"block": block}, name=f"{made.name}.depth_to_space", shape=tuple(size)
        )
        name = spread.name
    return cropped(builder, node, name, [0, *(axis.start for axis in axes)], shape, f"{made.name}.slice")


TRANSPOSED: Final[dict[str, Handler]] = {
    "aten.conv_transpose1d.default": _conv_transpose1d,
    "aten.conv_transpose2d.input": _conv_transpose2d,
}
