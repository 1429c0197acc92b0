"""ATen operators that take values by their number, once or more often: flips, repetitions, borders, enlargements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from edgeq.frontends.torch_export.arrange import Placed, aligned, image_dim, placed
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import unsupported


def gathered(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Whatever takes rows, columns or channels by their number: flips, repetitions, borders that repeat, enlargements.

    What is taken is found out by doing the same with the numbers themselves.
    """
    source, layout = args["input"], builder.layouts[args["input"]]
    shape, wanted = layout.sizes, builder.sizes(node).sizes
    if len(shape) != len(wanted):
        raise unsupported(node, f"{node.target} from {list(shape)} to {list(wanted)}; expected as many dimensions")
    of_two = [size * (1 + (dim == layout.axis)) for dim, size in enumerate(shape)]  # images
    found: dict[int, list[int]] = {}
    for dim, size in enumerate(of_two):
        numbers = torch.arange(size, dtype=torch.float32).reshape(-1, *[1] * (len(shape) - dim - 1)).expand(of_two)
        taken = called(builder, node, numbers)
        line = taken.movedim(dim, 0).flatten(1)
        if not (line == line[:, :1]).all():
            raise unsupported(node, f"{node.target} that does not move whole rows, columns or channels")
        found[dim] = [int(number) for number in line[:, 0]]
    with builder.seen({source: _repeated(builder, node, source, found.pop(layout.axis))}):
        _taken(builder, node, source, found)


def _repeated(builder: GraphBuilder, node: fx.Node, source: fx.Node, images: list[int]) -> Placed:
    """Every image several times, in a dimension of its own beside the batch.

    Args:
        images: the numbers of those that the program takes of two, or of the parts of two that it has merged with them.
    """
    (name, layout), count = placed(builder, source, node), 2 * builder.sizes(source).sizes[builder.layouts[source].axis]
    times = len(images) // count
    if images == list(range(count)):
        return name, layout
    if images not in ([i for i in range(count) for _ in range(times)], times * list(range(count))):
        raise unsupported(node, f"{node.target} over the batch; expected all images to stay in order")
    layout, place = layout.repeating(images[1] == images[0])
    shape = layout.shape
    name = builder.emit(node, "reshape", [name], {"sizes": list(shape)}, shape=shape).name
    layout = replace(layout, shape=(*shape[: place - 1], times, *shape[place:]))
    gather = {"dim": place, "indices": [0] * times}
    return builder.emit(node, "gather", [name], gather, shape=layout.shape).name, layout


def _taken(builder: GraphBuilder, node: fx.Node, source: fx.Node, places: Mapping[int, list[int]]) -> None:
    """What is at these places of the program's dimensions."""
    name, layout = placed(builder, source, node)
    for dim, indices in places.items():
        sizes = list(layout.sizes)
        if indices == list(range(sizes[dim])):
            continue
        place = image_dim(builder, source, node, dim)
        sizes[dim] = len(indices)
        layout = layout.resized(sizes)
        name = builder.emit(node, "gather", [name], {"dim": place, "indices": indices}, shape=layout.shape).name
    builder.alias[node], builder.layouts[node] = name, layout


def called(builder: GraphBuilder, node: fx.Node, value: Tensor) -> Tensor:
    """What a call makes of another value than its own."""

    def given(argument: Argument) -> Any:
        if isinstance(argument, list | tuple):
            return [given(item) for item in argument]
        if not isinstance(argument, fx.Node):
            return argument
        if argument not in builder.constants:
            raise unsupported(node, f"{node.target} with {argument}, which is computed; expected constants")
        return builder.constants[argument].value

    rest = [given(argument) for argument in node.args[1:]]
    found: Tensor = cast(Any, node.target)(value, *rest, **{key: given(a) for key, a in node.kwargs.items()})
    return found


def by_matrix(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A call that mixes the values of a row, in the same way in all: a product with what it makes of an identity."""
    identity = torch.eye(builder.shape(args["input"])[-1], dtype=torch.float32)
    changed = {"self": args["input"], "other": called(builder, node, identity[None])[0]}
    builder.emit_float(node, changed, "matmul.default")


def _expand(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Dimensions of one repeated; which sum or product reads them does so by itself, and then nobody reads these."""
    source, wanted = args["input"], builder.sizes(node).sizes
    layout = builder.layouts[source].widened(len(wanted))
    seen = {source: aligned(builder, source, node, layout)}
    more = {dim: [0] * to for dim, (size, to) in enumerate(zip(layout.sizes, wanted, strict=True)) if size != to}
    with builder.seen(seen):
        _taken(builder, node, source, more)


GATHERS: Final[dict[str, Handler]] = {
    **dict.fromkeys(
        (
            "aten.flip.default",
            "aten.roll.default",
            "aten.repeat.default",
            "aten.tile.default",
            "aten.index.Tensor",
            "aten.index_select.default",
            "aten.repeat_interleave.self_int",
            "aten.upsample_nearest2d.vec",
            "aten._upsample_nearest_exact2d.vec",
            "aten.upsample_nearest2d.default",
            "aten.upsample_nearest1d.vec",
            "aten._upsample_nearest_exact1d.vec",
        ),
        gathered,
    ),
    "aten.expand.default": _expand,
    "aten.expand_as.default": _expand,
}
