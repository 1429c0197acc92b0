"""Ops that make one value of each window of a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch.nn.functional as F

from edgeq.errors import UnsupportedError
from edgeq.ir.node import Node
from edgeq.ir.ops.op import Op, Writer


def _to_onnx(writer: Writer, op: str, node: Node, **attributes: Any) -> None:
    a = node.attrs
    found = end_pads(a, writer.shape(node.inputs[0])[1:], node.shape[1:])
    if found is None:
        raise UnsupportedError(f"layer {node.name}: ONNX has no pooling of such windows; trace the network again")
    ends, ceil = found
    if "count_padding" in a:
        # Optimized kernels of ONNX Runtime count what overhangs, so padding is counted only where there is some.
        attributes["count_include_pad"] = int(a["count_padding"] and (not a["ceil"] or any(a["padding"])))
    writer.call(
        op, node, kernel_shape=a["kernel"], strides=a["stride"], pads=[*a["padding"], *ends], ceil_mode=int(ceil),
        **attributes,
    )  # fmt: skip


def end_pads(attrs: Mapping[str, Any], sizes: Sequence[int], outputs: Sequence[int]) -> tuple[list[int], bool] | None:
    """Padding below and on the right, and whether ONNX is to round the number of windows up.

    PyTorch leaves out a last window that starts behind the map and the padding before it; ONNX does not. Such windows
    are counted by rounding down, with as much padding at the end as the last one needs.

    Args:
        attrs: of a pooling.
        sizes: rows and columns of the map.
        outputs: rows and columns of the output.

    Returns:
        None if ONNX has no such pooling: it averages over padding of another size than PyTorch counts, or needs more
        padding than ONNX takes.
    """
    a = attrs
    windows = [d * (k - 1) + 1 for k, d in zip(a["kernel"], a.get("dilation", [1, 1]), strict=True)]
    axes = list(zip(sizes, a["padding"], windows, a["stride"], outputs, strict=True))
    counts = a.get("count_padding") and any(a["padding"])
    agree = all(-((window - n - 2 * pad) // stride) + 1 == out for n, pad, window, stride, out in axes)
    if not a["ceil"] or (agree and not counts):
        return a["padding"], a["ceil"]
    ends = [max((out - 1) * stride + window - n - pad, 0) for n, pad, window, stride, out in axes]
    overhangs = counts and any(end > pad for end, pad in zip(ends, a["padding"], strict=True))
    if overhangs or any(end >= k for end, k in zip(ends, a["kernel"], strict=True)):
        return None
    return (a["padding"] if counts else ends), False


POOLING: Final = (
    Op(
        "max_pool2d",
        lambda x, a: F.max_pool2d(x[0], a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil"]),
        onnx=lambda writer, node: _to_onnx(writer, "MaxPool", node, dilations=node.attrs["dilation"]),
        same_scale=True,
        in_islands=True,
    ),
    Op(
        "avg_pool2d",
        lambda x, a: F.avg_pool2d(x[0], a["kernel"], a["stride"], a["padding"], a["ceil"], a["count_padding"]),
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
