"""ATen operators that put values side by side: concatenations, stacks, borders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any, Final, cast

import torch
from torch import Tensor, fx

from edgeq.frontends.torch_export.arrange import aligned, image_dim, in_order, lead
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import target_name, unsupported
from edgeq.frontends.torch_export.gathers import gathered
from edgeq.frontends.torch_export.layouts import Sizes
from edgeq.frontends.torch_export.shapes import cropped, viewed
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.ir.ops.layers import pair


def _cat(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Values behind each other; constants, as a class token, are added where zeros are put beside the values."""
    parts, sizes = args["tensors"], builder.sizes(node).sizes
    computed = [part for part in parts if part in builder.alias]
    dim = args["dim"] % len(sizes)
    image_dim(builder, computed[0], node, dim)
    like = lead(builder, node, computed)
    names = {part: aligned(builder, part, node, like)[0] for part in computed}
    builder.layouts[node], place = like.resized(sizes), like.dims[dim][0]
    if len(computed) < len(parts):
        _cat_with_constants(builder, node, parts, names, dim)
    elif len(set(names.values())) == 1 < len(parts):  # as of a gray image
        indices = list(range(builder.layouts[parts[0]].sizes[dim])) * len(parts)
        builder.emit(node, "gather", list(names.values()), {"dim": place, "indices": indices})
    else:
        builder.emit(node, "cat", [names[part] for part in parts], {"dim": place})


def _cat_with_constants(
    builder: GraphBuilder, node: fx.Node, parts: Sequence[fx.Node], names: Mapping[fx.Node, str], dim: int
) -> None:
    """Zeros beside each value where the constants come, and the sum with these."""
    layout, lengths = builder.layouts[node], [int(part.meta["val"].shape[dim]) for part in parts]
    (place,), values = layout.dims[dim], [index for index, part in enumerate(parts) if part in names]
    padded = []
    for index, following in zip(values, [*values[1:], len(parts)], strict=True):
        before = sum(lengths[:index]) if index == values[0] else 0
        sides = {place: (before, sum(lengths[index + 1 : following]))}
        shape = [lengths[index] if d == place else size for d, size in enumerate(layout.shape, 1)]
        padded.append(_with_border(builder, node, names[parts[index]], shape, sides))
    if len(padded) > 1:
        builder.emit(node, "cat", padded, {"dim": place})
    constant = layout.constant(_beside_zeros(builder, node, parts, lengths, dim))
    if constant.any():
        builder.add_float(node, FloatOperator("add.Tensor", ["self"], {}, {"other": constant}), [builder.alias[node]])


def _beside_zeros(
    builder: GraphBuilder, node: fx.Node, parts: Sequence[fx.Node], lengths: Sequence[int], dim: int
) -> Tensor:
    """The constants behind each other, and zeros where the values come."""
    rank = len(builder.layouts[node].dims)
    zeros = (torch.zeros([size if d == dim else 1 for d in range(rank)], dtype=torch.float32) for size in lengths)
    held = [
        builder.tensor(part, node)[1] if part in builder.constants else nothing
        for part, nothing in zip(parts, zeros, strict=True)
    ]
    wide = [max(sizes) for sizes in zip(*(part.shape for part in held), strict=True)]
    return torch.cat([part.expand([*wide[:dim], part.shape[dim], *wide[dim + 1 :]]) for part in held], dim)


