"""Ops that make one value of each window of a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch.nn.functional as F

from edgeq.errors import UnsupportedError
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
    ends, ceil = _end_pads(node, writer.shape(node.inputs[0])[1:])
    if "count_padding" in a:
        # Optimized kernels of ONNX Runtime count what overhangs, so padding is counted only where there is some.
        attributes["count_include_pad"] = int(a["count_padding"] and (not a["ceil"] or any(a["padding"])))
    writer.call(
        op, node, kernel_shape=a["kernel"], strides=a["stride"], pads=[*a["padding"], *ends], ceil_mode=int(ceil),
        **attributes,
    )  # fmt: skip


def _end_pads(node: Node, sizes: Sequence[int]) -> tuple[list[int], bool]:
    """Padding below and on the right, and whether ONNX is to round the number of windows up.

    PyTorch leaves out a last window that starts behind the map and the padding before it; ONNX does not. Such windows
    are counted by rounding down, with as much padding at the end as the last one needs.

    Raises:
        UnsupportedError: an average over padding of another size than PyTorch counts, or more padding than ONNX takes.
    """
    a = node.attrs
    windows = [d * (k - 1) + 1 for k, d in zip(a["kernel"], a.get("dilation", [1, 1]), strict=True)]
    axes = list(zip(sizes, a["padding"], windows, a["stride"], node.shape[1:], strict=True))
    counts = a.get("count_padding") and any(a["padding"])
    agree = all(-((window - n - 2 * pad) // stride) + 1 == out for n, pad, window, stride, out in axes)
    if not a["ceil"] or (agree and not counts):
        return a["padding"], a["ceil"]
    ends = [max((out - 1) * stride + window - n - pad, 0) for n, pad, window, stride, out in axes]
    overhangs = counts and any(end > pad for end, pad in zip(ends, a["padding"], strict=True))
    if overhangs or any(end >= k for end, k in zip(ends, a["kernel"], strict=True)):
        raise UnsupportedError(
            f"layer {node.name}: ONNX has no pooling whose last windows reach so far behind a map of {list(sizes)}; "
            "expected ceil_mode=False, or an average that does not count padding"
        )
    return (a["padding"] if counts else ends), False


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
        onnx=lambda writer, node: _to_onnx(writer, "AveragePool", node),
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
