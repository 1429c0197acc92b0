"""Ops with weights, which are modules of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeq.ir.node import Node
from edgeq.ir.ops.op import Op, Writer


class ChannelNorm(nn.Module):
    """Normalizes the channels of every position of a map `[n, channels, height, width]`, as `nn.LayerNorm` does rows.

    Args:
        channels: of the map.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale and shift."""
        last = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


_TOGETHER: Final = 16  # channels that oneDNN takes at once


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, attrs: Mapping[str, Any]) -> Tensor:
    """Convolve a map `[n, in, h, w]` with the geometry of a `conv2d`.

    oneDNN 3.12, which is in torch 2.14, writes outside of its buffers in the gradient of the weights of a 1x1
    convolution with a stride, over a large map of few channels that are last. Such a convolution is computed without a
    stride, over the pixels that it reads.
    """
    stride, padding, dilation, groups = (attrs[key] for key in ("stride", "padding", "dilation", "groups"))
    if weight.shape[2:] == (1, 1) and weight.shape[1] < _TOGETHER and max(stride) > 1 and not any(padding):
        x, stride = x[:, :, :: stride[0], :: stride[1]], [1, 1]
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


class Convolution(nn.Conv2d):
    """An `nn.Conv2d` that computes by `convolved`."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return convolved(x, self.weight, self.bias, vars(self))


def pair(value: int | Sequence[int]) -> list[int]:
    """Rows and columns, of one number for both or of two."""
    return [value, value] if isinstance(value, int) else [int(value[0]), int(value[-1])]


def geometry(args: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a `conv2d`, from the arguments of a convolution."""
    return {key: pair(args[key]) for key in ("stride", "padding", "dilation")} | {"groups": int(args["groups"])}


def _conv2d(node: Node, weight: Tensor) -> nn.Module:
    out, depth, rows, columns = weight.shape
    return Convolution(depth * node.attrs["groups"], out, (rows, columns), **node.attrs, device="meta")


def _conv2d_to_onnx(writer: Writer, node: Node) -> None:
    """Its padding is that of rows and columns, or what a pass has made of it: above, left, below, right."""
    a = node.attrs
    pads = a["padding"] if len(a["padding"]) == 4 else [*a["padding"], *a["padding"]]
    writer.call(
        "Conv", node, *writer.parameters(node), strides=a["stride"], pads=pads, dilations=a["dilation"],
        group=a["groups"],
    )  # fmt: skip


def _layer_norm_to_onnx(writer: Writer, node: Node) -> None:
    """The channels are put last and back: runtimes normalize the last dimensions."""
    weight, bias = writer.parameters(node)
    last = writer.node("Transpose", [writer.value(node.inputs[0])], perm=[0, 2, 3, 1])
    normed = writer.node("LayerNormalization", [last, weight, bias], epsilon=node.attrs["eps"])
    writer.node("Transpose", [normed], writer.value(node.name), perm=[0, 3, 1, 2])


LAYERS: Final = (
    Op("conv2d", module=_conv2d, aten={"aten.conv2d.default": geometry}, onnx=_conv2d_to_onnx, weighted=True),
    Op(  # over the channels of each position of a map
        "layer_norm",
        module=lambda node, weight: ChannelNorm(len(weight), node.attrs["eps"]),
        onnx=_layer_norm_to_onnx,
        in_float="a normalization of each position, for which runtimes have no integer kernel",
    ),
)
