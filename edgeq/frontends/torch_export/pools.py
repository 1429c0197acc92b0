"""ATen operators over several values of a map: pooling, and reductions, many of which are a pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final, cast

import torch
from torch import fx

from edgeq.frontends.torch_export.arrange import image_dim
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import unsupported
from edgeq.frontends.torch_export.gathers import by_matrix
from edgeq.frontends.torch_export.shapes import vanishing, viewed
from edgeq.frontends.torch_export.windows import adaptive_windows, maximum_of, tiles
from edgeq.ir.node import Node
from edgeq.ir.ops.op import Run
from edgeq.ir.ops.registry import OPS


def _adaptive(op: str) -> Handler:
    """Pooling to a size: of everything, of tiles, or of windows that overlap, whose averages stay in float."""

    def handle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
        size, have = list(builder.shape(node)[1:]), list(builder.shape(args["input"])[1:])
        if size == [1, 1] and op == "avg_pool2d":
            builder.emit(node, "global_avg_pool", [args["input"]])
        elif size == have:
            vanishing(builder, node, args)
        elif all(h % s == 0 for h, s in zip(have, size, strict=True)):
            kernel = [h // s for h, s in zip(have, size, strict=True)]
            builder.emit(node, op, [args["input"]], tiles(op, kernel))
        elif op == "max_pool2d":
            windows = [adaptive_windows(h, s) for h, s in zip(have, size, strict=True)]
            maximum_of(builder, node, builder.value(args["input"], node), windows)
        else:
            builder.emit_float(node, {"output_size": size})

    return handle


def _adaptive_1d(op: str) -> Handler:
    """Pooling of rows of values to a size, as of maps of one row."""

    def handle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
        (channels, length), (_, out) = builder.shape(args["input"]), builder.shape(node)
        if out == 1 and _pooled(builder, node, args, [2], op):
            return
        if op == "avg_pool2d" and length % out:
            by_matrix(builder, node, args)
            return
        seen = viewed(builder, node, builder.value(args["input"], node), (channels, 1, length))
        if op == "max_pool2d":
            made = maximum_of(builder, node, seen, [[[0]], adaptive_windows(length, out)])
        else:
            made = builder.emit(node, op, [seen], tiles(op, [1, length // out]), shape=(channels, 1, out)).name
        viewed(builder, node, made, (channels, out))

    return handle


def _dims(builder: GraphBuilder, node: fx.Node, args: Mapping[str, Any]) -> list[int]:
    """The dimensions of the node that are reduced; also settles how the result lies."""
    source, given = args["input"], args.get("dim")
    count = source.meta["val"].dim()
    dims = [given] if isinstance(given, int) else given or range(count)
    found = sorted(image_dim(builder, source, node, d % count) for d in dims)
    layout = builder.layouts[source]
    kept = layout.resized(builder.sizes(node).sizes) if args.get("keepdim") else layout.without(found)
    builder.layouts[node] = kept
    return found


def _mean(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    dims = _dims(builder, node, args)
    if not _pooled(builder, node, args, dims, "avg_pool2d"):
        builder.emit_float(node, {"dim": dims, "dtype": None})


def _maximum(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`amax`, or the values of `max` over a dimension."""
    dims = _dims(builder, node, args)
    if not _pooled(builder, node, args, dims, "max_pool2d"):
        builder.emit_float(node, {"dim": dims}, "amax.default")


