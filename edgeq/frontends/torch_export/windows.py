"""ATen poolings of windows: of any size, distance, padding and dilation, over maps or rows of values.

Those that ONNX has are one node. Another average is one over a map with a border of zeros, times a factor where PyTorch
does not count all values of a window. A maximum of windows that overlap unevenly is one over windows side by side, of
values that are taken as often as windows have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import torch
from torch import Tensor, fx

from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import unsupported
from edgeq.frontends.torch_export.shapes import viewed
from edgeq.ir.ops.layers import pair
from edgeq.ir.ops.pooling import end_pads

Windows = Sequence[Sequence[int]]
"""The places along an axis that each output reads."""


def window(args: dict[str, Any]) -> dict[str, Any]:
    """What all poolings have, from the arguments of a call: the stride is the kernel where none is given."""
    return {
        "kernel": pair(args["kernel_size"]),
        "stride": pair(args["stride"] or args["kernel_size"]),
        "padding": pair(args["padding"]),
        "ceil": bool(args["ceil_mode"]),
    }


def tiles(op: str, kernel: list[int]) -> dict[str, Any]:
    """Attributes of a pooling whose windows lie side by side."""
    own = {"count_padding": True} if op == "avg_pool2d" else {"dilation": [1, 1]}
    return {"kernel": kernel, "stride": kernel, "padding": [0, 0], "ceil": False} | own


def adaptive_windows(size: int, out: int) -> list[range]:
    """What the outputs of an adaptive pooling read: windows that may overlap, and differ by one in length."""
    return [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _max_pool2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    attrs = window(args) | {"dilation": pair(args["dilation"])}
    _maximum(builder, node, builder.value(args["input"], node), attrs, builder.shape(node))


def _avg_pool2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    attrs = window(args) | {"count_padding": bool(args["count_include_pad"])}
    source = builder.value(args["input"], node)
    _average(builder, node, source, attrs, builder.shape(node), args["divisor_override"])


def _of_rows(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a pooling of rows of values, for one of maps of one row."""
    rows = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    given = args | {"stride": args["stride"] or args["kernel_size"]}
    return given | {key: [row, *pair(given[key])[:1]] for key, row in rows.items() if key in given}


def _max_pool1d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    args = _of_rows(args)
    (channels, length), source = builder.shape(args["input"]), builder.value(args["input"], node)
    seen = viewed(builder, node, source, (channels, 1, length))
    attrs, out = window(args) | {"dilation": pair(args["dilation"])}, builder.shape(node)
    viewed(builder, node, _maximum(builder, node, seen, attrs, (channels, 1, out[-1])), out)


def _avg_pool1d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    args = _of_rows(args)
    (channels, length), source = builder.shape(args["input"]), builder.value(args["input"], node)
    seen = viewed(builder, node, source, (channels, 1, length))
    attrs, out = window(args) | {"count_padding": bool(args["count_include_pad"])}, builder.shape(node)
    viewed(builder, node, _average(builder, node, seen, attrs, (channels, 1, out[-1]), None), out)


def _maximum(builder: GraphBuilder, node: fx.Node, source: str, attrs: dict[str, Any], shape: tuple[int, ...]) -> str:
    """Append a maximum over windows; the name of the last node."""
    sizes = builder.shape_of(source)[1:]
    axes = [
        [[start + step * i for i in range(kernel) if 0 <= start + step * i < size] for start in starts]
        for size, kernel, step, starts in zip(
            sizes, attrs["kernel"], attrs["dilation"], _starts(attrs, shape), strict=True
        )
    ]
    if not all(places for windows in axes for places in windows):
        raise unsupported(node, "a max pooling with windows of padding alone; expected a value in every window")
    if end_pads(attrs, sizes, shape[1:]) is None:
        return maximum_of(builder, node, source, axes)
    return builder.emit(node, "max_pool2d", [source], attrs, shape=shape).name


