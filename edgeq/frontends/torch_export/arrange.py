"""Values of a program with their dimensions where a call needs them: only here are permutations made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import fx

from edgeq.frontends.torch_export.builder import GraphBuilder
from edgeq.frontends.torch_export.calls import target_name, unsupported
from edgeq.frontends.torch_export.layouts import Layout

Placed = tuple[str, Layout]
"""A node, and how a value of the program lies in it."""

_EXPANSIONS = ("aten.expand.default", "aten.expand_as.default")


def placed(builder: GraphBuilder, source: fx.Node, user: fx.Node) -> Placed:
    """A value as it is."""
    return builder.value(source, user), builder.layouts[source]


def turned(builder: GraphBuilder, source: fx.Node, user: fx.Node, order: Sequence[int]) -> Placed:
    """A value with the dimensions of its node in this order, the batch left aside."""
    name, layout = placed(builder, source, user)
    if list(order) == sorted(order):
        return name, layout
    layout = layout.turned(order)
    return builder.moved(source, name, "permute", {"dims": [0, *order]}, layout.shape), layout


def in_order(builder: GraphBuilder, source: fx.Node, user: fx.Node) -> Placed:
    """A value whose node has its dimensions in the order of the program, the batch left aside."""
    return turned(builder, source, user, placed(builder, source, user)[1].order)


def plain(builder: GraphBuilder, source: fx.Node, user: fx.Node) -> Placed:
    """A value as the program has it, for calls that need every dimension at its place."""
    name, layout = in_order(builder, source, user)
    if not layout.is_plain and layout.sizes[layout.axis] == 1 and layout.axis == 0:  # merged with dimensions of one
        shape = layout.sizes[1:]
        return builder.moved(source, name, "reshape", {"sizes": list(shape)}, shape), Layout.plain(shape)
    if not layout.is_plain:
        where = source if user.op == "output" else user
        raise unsupported(where, f"{user.target} of values {_described(layout)}; expected the batch first and alone")
    return name, layout


def first(builder: GraphBuilder, source: fx.Node, user: fx.Node, dim: int) -> Placed:
    """A value whose node has a dimension of the program first behind the batch, as channels are."""
    layout = builder.layouts[source]
    place = image_dim(builder, source, user, dim)
    return turned(builder, source, user, [place, *(d for d in range(1, len(layout.shape) + 1) if d != place)])


def image_dim(builder: GraphBuilder, source: fx.Node, user: fx.Node, dim: int) -> int:
    """Where a dimension of the program is in the node; an error if it has the batch."""
    place = placed(builder, source, user)[1].node_dim(dim)
    if not place:
        raise unsupported(user, f"{user.target} over the batch; expected dimensions of one image")
    return place


def lead(builder: GraphBuilder, node: fx.Node, sources: Iterable[fx.Node]) -> Layout:
    """The layout of one of the values of a call, in which all can be: of one of the size of the result, if any is.

    One that has been permuted is left so: what is computed from a map with its channels last stays a map.
    """
    sizes = builder.sizes(node).sizes
    layouts = [builder.layouts[source] for source in sources]
    wide = [layout for layout in layouts if len(layout.dims) == len(sizes)] or [layouts[0].widened(len(sizes))]
    return min(wide, key=lambda layout: (layout.sizes != sizes, layout.in_order))


def aligned(builder: GraphBuilder, source: fx.Node, user: fx.Node, like: Layout) -> Placed:
    """A value that is broadcast with another, with the dimensions of its node where the other has them."""
    layout = builder.layouts[source]
    order = layout.matched(like)
    if order is None:
        both = f"{_described(layout)} and {_described(like)}"
        raise unsupported(user, f"{user.target} of values {both}, which put different images together")
    name, layout = turned(builder, source, user, [dim for dim in order if dim])
    shape = iter(layout.shape)
    seen = tuple(1 if dim is None else next(shape) for dim in order)
    if seen != layout.shape:
        name = builder.moved(source, name, "reshape", {"sizes": list(seen)}, seen)
    return name, Layout(like.dims, seen)


def broadcast(builder: GraphBuilder, node: fx.Node, sources: Iterable[fx.Node]) -> Mapping[fx.Node, Placed]:
    """The computed values of a call that takes them number by number, aligned with each other.

    What was only repeated to the size of another one is taken as it was before: the call repeats it by itself.
    """
    sizes = builder.sizes(node).sizes
    own = {source: source for source in sources}
    if any(builder.sizes(source).sizes == sizes for source in own if not _is_expanded(builder, source)):
        own = {source: _unexpanded(builder, source) for source in own}
    like = lead(builder, node, own.values())
    builder.layouts[node] = like.resized(sizes)
    return {source: aligned(builder, value, node, like) for source, value in own.items()}


def _is_expanded(builder: GraphBuilder, value: fx.Node) -> bool:
    return target_name(value) in _EXPANSIONS and value.args[0] in builder.alias


def _unexpanded(builder: GraphBuilder, value: fx.Node) -> fx.Node:
    while _is_expanded(builder, value):
        value = cast(fx.Node, value.args[0])
    return value


def _described(layout: Layout) -> str:
    """The shape of a value as a program has it, with `n` for the batch."""
    counts = layout.sizes
    named = [
        (str(size) if place != layout.axis else "n" if size == 1 else f"{size} * n")
        for place, size in enumerate(counts)
    ]
    return f"[{', '.join(named)}]"
