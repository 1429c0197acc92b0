"""Operators that move values and compute none, and those that make shapes."""

from __future__ import annotations

from math import inf, prod
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.artifacts.onnx_files import LARGEST_PADDING
from edgeq.frontends.onnx.call import Call, Handler
from edgeq.frontends.onnx.tensors import as_tensor
from edgeq.numerics.activations import MAX_ELEMENTS

_PADDINGS: Final = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def sizes_of_reshape(call: Call, shape: list[int]) -> list[int]:
    """What a Reshape or a Flatten makes of a value of this shape, without 0 and -1."""
    if call.op == "Flatten":
        axis = call.integer("axis", 1)
        axis += len(shape) if axis < 0 else 0
        return [prod(shape[:axis]), prod(shape[axis:])]
    given = [int(size) for size in (call.numbers(1) if call.has(1) else call.integers("shape"))]
    if not call.integer("allowzero", 0):
        given = [shape[place] if size == 0 and place < len(shape) else size for place, size in enumerate(given)]
    known = prod(size for size in given if size != -1)
    found = [prod(shape) // known if size == -1 and known else size for size in given]
    if prod(found) != prod(shape) or min(found, default=1) < 0:
        raise call.refuse(f"of {shape} to {given}; expected as many numbers")
    return found


def _reshape(call: Call, x: Tensor, *_: Tensor) -> Tensor:
    return x.reshape(call.target or sizes_of_reshape(call, list(x.shape)))


def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.integers("perm", range(x.dim())[::-1]))


def _squeeze(call: Call, x: Tensor, *_: Tensor) -> Tensor:
    axes = call.axes(x.dim()) or [axis for axis, size in enumerate(x.shape) if size == 1]
    if wrong := [axis for axis in axes if x.shape[axis] != 1]:
        raise call.refuse(f"of axis {wrong[0]} of {list(x.shape)}; expected a size of 1")
    return x.squeeze(axes) if axes else x


def _unsqueeze(call: Call, x: Tensor, *_: Tensor) -> Tensor:
    for axis in sorted(call.axes(x.dim() + len(call.numbers(1) if call.has(1) else call.integers("axes")))):
        x = x.unsqueeze(axis)
    return x


def _concat(call: Call, *values: Tensor) -> Tensor:
    """Behind each other; a constant for a batch of one is repeated for every image."""
    axis = call.integer("axis", 1) % values[0].dim()
    computed = [value for value, static in zip(values, call.static, strict=True) if static is None]
    if not computed or len(computed) == len(values):
        return torch.cat(values, axis)
    like = computed[0].shape
    wide = [size if dim != axis else -1 for dim, size in enumerate(like)]
    parts = [value if static is None else value.expand(wide) for value, static in zip(values, call.static, strict=True)]
    return torch.cat(parts, axis)