def maximum_of(builder: GraphBuilder, node: fx.Node, source: str, axes: Sequence[Windows]) -> str:
    """Append the maximum of any windows over the rows of a map, then over its columns; the name of the last node."""
    for dim, windows in enumerate(axes, 2):
        shape = list(builder.shape_of(source))
        kernel = max(map(len, windows))
        indices = [place for places in windows for place in (*places, *[places[-1]] * (kernel - len(places)))]
        if indices != [*range(shape[dim - 1])]:
            shape[dim - 1] = len(indices)
            source = builder.emit(node, "gather", [source], {"dim": dim, "indices": indices}, shape=tuple(shape)).name
        if kernel > 1:
            shape[dim - 1] = len(windows)
            attrs = tiles("max_pool2d", [kernel, 1] if dim == 2 else [1, kernel])
            source = builder.emit(node, "max_pool2d", [source], attrs, shape=tuple(shape)).name
    builder.alias[node] = source
    return source


def _average(
    builder: GraphBuilder,
    node: fx.Node,
    source: str,
    attrs: dict[str, Any],
    shape: tuple[int, ...],
    divisor: int | None,
) -> str:
    """Append an average over windows, or their sum over `divisor`; the name of the last node."""
    channels, *sizes = builder.shape_of(source)
    if divisor is None and end_pads(attrs, sizes, shape[1:]) is not None:
        return builder.emit(node, "avg_pool2d", [source], attrs, shape=shape).name
    if divisor is not None and not attrs["ceil"]:
        made = builder.emit(node, "avg_pool2d", [source], attrs | {"count_padding": True}, shape=shape)
        return builder.emit_affine(node, made.name, prod(attrs["kernel"]) / divisor).name
    starts = _starts(attrs, shape)
    ends = [axis[-1] + kernel - size for axis, kernel, size in zip(starts, attrs["kernel"], sizes, strict=True)]
    pads = [*attrs["padding"], *(max(end, 0) for end in ends)]
    if any(pads):
        rows, columns = (before + size + end for before, size, end in zip(pads[:2], sizes, pads[2:], strict=True))
        source = builder.emit(node, "pad", [source], {"pads": pads}, shape=(channels, rows, columns)).name
    whole = {"padding": [0, 0], "ceil": False, "count_padding": True}
    made = builder.emit(node, "avg_pool2d", [source], attrs | whole, shape=shape)
    factors = prod(attrs["kernel"]) / (_counts(attrs, sizes, starts) if divisor is None else torch.tensor(divisor))
    if factors.numel() == 1 or bool((factors == factors[0, 0]).all()):
        return builder.emit_affine(node, made.name, float(factors.flatten()[0])).name
    return builder.emit_float(node, {"other": factors.float()}, "mul.Tensor", made.name).name


def _starts(attrs: dict[str, Any], shape: tuple[int, ...]) -> list[list[int]]:
    """Where the windows of rows and of columns start, before the map if it is padded."""
    axes = zip(shape[1:], attrs["stride"], attrs["padding"], strict=True)
    return [[i * stride - padding for i in range(out)] for out, stride, padding in axes]


def _counts(attrs: dict[str, Any], sizes: Sequence[int], starts: Sequence[Sequence[int]]) -> Tensor:
    """How many values PyTorch counts in each window, `[rows, columns]`: without what is behind the padding."""
    counts = []
    for size, first, kernel, padding in zip(sizes, starts, attrs["kernel"], attrs["padding"], strict=True):
        margin = padding if attrs["count_padding"] else 0
        ends = [min(start + kernel, size + margin) - max(start, -margin) for start in first]
        counts.append(torch.tensor(ends, dtype=torch.float32))
    return counts[0][:, None] * counts[1]


WINDOWS: Final[dict[str, Handler]] = {
    **dict.fromkeys(("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default"), _max_pool2d),
    **dict.fromkeys(("aten.max_pool1d.default", "aten.max_pool1d_with_indices.default"), _max_pool1d),
    "aten.avg_pool2d.default": _avg_pool2d,
    "aten.avg_pool1d.default": _avg_pool1d,
}