def _minimum(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    builder.emit_float(node, {"dim": _dims(builder, node, args)}, "amin.default")


def _sum(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A mean times the number of values."""
    dims, shape = _dims(builder, node, args), builder.shape(node)
    count = prod(builder.shape(args["input"])[d - 1] for d in dims)
    if len(shape) in (1, 3) and _pooled(builder, node, args, dims, "avg_pool2d"):
        builder.emit_affine(node, builder.alias[node], float(count))
    else:
        builder.emit_float(node, {"dim": dims, "dtype": None})


def _pooled(builder: GraphBuilder, node: fx.Node, args: Mapping[str, Any], dims: list[int], op: str) -> bool:
    """Reduce by pooling: each channel of a map, however it was seen before, or its rows, or its columns."""
    source = builder.value(args["input"], node)
    whole = _channels_reduced(builder, source, dims, op)
    if whole is not None:
        channels, *size = builder.shape_of(whole)
        pooling = ("global_avg_pool", {}) if op == "avg_pool2d" else (op, tiles(op, size))
        made = builder.emit(node, pooling[0], [whole], pooling[1], shape=(channels, 1, 1))
    elif len(builder.shape(args["input"])) == 3 and dims in ([2], [3]):
        channels, *size = builder.shape(args["input"])
        kernel = [size[0], 1] if dims == [2] else [1, size[1]]
        left = tuple(s // k for s, k in zip(size, kernel, strict=True))
        made = builder.emit(node, op, [source], tiles(op, kernel), shape=(channels, *left))
    else:
        return False
    if made.shape != builder.shape(node):
        if len(builder.shape(node)) == 1:
            builder.follow(node, made, "flatten", builder.shape(node), {})
        else:
            viewed(builder, node, made.name, builder.shape(node))
    return True


def _channels_reduced(builder: GraphBuilder, source: str, dims: list[int], op: str) -> str | None:
    """The map whose channels are reduced one by one, if that is what a reduction of these dimensions does.

    The way there is followed back over views, permutations and poolings of the same kind.
    """
    found, name = None, source
    way: list[Node] = []
    while True:
        shape = builder.shape_of(name)
        if len(shape) == 3 and _is_by_channel(shape, way, dims):
            found = name
        if builder.op(name) not in ("reshape", "flatten", "permute") and not _is_tiling(builder, name, op):
            return found
        way.insert(0, builder.nodes[name])
        (name,) = way[0].inputs


def _is_by_channel(shape: tuple[int, ...], way: Sequence[Node], dims: list[int]) -> bool:
    """Whether some steps and a reduction put together what is of the same channel: the channels' numbers tell."""
    channels = torch.arange(shape[0], dtype=torch.float32)[:, None]
    numbers = channels.reshape(1, -1, 1, 1).expand(1, *shape)
    for step in way:
        numbers = cast(Run, OPS[step.op].run)([numbers], step.attrs)
    kept = [d for d in range(numbers.dim()) if d not in dims]
    rows = numbers.permute(*kept, *dims).reshape(-1, prod(numbers.shape[d] for d in dims))
    return len(rows) == shape[0] and bool((rows == channels).all())


def _is_tiling(builder: GraphBuilder, name: str, op: str) -> bool:
    """Whether a node pools every pixel once, as many in each window."""
    node = builder.nodes.get(name)
    if node is None or node.op != op or node.attrs["kernel"] != node.attrs["stride"] or any(node.attrs["padding"]):
        return False
    sizes = builder.shape_of(node.inputs[0])[1:]
    return all(s % k == 0 for s, k in zip(sizes, node.attrs["kernel"], strict=True))


def _over(operator: str) -> Handler:
    """A reduction that stays in float."""
    return lambda builder, node, args: builder.emit_float(
        node, {"dim": _dims(builder, node, args), "dtype": None}, operator
    )


def _argument(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    (dim,) = dims if len(dims := _dims(builder, node, args)) == 1 else (None,)
    if dim is None:
        raise unsupported(node, f"{node.target} over {dims}; expected one dimension")
    builder.emit_float(node, {"dim": dim})


def _spread(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A variance or standard deviation, in the one form that has all options."""
    correction = args.get("correction", 1 if args.get("unbiased", True) else 0)
    packet = "std" if "std" in str(node.target) else "var"
    changed = {
        "dim": _dims(builder, node, args),
        "correction": 1 if correction is None else correction,
        "unbiased": None,
    }
    builder.emit_float(node, changed | {"keepdim": bool(args.get("keepdim"))}, f"{packet}.correction")


_REDUCTIONS: Final[dict[str, Handler]] = {
    "aten.mean.dim": _mean,
    "aten.sum.dim_IntList": _sum,
    "aten.amax.default": _maximum,
    "aten.max.dim": _maximum,
    "aten.amin.default": _minimum,
    "aten.min.dim": _minimum,
    "aten.logsumexp.default": _over("logsumexp.default"),
    "aten.linalg_vector_norm.default": _over("linalg_vector_norm.default"),
    "aten.argmax.default": _argument,
    "aten.argmin.default": _argument,
    **dict.fromkeys(
        ("aten.std.dim", "aten.std.correction", "aten.var.dim", "aten.var.correction"),
        _spread,
    ),
}

REDUCTIONS: Final = frozenset(_REDUCTIONS)
"""Those that take values however they lie."""

POOLS: Final[dict[str, Handler]] = _REDUCTIONS | {
    "aten.adaptive_avg_pool2d.default": _adaptive("avg_pool2d"),
    "aten.adaptive_max_pool2d.default": _adaptive("max_pool2d"),
    "aten.adaptive_avg_pool1d.default": _adaptive_1d("avg_pool2d"),
    "aten.adaptive_max_pool1d.default": _adaptive_1d("max_pool2d"),
    "aten.upsample_linear1d.vec": by_matrix,
}
