"""ATen operators that move values, and compute none: views, slices, permutations, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, Final, cast

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import unsupported
from edgeq.ir.node import Node

_VIEWS: Final = ("reshape", "flatten")


def _permute(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Channels to the end or back, which only renames a map, or dimensions of another order."""
    sizes = tuple(range(2, 2 + node.meta["val"].dim()))  # all different, so that they tell which dimension is where
    call = cast(Any, node.target)
    dims = [
        sizes.index(size)
        for size in call(torch.empty(sizes, dtype=torch.float32, device="meta"), *node.args[1:], **node.kwargs).shape
    ]
    turned = args["input"] in builder.last
    if dims == ([0, 3, 1, 2] if turned else [0, 2, 3, 1]):
        vanishing(builder, node, args)
        (builder.last.discard if turned else builder.last.add)(node)
        return
    if turned:
        builder.last.discard(node)
        builder.lay_out(args["input"])
    if dims[0] != 0:
        raise unsupported(node, f"a permutation to {dims}; expected one that leaves the batch first")
    if dims == sorted(dims):
        vanishing(builder, node, args)
    else:
        builder.emit(node, "permute", [args["input"]], {"dims": dims})


def _reshape(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A view of each image by itself."""
    before, after = args["input"].meta["val"], node.meta["val"]
    if not after.dim() or str(after.shape[0]) != str(before.shape[0]):
        raise unsupported(node, f"{node.target} that mixes the batch with other dimensions")
    viewed(builder, node, builder.value(args["input"], node), builder.shape(node))


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
    if not node.users:
        return
    if whole not in builder.split:
        if index != 0:
            raise unsupported(node, f"the positions that {whole.target} finds; expected its values alone")
        builder.alias[node] = builder.value(whole, node)
        return
    dim = builder.split[whole]
    if "unbind" in str(whole.target):
        _selected(builder, node, whole, dim, index)
        return
    sizes = [int(value.shape[dim]) for value in whole.meta["val"]]
    _slice_of(builder, node, whole, dim, sum(sizes[:index]), sum(sizes[: index + 1]))


def _split(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    builder.split[node] = args.get("dim", 0) % args["input"].meta["val"].dim()
    vanishing(builder, node, args)


def _slice(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    before, dim = args["input"].meta["val"], args["dim"] % args["input"].meta["val"].dim()
    size, length = int(before.shape[dim]) if dim else 0, node.meta["val"].shape[dim]
    start, step = args["start"] or 0, args.get("step", 1)
    if dim == 0 and start == 0 and str(length) == str(before.shape[0]):
        vanishing(builder, node, args)
    elif step != 1 and dim:
        indices = list(range(size))[start : args["end"] : step]
        builder.emit(node, "gather", [args["input"]], {"dim": dim, "indices": indices})
    elif dim and int(length) == size:
        vanishing(builder, node, args)
    else:
        start = max(start + size if start < 0 else start, 0)
        _slice_of(builder, node, args["input"], dim, start, start + int(length))


def _select(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """One of a dimension, which goes away."""
    count = args["input"].meta["val"].dim()
    _selected(builder, node, args["input"], args["dim"] % count, args["index"])


def _selected(builder: GraphBuilder, node: fx.Node, source: fx.Node, dim: int, index: int) -> None:
    shape_before = builder.shape_of(builder.value(source, node))
    shape = list(shape_before)
    start = index % (shape[dim - 1] if dim else 1)
    shape[dim - 1] = 1
    name = builder.value(source, node)
    if dim == 0 or shape_before[dim - 1] > 1:
        name = _slice_of(builder, node, source, dim, start, start + 1, tuple(shape)).name
    viewed(builder, node, name, builder.shape(node))


def _slice_of(
    builder: GraphBuilder,
    node: fx.Node,
    source: Argument,
    dim: int,
    start: int,
    end: int,
    shape: tuple[int, ...] | None = None,
) -> Node:
    if dim == 0:
        raise unsupported(node, "a part of the batch; expected all images to go the same way")
    return builder.emit(node, "slice", [source], {"dim": dim, "start": start, "end": end}, shape=shape)


def _gather(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Whatever takes rows, columns or channels by their number: flips, repetitions, borders that repeat, enlargements.

    What is taken is found out by doing the same with the numbers themselves.
    """
    shape, wanted = builder.shape(args["input"]), builder.shape(node)
    if len(shape) != len(wanted):
        raise unsupported(node, f"{node.target} from {list(shape)} to {list(wanted)}; expected as many dimensions")
    source: Argument | str = builder.value(args["input"], node)
    moved = list(shape)
    for dim, size in enumerate((2, *shape)):  # of two images
        numbers = torch.arange(size, dtype=torch.float32).reshape(-1, *[1] * (len(shape) - dim)).expand(2, *shape)
        taken = _called(builder, node, numbers)
        line = taken.movedim(dim, 0).flatten(1)
        if taken.shape[1:] != wanted or not (line == line[:, :1]).all():
            raise unsupported(node, f"{node.target} that does not move whole rows, columns or channels")
        indices = [int(number) for number in line[:, 0]]
        if dim == 0 and indices != [0, 1]:
            raise unsupported(node, f"{node.target} over the batch; expected all images to stay in order")
        if dim and indices != list(range(size)):
            moved[dim - 1] = len(indices)
            attrs = {"dim": dim, "indices": indices}
            source = builder.emit(node, "gather", [source], attrs, shape=tuple(moved)).name
    builder.alias[node] = cast(str, source)


def _called(builder: GraphBuilder, node: fx.Node, value: Tensor) -> Tensor:
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


def _expand(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Dimensions of one repeated; which sum or product reads them does so by itself, and then nobody reads these."""
    shape, wanted = builder.shape(args["input"]), builder.shape(node)
    if len(shape) != len(wanted):
        raise unsupported(node, f"{node.target} from {list(shape)} to {list(wanted)}; expected as many dimensions")
    source: Argument | str = builder.value(args["input"], node)
    moved = list(shape)
    for dim, (size, size_wanted) in enumerate(zip(shape, wanted, strict=True), 1):
        if size != size_wanted:
            moved[dim - 1] = size_wanted
            attrs = {"dim": dim, "indices": [0] * size_wanted}
            source = builder.emit(node, "gather", [source], attrs, shape=tuple(moved)).name
    builder.alias[node] = cast(str, source)


def _cat(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    dim = args["dim"] % node.meta["val"].dim()
    if dim == 0:
        raise unsupported(node, "a concatenation over the batch; expected channels")
    names = [builder.value(value, node) for value in args["tensors"]]
    if len(set(names)) == 1 < len(names):  # as of a gray image
        indices = list(range(builder.shape(args["tensors"][0])[dim - 1])) * len(names)
        builder.emit(node, "gather", names[:1], {"dim": dim, "indices": indices})
    else:
        builder.emit(node, "cat", names, {"dim": dim})


def _stack(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    dim = args["dim"] % node.meta["val"].dim()
    if dim == 0:
        raise unsupported(node, "a stack over the batch; expected channels")
    names = []
    for value in args["tensors"]:
        shape = list(builder.shape(value))
        shape.insert(dim - 1, 1)
        names.append(builder.emit(node, "reshape", [value], {"sizes": shape}, shape=tuple(shape)).name)
    builder.emit(node, "cat", names, {"dim": dim})


def _pad(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    mode, value = args.get("mode", "constant"), float(args["value"] or 0)
    if mode != "constant":
        _gather(builder, node, args)
        return
    if not isfinite(value):
        raise unsupported(node, f"padding with {value}; expected a number, or a max pooling that pads by itself")
    shape = builder.shape(args["input"])
    sides = [int(size) for size in args["pad"]]  # before and after the last dimension, then those of the one before
    sides += [0] * (2 * len(shape) - len(sides))
    if any(sides[2 * len(shape) :]):
        raise unsupported(node, "padding of the batch; expected channels, rows and columns")
    source = builder.value(args["input"], node)
    if len(shape) in (1, 3) and any(sides[-2:]):
        source = _padded_channels(builder, node, source, sides[-2:], value)
        sides[-2:] = 0, 0
    if any(sides) and (value or min(sides) < 0):
        changed = {"pad": sides, "mode": "constant", "value": value}
        builder.emit_float(node, changed, "pad.default", source)
    elif any(sides):
        rows = sides[:4] if not any(sides[4:]) else sides
        pads = [size for side in (0, 1) for size in reversed(rows[side::2])]  # all before, then all behind
        builder.emit(node, "pad", [source], {"pads": pads})


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


def _pixel_shuffle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`[c r r, h, w]` to `[c, h r, w r]`."""
    r, (channels, height, width) = args["upscale_factor"], builder.shape(args["input"])
    _shuffled(builder, node, args["input"], (channels // r**2, r, r, height, width), (0, 1, 4, 2, 5, 3))


def _pixel_unshuffle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`[c, h r, w r]` to `[c r r, h, w]`."""
    r, (channels, height, width) = args["downscale_factor"], builder.shape(args["input"])
    _shuffled(builder, node, args["input"], (channels, height // r, r, width // r, r), (0, 1, 3, 5, 2, 4))


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
    builder.alias[node] = builder.value(args["input"], node)


def _converted(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """To another type; all that is computed is float32, and the precision of the others makes no difference."""
    if not node.meta["val"].dtype.is_floating_point:
        raise unsupported(node, f"a conversion to {node.meta['val'].dtype}; expected floating-point numbers")
    vanishing(builder, node, {"input": node.args[0]} | args)


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
            "aten.mT.default", "aten.t.default",
        ),
        _permute,
    ),
    **dict.fromkeys(
        (
            "aten.flip.default", "aten.roll.default", "aten.repeat.default", "aten.tile.default", "aten.index.Tensor",
            "aten.index_select.default", "aten.repeat_interleave.self_int", "aten.upsample_nearest2d.vec",
            "aten._upsample_nearest_exact2d.vec", "aten.upsample_nearest2d.default",
        ),
        _gather,
    ),
    "aten.expand.default": _expand,
    "aten.expand_as.default": _expand,
    "aten.cat.default": _cat,
    "aten.concat.default": _cat,
    "aten.stack.default": _stack,
    "aten.chunk.default": _split,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.unbind.int": _split,
    "<built-in function getitem>": _piece,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": _slice,
    "aten.select.int": _select,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.pixel_shuffle.default": _pixel_shuffle,
    "aten.pixel_unshuffle.default": _pixel_unshuffle,
    "aten.channel_shuffle.default": _channel_shuffle,
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
    **dict.fromkeys(
        ("aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten.type_as.default", "aten.to.other"), _converted
    ),
}  # fmt: skip
