"""Ops that make one value of each window of a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch.nn.functional as F

from edgeq.ir.node import Node
from edgeq.ir.ops.layers import pair
from edgeq.ir.ops.op import Op, Writer


def _window(args: Mapping[str, Any]) -> dict[str, Any]:
    """What all poolings have, from the arguments of a call: the stride is the kernel where none is given."""
    return {
        "kernel": pair(args["kernel_size"]),
        "stride": pair(args["stride"] or args["kernel_size"]),
        "padding": pair(args["padding"]),
        "ceil": bool(args["ceil_mode"]),
    }


def _max_pool2d(args: Mapping[str, Any]) -> Mapping[str, Any]:
    return _window(args) | {"dilation": pair(args["dilation"])}


def _avg_pool2d(args: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if args["divisor_override"] is not None:
        return None
    return _window(args) | {"count_padding": bool(args["count_include_pad"])}


def _to_onnx(writer: Writer, op: str, node: Node, **attributes: Any) -> None:
    a = node.attrs
    pads = [*a["padding"], *a["padding"]]
    writer.call(
        op, node, kernel_shape=a["kernel"], strides=a["stride"], pads=pads, ceil_mode=int(a["ceil"]), **attributes
    )


POOLING: Final = (
    Op(
        "max_pool2d",
        lambda x, a: F.max_pool2d(x[0], a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil"]),
        aten={"aten.max_pool2d.default": _max_pool2d, "aten.max_pool2d_with_indices.default": _max_pool2d},
        onnx=lambda writer, node: _to_onnx(writer, "MaxPool", node, dilations=node.attrs["dilation"]),
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "avg_pool2d",
        lambda x, a: F.avg_pool2d(x[0], a["kernel"], a["stride"], a["padding"], a["ceil"], a["count_padding"]),
        aten={"aten.avg_pool2d.default": _avg_pool2d},
        onnx=lambda writer, node: _to_onnx(
            writer, "AveragePool", node, count_include_pad=int(node.attrs["count_padding"])
        ),
        averaging=True,
        in_islands=True,
    ),
    Op(
        "global_avg_pool",
        lambda x, _: x[0].mean(dim=(2, 3), keepdim=True),
        onnx="GlobalAveragePool",
        averaging=True,
        in_islands=True,
    ),
)