def _stack(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    (sizes, axis), parts = builder.sizes(node), args["tensors"]
    dim = args["dim"] % len(sizes)
    one = Sizes((*sizes[:dim], 1, *sizes[dim + 1 :]), axis)
    names = []
    for part in parts:
        name, layout = in_order(builder, part, node)
        builder.layouts[node] = layout.reshaped(one) or layout
        names.append(viewed(builder, node, name, builder.shape(node)))
    place = image_dim(builder, node, node, dim)
    builder.layouts[node] = builder.layouts[node].resized(sizes)
    builder.emit(node, "cat", names, {"dim": place})


def _pad(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    mode, value = args.get("mode", "constant"), float(args["value"] or 0)
    if mode != "constant":
        gathered(builder, node, args)
        return
    source, given = args["input"], [int(size) for size in args["pad"]]
    largest_alone = value == -inf and _read_by_max_pools(node, given)
    if not isfinite(value) and not largest_alone:
        raise unsupported(node, f"padding with {value}; expected a number, or a max pooling that pads by itself")
    sides = {}
    for dim, both in enumerate(zip(given[::2], given[1::2], strict=True), 1):  # the last dimension comes first
        if any(both):
            sides[image_dim(builder, source, node, -dim)] = both
    builder.layouts[node] = builder.layouts[source].resized(builder.sizes(node).sizes)
    name, shape = builder.value(source, node), builder.shape(source)
    if largest_alone:
        _with_edges_repeated(builder, node, name, sides)
        return
    if 1 in sides and len(shape) in (1, 3):
        name = _padded_channels(builder, node, name, sides.pop(1), value)
    _with_border(builder, node, name, builder.shape_of(name), sides, value)


def _read_by_max_pools(node: fx.Node, pad: Sequence[int]) -> bool:
    """Whether max poolings alone read a padded map, in windows larger than the padding, so none lies in it alone."""
    columns, rows = max(pad[:2]), max(pad[2:4], default=0)
    for user in node.users:
        if not target_name(user).startswith("aten.max_pool2d") or len(pad) > 4 or min(pad) < 0:
            return False
        kernel = pair(cast(Any, user.args[1]))
        if rows >= kernel[0] or columns >= kernel[1]:
            return False
    return True


def _with_edges_repeated(builder: GraphBuilder, node: fx.Node, name: str, sides: Mapping[int, tuple[int, int]]) -> None:
    """Padding with minus infinity before a max pooling: the value at the edge, which is in every such window, too."""
    shape = list(builder.shape_of(name))
    for dim, (before, behind) in sides.items():
        size = shape[dim - 1]
        indices = [min(max(place, 0), size - 1) for place in range(-before, size + behind)]
        shape[dim - 1] = len(indices)
        name = builder.emit(node, "gather", [name], {"dim": dim, "indices": indices}, shape=tuple(shape)).name
    builder.alias[node] = name


def _with_border(
    builder: GraphBuilder,
    node: fx.Node,
    source: str,
    shape: Sequence[int],
    sides: Mapping[int, tuple[int, int]],
    value: float = 0.0,
) -> str:
    """A number before and behind the values along some dimensions of a node of this shape; fewer values if negative."""
    pairs = [sides.get(dim, (0, 0)) for dim in range(1, len(shape) + 1)]
    wide = tuple(size + sum(pair) for size, pair in zip(shape, pairs, strict=True))
    kept = [size + min(before, 0) + min(behind, 0) for size, (before, behind) in zip(shape, pairs, strict=True)]
    source = cropped(builder, node, source, [max(-before, 0) for before, _ in pairs], kept)
    pairs = [(max(before, 0), max(behind, 0)) for before, behind in pairs]
    if any(map(any, pairs)) and value:
        whole = {"pad": [size for pair in reversed(pairs) for size in pair], "mode": "constant", "value": value}
        builder.add_float(node, FloatOperator("pad.default", ["self"], whole, {}), [source])
    elif any(map(any, pairs)):
        few = pairs if any(map(any, pairs[:-2])) else pairs[-2:]
        pads = [pair[side] for side in (0, 1) for pair in few]  # all before, then all behind
        builder.emit(node, "pad", [source], {"pads": pads}, shape=wide)
    return builder.alias[node]


def _padded_channels(builder: GraphBuilder, node: fx.Node, source: str, sides: Sequence[int], value: float) -> str:
    """Other channels put in the place of the new ones and set to a value.

    Padding them as rows are padded, OpenVINO would take the zero points of the new channels for those of the old.
    """
    channels, *rest = builder.shape_of(source)
    numbers = torch.arange(-sides[0], channels + sides[1])
    old = (numbers >= 0) & (numbers < channels)
    attrs = {"dim": 1, "indices": torch.where(old, numbers, 0).tolist()}
    taken = builder.emit(node, "gather", [source], attrs, shape=(len(numbers), *rest)).name
    return builder.emit_affine(node, taken, old.float(), (~old).float() * value).name


JOINS: Final[dict[str, Handler]] = {
    "aten.cat.default": _cat,
    "aten.concat.default": _cat,
    "aten.stack.default": _stack,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
}
