"""ATen operators that move values, and compute none: views, slices, permutations, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from torch import fx
from torch.fx.node import Argument

from edgeq.frontends.torch_export.arrange import image_dim, in_order, placed
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import unsupported
from edgeq.ir.node import Node

_VIEWS: Final = ("reshape", "flatten")


def _permute(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Dimensions of another order, which moves nothing until somebody needs them so."""
    sizes = tuple(range(2, 2 + node.meta["val"].dim()))  # all different, so that they tell which dimension is where
    call = cast(Any, node.target)
    dims = [
        sizes.index(size)
        for size in call(torch.empty(sizes, dtype=torch.float32, device="meta"), *node.args[1:], **node.kwargs).shape
    ]
    vanishing(builder, node, args)
    builder.layouts[node] = builder.layouts[node].permuted(dims)


def _reshape(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A view; where it only merges the batch with others, or takes it out again, another name."""
    source, sizes = args["input"], builder.sizes(node)
    name, layout = placed(builder, source, node)
    again = layout.regrouped(sizes)
    if again is None:
        name, layout = in_order(builder, source, node)
        again = layout.reshaped(sizes)
    if again is None:
        raise unsupported(node, f"{node.target} tears images apart; expected a view of each image by itself")
    builder.layouts[node] = again
    viewed(builder, node, name, again.shape)


def viewed(builder: GraphBuilder, node: fx.Node, source: str, shape: tuple[int, ...]) -> str:
    """A value in another shape; of views of views, only the last one counts."""
    while builder.shape_of(source) != shape and source in builder.nodes and builder.nodes[source].op in _VIEWS:
        (source,) = builder.nodes[source].inputs
    if builder.shape_of(source) == shape:
        builder.alias[node] = source
    elif len(shape) == 1:
        builder.emit(node, "flatten", [source], shape=shape)
    else:
        builder.emit(node, "reshape", [source], {"sizes": list(shape)}, shape=shape)
    return builder.alias[node]


def _piece(builder: GraphBuilder, node: fx.Node, _: dict[str, Any]) -> None:
    """One part of a split, or the first of several results."""
    whole, index = cast(fx.Node, node.args[0]), cast(int, node.args[1])
    if not node.users or node in builder.alias:  # as one of the results of an operator in float
        return
    if whole not in builder.split:
        if index != 0:
            raise unsupported(node, f"the positions that {whole.target} finds; expected its values alone")
        vanishing(builder, node, {"input": whole})
        return
    dim = builder.split[whole]
    if "unbind" in str(whole.target):
        _selected(builder, node, whole, dim, index)
        return
    sizes = [int(value.shape[dim]) for value in whole.meta["val"]]
    _sliced(builder, node, whole, dim, (sum(sizes[:index]), sum(sizes[: index + 1])))


def _split(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    builder.split[node] = args.get("dim", 0) % args["input"].meta["val"].dim()
    image_dim(builder, args["input"], node, builder.split[node])
    vanishing(builder, node, args)


def _slice(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    source, dim = args["input"], args["dim"] % args["input"].meta["val"].dim()
    before, after = builder.sizes(source).sizes, builder.sizes(node).sizes
    start, step = args["start"] or 0, args.get("step", 1)
    if before == after and step == 1 and start in (0, -before[dim]):
        vanishing(builder, node, args)
    elif step != 1:
        place = image_dim(builder, source, node, dim)
        builder.layouts[node] = builder.layouts[source].resized(after)
        indices = list(range(before[dim]))[start : args["end"] : step]
        builder.emit(node, "gather", [source], {"dim": place, "indices": indices})
    else:
        start = max(start + before[dim] if start < 0 else start, 0)
        _sliced(builder, node, source, dim, (start, start + after[dim]))


def _sliced(builder: GraphBuilder, node: fx.Node, source: fx.Node, dim: int, span: tuple[int, int]) -> Node:
    """The values from the first number of a span up to the second."""
    attrs = {"dim": image_dim(builder, source, node, dim), "start": span[0], "end": span[1]}
    sizes = list(builder.layouts[source].sizes)
    sizes[dim] = span[1] - span[0]
    builder.layouts[node] = builder.layouts[source].resized(sizes)
    return builder.emit(node, "slice", [source], attrs)


def _select(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """One of a dimension, which goes away."""
    count = args["input"].meta["val"].dim()
    _selected(builder, node, args["input"], args["dim"] % count, args["index"])


def _selected(builder: GraphBuilder, node: fx.Node, source: fx.Node, dim: int, index: int) -> None:
    place, (name, layout) = image_dim(builder, source, node, dim), placed(builder, source, node)
    size = layout.shape[place - 1]
    if size > 1:
        name = _sliced(builder, node, source, dim, (index % size, index % size + 1)).name
    builder.layouts[node] = layout.without({place})
    viewed(builder, node, name, builder.shape(node))


def cropped(
    builder: GraphBuilder, node: fx.Node, source: str, starts: Sequence[int], shape: Sequence[int], name: str = ""
) -> str:
    """A part of this shape of a node, from these places on."""
    now = list(builder.shape_of(source))
    for dim, (start, size) in enumerate(zip(starts, shape, strict=True), 1):
        if now[dim - 1] != size:
            now[dim - 1] = size
            wanted = {"dim": dim, "start": start, "end": start + size}
            source = builder.emit(node, "slice", [source], wanted, name=name, shape=tuple(now)).name
    builder.alias[node] = source
    return source


def _pixel_shuffle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`[c r r, h, w]` to `[c, h r, w r]`: depth-to-space, of channels in another order."""
    r, shape = args["upscale_factor"], builder.shape(args["input"])
    order = torch.arange(shape[0]).reshape(-1, r**2).T.flatten().tolist()
    ordered = builder.emit(node, "gather", [args["input"]], {"dim": 1, "indices": order}, shape=shape)
    builder.emit(node, "depth_to_space", [ordered.name], {"block": [r, r]})


def _pixel_unshuffle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`[c, h r, w r]` to `[c r r, h, w]`: space-to-depth, whose channels get another order."""
    r, shape = args["downscale_factor"], builder.shape(node)
    deep = builder.emit(node, "space_to_depth", [args["input"]], {"block": [r, r]})
    order = torch.arange(shape[0]).reshape(r**2, -1).T.flatten().tolist()
    builder.emit(node, "gather", [deep.name], {"dim": 1, "indices": order})


def _channel_shuffle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    groups, (channels, *size) = args["groups"], builder.shape(args["input"])
    _shuffled(builder, node, args["input"], (groups, channels // groups, *size), (0, 2, 1, *range(3, 3 + len(size))))


def _shuffled(
    builder: GraphBuilder, node: fx.Node, source: Argument, parts: Sequence[int], dims: Sequence[int]
) -> None:
    """A view in parts, whose dimensions change places, in the shape of the result."""
    seen = builder.emit(node, "reshape", [source], {"sizes": list(parts)}, shape=tuple(parts))
    turned = tuple(parts[d - 1] for d in dims[1:])
    moved = builder.emit(node, "permute", [seen.name], {"dims": list(dims)}, shape=turned)
    builder.emit(node, "reshape", [moved.name], {"sizes": list(builder.shape(node))})


def vanishing(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Another name of a value."""
    builder.alias[node], builder.layouts[node] = placed(builder, args["input"], node)


def _dropout(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["train"]:
        raise unsupported(node, "a dropout that stays active in evaluation; pass it training=self.training")
    vanishing(builder, node, args)


SHAPES: Final[dict[str, Handler]] = {
    **dict.fromkeys(
        (
            "aten.flatten.using_ints", "aten.view.default", "aten.reshape.default", "aten.unsqueeze.default",
            "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.unflatten.int",
            "aten.view_as.default", "aten.reshape_as.default",
        ),
        _reshape,
    ),
    **dict.fromkeys(
        (
            "aten.permute.default", "aten.transpose.int", "aten.movedim.int", "aten.movedim.intlist",
            "aten.moveaxis.int", "aten.moveaxis.intlist", "aten.swapaxes.default", "aten.swapdims.default",
            "aten.mT.default", "aten.t.default", "aten.numpy_T.default",
        ),
        _permute,
    ),
    "aten.chunk.default": _split,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.unbind.int": _split,
    "<built-in function getitem>": _piece,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": _slice,
    "aten.select.int": _select,
    **dict.fromkeys(
        (
            "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default",
            "aten.feature_alpha_dropout.default",
        ),
        _dropout,
    ),
    **dict.fromkeys(
        (
            "aten.contiguous.default", "aten.clone.default", "aten.alias.default", "aten.detach.default",
        ),
        vanishing,
    ),
}  # fmt: skip

SHUFFLES: Final[dict[str, Handler]] = {
    "aten.pixel_shuffle.default": _pixel_shuffle,
    "aten.pixel_unshuffle.default": _pixel_unshuffle,
    "aten.channel_shuffle.default": _channel_shuffle,
}
