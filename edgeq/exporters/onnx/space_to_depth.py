"""Space-to-depth for the convolution that reads the image: the same sums over groups of pixels, in a form that is fast.

The int8 kernels of ONNX Runtime take the channels of a pixel by fours. An image has three, so its convolution goes
through a copy of every patch instead: a seventh of MobileNetV2's time for a thirtieth of its multiplications. But with
the channels last, four neighbouring pixels of a row are twelve channels, a view of the image that costs nothing. A
convolution over such groups makes the outputs of all the columns of a group at once, as channels; viewed as columns
again, they are the output of the original one. Its weights are the original ones, with zeros between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, lcm
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.packed.kernels import dequantize
from edgeq.packed.modules import PackedConv2d

_ALIGNED: Final = 4  # channels that int8 kernels take at once
_STARTS: Final = tuple(product(("quantize", "read_pixels"), ("conv2d",), ("quantize", "to_codes")))


@dataclass(frozen=True)
class PixelGroups:
    """How a convolution reads groups of pixels.

    Attributes:
        size: image columns in a group.
        outputs: output columns that a group makes.
        span: groups that an output reads.
        pads: groups of zeros on the left and on the right.
        missing: columns that fill the image's last group; nothing depends on what is in them.
        taps: int32 `[outputs, span, size]`, the kernel column that an output reads a pixel with; -1 where it does not.
    """

    size: int
    outputs: int
    span: int
    pads: tuple[int, int]
    missing: int
    taps: NDArray[np.int32]


class SpaceToDepthConv2d(nn.Module):
    """A packed convolution that reads groups of pixels as channels, and makes its columns by groups as well.

    It makes float32 `[n, outputs * out, rows, columns / outputs]` of `[n, size * in, rows, columns / size]`.

    Args:
        layer: the convolution of single pixels; it keeps the packed weights.
        groups: how it reads groups.
    """

    def __init__(self, layer: PackedConv2d, groups: PixelGroups) -> None:
        super().__init__()
        self.layer, self.groups = layer, groups

    @property
    def shape(self) -> list[int]:
        """Of the weights: `[outputs * out, size * in, rows, span]`."""
        out, depth, rows, _ = self.layer.shape
        return [self.groups.outputs * out, self.groups.size * depth, rows, self.groups.span]

    def spread(self, weight: Tensor) -> Tensor:
        """Weights `[out, in, rows, columns]` laid out for groups, with 0 where an output does not read a pixel."""
        taps = torch.from_numpy(self.groups.taps)
        return F.pad(weight, (0, 1))[..., taps].permute(3, 0, 5, 1, 2, 4).reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        layer, (left, right) = self.layer, self.groups.pads
        stride, _, above, _, dilation, *_ = layer.geometry
        weight = self.spread(dequantize(layer.packed, layer.scale, layer.shape, layer.bits))
        return F.conv2d(
            F.pad(x, (left, right, above, above)), weight, layer.bias.repeat(self.groups.outputs),
            stride=(stride, 1), dilation=(dilation, 1),
        )  # fmt: skip


def over_pixel_groups(network: Network) -> Network:
    """Let the convolution that reads the image read groups of pixels, where this has a use and comes out even.

    Args:
        network: packed, after the passes `edgeq.ir.passes.uint8_input` and `edgeq.ir.passes.hard_sigmoid.on_codes`.

    Returns:
        A network whose values in float have the names, shapes and numbers that they had, but for those that the
        convolution reads and makes; or the same network.
    """
    nodes = network.graph.nodes
    bordered = nodes[0].op == "pixel_border"
    module = _in_groups(network, bordered)
    if module is None:
        return network
    border, (image, conv), rest = nodes[:bordered], nodes[bordered : bordered + 2], nodes[bordered + 2 :]
    depth = _to_depth(conv.shape, module.groups.outputs)
    made = [_wider(node, module.groups.missing) for node in border]
    made += [*_image(image, module.groups.size), _reading_groups(conv, depth, module.groups)]
    grouped = {conv.name}
    for node in rest:
        if node.inputs[0] not in grouped:
            made.append(node)
        elif node.op in ("to_codes", "clip_codes"):
            made.append(replace(node, shape=depth))
            grouped.add(node.name)
        else:  # what is in float is viewed as columns again
            made += _viewed(node, depth, node.shape)
    layers = {node.name: network.layer(node.name) for node in nodes if OPS[node.op].has_module}
    layers |= {_floats(node): layers[node.name] for node in nodes if node.op == "quantize"} | {conv.name: module}
    return Network(replace(network.graph, nodes=tuple(made)), layers)


def _in_groups(network: Network, bordered: bool) -> SpaceToDepthConv2d | None:
    """The convolution over groups, if a quantized network starts with one that alone reads the image, and they fit."""
    graph, uses = network.graph, network.graph.uses()
    start = graph.nodes[bordered : bordered + 3]
    if tuple(node.op for node in start) not in _STARTS:
        return None
    image, conv, behind = start
    alone = conv.inputs == (image.name,) and behind.inputs == (conv.name,) and uses[image.name] == uses[conv.name] == 1
    layer = network.layer(conv.name)
    if not alone or not isinstance(layer, PackedConv2d):
        return None
    groups = pixel_groups(conv, layer.shape[3], image.shape, bordered)
    return SpaceToDepthConv2d(layer, groups) if groups else None


def _to_depth(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """The shape of a map of which groups of columns have become channels; the last group may be filled up."""
    channels, rows, columns = shape
    return (channels * size, rows, -(-columns // size))


def _wider(border: Node, columns: int) -> Node:
    """A border in uint8 with more columns on the right."""
    rows, width, channels = border.shape
    top, left, bottom, right = border.attrs["pads"]
    attrs = {**border.attrs, "pads": [top, left, bottom, right + columns]}
    return replace(border, shape=(rows, width + columns, channels), attrs=attrs)


def _image(node: Node, size: int) -> list[Node]:
    """The image in groups: pixels are viewed before they are read, floats after they were quantized."""
    depth = _to_depth(node.shape, size)
    if node.op == "read_pixels":
        return [replace(node, shape=depth, attrs={"view": _channels_last(depth)})]
    return _viewed(node, node.shape, depth)


def _reading_groups(conv: Node, shape: tuple[int, ...], groups: PixelGroups) -> Node:
    """The convolution over groups; its padding is that above, on the left, below and on the right."""
    (stride, _), (rows, _), (left, right) = conv.attrs["stride"], conv.attrs["padding"], groups.pads
    return replace(conv, shape=shape, attrs={**conv.attrs, "stride": [stride, 1], "padding": [rows, left, rows, right]})


def _viewed(node: Node, shape: tuple[int, ...], view: tuple[int, ...]) -> list[Node]:
    """A node that makes floats of a shape, and under its name a view of them."""
    floats = replace(node, name=_floats(node), shape=shape)
    return [floats, Node(node.name, "regroup_columns", (floats.name,), view, {"view": _channels_last(view)})]


def _floats(node: Node) -> str:
    return f"{node.name}.floats"


def _channels_last(shape: Sequence[int]) -> list[int]:
    return [*shape[1:], shape[0]]


def pixel_groups(node: Node, kernel: int, image: Sequence[int], extendable: bool) -> PixelGroups | None:
    """Group the pixels that a convolution reads; None where that has no use or does not come out even.

    Args:
        node: a conv2d.
        kernel: columns of its kernel.
        image: channels, rows and columns of its input.
        extendable: whether columns of anything can be added on the right of the input.
    """
    (_, stride), (_, padding), (_, dilation) = (node.attrs[name] for name in ("stride", "padding", "dilation"))
    channels, _, width = image
    size = lcm(stride, _ALIGNED // gcd(channels, _ALIGNED))
    missing, outputs = -width % size, size // stride
    if channels >= _ALIGNED or node.attrs["groups"] > 1 or dilation > 1 or node.shape[2] % outputs:
        return None
    columns = stride * np.arange(outputs)[:, None] - padding + np.arange(kernel)  # that output `r` reads with tap `k`
    before, after = -(int(columns.min()) // size), int(columns.max()) // size
    span = before + 1 + after
    right = node.shape[2] // outputs + span - 1 - before - (width + missing) // size
    if right < 0 or (missing and (padding or not extendable)):  # padding would have to be zeros, behind the image
        return None
    taps = np.full((outputs, span * size), -1, np.int32)
    for row, found in zip(taps, columns + before * size, strict=True):
        row[found] = np.arange(kernel)
    return PixelGroups(size, outputs, span, (before, right), missing, taps.reshape(outputs, span, size))