def _split(call: Call, x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    axis = call.integer("axis", 0) % x.dim()
    sizes = call.numbers(1) if call.has(1) else call.integers("split")
    each = -(-x.shape[axis] // max(call.integer("num_outputs", len(call.outputs)), 1))
    return torch.split(x, sizes or each, axis)


def _slice(call: Call, x: Tensor, *_: Tensor | None) -> Tensor:
    """Parts of some axes; steps back are a flip first."""
    if call.has(1):
        starts, ends = call.numbers(1), call.numbers(2)
        axes = call.numbers(3) if call.has(3) else list(range(len(starts)))
        steps = call.numbers(4) if call.has(4) else [1] * len(starts)
    else:
        starts, ends = call.integers("starts"), call.integers("ends")
        axes, steps = call.integers("axes", range(len(starts))), [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        if not isinstance(size, int):  # the batch, of which nothing may be cut off
            if (start, step) != (0, 1) or end < 2**31 - 1:
                raise call.refuse("of the batch; expected the same for every image")
            continue
        first, last, by = slice(start, end, step).indices(size)
        if step > 0:
            x = aten_slice(x, axis, first, last, by)
        else:
            x = x.flip(axis)
            x = aten_slice(x, axis, size - 1 - first, size - 1 - last, -by)
    return x


def aten_slice(x: Tensor, axis: int, first: int, last: int, step: int) -> Tensor:
    """The numbers from the first up to the last of one axis."""
    place: list[slice] = [slice(None)] * (axis % x.dim())
    return x[(*place, slice(first, max(first, last), step))]


def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.integer("axis", 0) % x.dim()
    if call.static[1] is None:
        if axis or call.static[0] is None:
            raise call.refuse("at places that are computed from the images; expected constants")
        return F.embedding(indices.long(), x)
    places = call.constant(1)
    if places.dim() == 0:
        return x.select(axis, int(places.item()))
    size = x.shape[axis]
    if places.dim() != 1:
        made = x.index_select(axis, _counted(indices.flatten(), size))
        return torch.unflatten(made, axis, list(places.shape))
    numbers = [int(number) % size for number in places.tolist()]
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return x.narrow(axis, numbers[0], len(numbers))
    return x.index_select(axis, _counted(indices, size))


def _counted(indices: Tensor, size: int) -> Tensor:
    """Places counted from the front."""
    return torch.where(indices < 0, indices + size, indices).long()


def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.integer("axis", 0) % x.dim()
    return torch.gather(x, axis, _counted(indices, x.shape[axis]))


def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = call.integer("axis", 0) % x.dim(), call.text("reduction", "none")
    if how not in ("none", "add"):
        raise call.refuse(f"with reduction {how}; expected none or add")
    places = _counted(indices, x.shape[axis])
    return x.scatter(axis, places, updates) if how == "none" else x.scatter_add(axis, places, updates)


def _gather_nd(call: Call, x: Tensor, _: Tensor) -> Tensor:
    """At constant places, of axes that come one after the other."""
    places, first = call.constant(1), call.integer("batch_dims", 0)
    if first:
        raise call.refuse(f"with batch_dims {first}; expected 0")
    count = places.shape[-1]
    sizes = x.shape[:count]
    moved = [_counted(places[..., axis], size) for axis, size in enumerate(sizes)]
    flat = moved[0]
    for index, size in zip(moved[1:], sizes[1:], strict=True):
        flat = flat * size + index
    made = x.flatten(0, count - 1).index_select(0, flat.flatten().to(x.device))
    return made.reshape(*places.shape[:-1], *x.shape[count:])


def _one_hot(call: Call, x: Tensor, *_: Tensor) -> Tensor:
    depth, (low, high) = int(call.number(1)), call.numbers(2)
    classes = torch.arange(depth, device=x.device)
    places = torch.where(x < 0, x + depth, x)
    return torch.where(places.unsqueeze(-1) == classes, high, low).movedim(-1, call.integer("axis", -1))


def _expand(call: Call, x: Tensor, _: Tensor) -> Tensor:
    """A size of 1 leaves what is there, so that the batch stays."""
    sizes = [int(size) for size in call.numbers(1)]
    x = x.reshape(*[1] * (len(sizes) - x.dim()), *x.shape) if len(sizes) > x.dim() else x
    more = x.dim() - len(sizes)
    wanted = [1] * more + sizes
    return x.expand([-1 if size == 1 else size for size in wanted])


def _tile(call: Call, x: Tensor, _: Tensor) -> Tensor:
    return x.repeat([int(size) for size in call.numbers(1)])


def _pad(call: Call, x: Tensor, *_: Tensor | None) -> Tensor:
    pads = [int(size) for size in (call.numbers(1) if call.has(1) else call.integers("pads"))]
    value = (
        (call.number(2) if call.has(2) else call.real("value", 0.0)) if len(call.inputs) > 1 or call.opset < 11 else 0
    )
    rank = x.dim()
    if call.has(3):
        axes = call.axes(rank, 3)
        both = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
        pairs = [both.get(axis, (0, 0)) for axis in range(rank)]
    else:
        pairs = list(zip(pads[:rank], pads[rank:], strict=True))
    while len(pairs) > 1 and pairs[0] == (0, 0):
        pairs = pairs[1:]
    flat = [size for pair in reversed(pairs) for size in pair]
    mode = call.text("mode", "constant")
    if max(map(abs, flat), default=0) > LARGEST_PADDING:
        raise call.refuse(f"by {max(map(abs, flat))}; expected at most {LARGEST_PADDING}")
    if not any(flat):
        return x
    if mode == "constant":
        return F.pad(x, flat, value=float(value) if abs(value) < inf else value)
    if mode not in _PADDINGS:
        raise call.refuse(f"with mode {mode}; expected constant, {', '.join(_PADDINGS)}")
    axes_padded = len(pairs)
    for place, (before, behind) in enumerate(pairs, rank - axes_padded):  # any axis, by the places of its numbers
        if before or behind:
            numbers = torch.arange(x.shape[place], dtype=torch.float32)[None, None]
            order = F.pad(numbers, (before, behind), mode=_PADDINGS[mode]).long().flatten()
            x = x.index_select(place, order.to(x.device))
    return x


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    block = call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    order = torch.arange(x.shape[1], device=x.device).reshape(block * block, -1).T.flatten()
    return F.pixel_shuffle(x.index_select(1, order), block)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    block = call.integer("blocksize", 1)
    made = F.pixel_unshuffle(x, block)
    if call.text("mode", "DCR") == "CRD":
        return made
    order = torch.arange(made.shape[1], device=x.device).reshape(-1, block * block).T.flatten()
    return made.index_select(1, order)


def _trilu(call: Call, x: Tensor, *_: Tensor) -> Tensor:
    """What is above or below a diagonal, by a mask, which is the same for all images."""
    k = int(call.number(1)) if call.has(1) else 0
    ones = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    mask = ones.triu(k) if call.integer("upper", 1) else ones.tril(k)
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def _constant_of_shape(call: Call, _: Tensor) -> Tensor:
    sizes = [int(size) for size in call.numbers(0)]
    if min(sizes, default=1) < 0 or prod(sizes) > MAX_ELEMENTS:
        raise call.refuse(f"makes {sizes}; expected at most {MAX_ELEMENTS} numbers")
    value = call.attributes.get("value")
    return torch.full(sizes, 0.0) if value is None else as_tensor(value).reshape(()).expand(sizes).clone()


def _range(call: Call, *_: Tensor) -> Tensor:
    start, end, step = (call.constant(place) for place in range(3))
    if step.item() == 0 or (end - start).item() / step.item() > MAX_ELEMENTS:
        raise call.refuse(f"makes too many numbers; expected at most {MAX_ELEMENTS}")
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def _shape(call: Call, x: Tensor) -> Tensor:
    sizes = list(x.shape)
    return torch.tensor(
        sizes[call.attributes.get("start", 0) : call.attributes.get("end", len(sizes))], dtype=torch.int64
    )


def _size(_: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


SHAPES: Final[dict[str, Handler]] = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "ScatterElements": _scatter_elements,
    "Scatter": _scatter_elements,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _trilu,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Shape": _shape,
    "Size": _size,
}
