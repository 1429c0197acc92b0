"""Where the dimensions of a program's value are in the node that holds it.

In a graph the batch always comes first and alone. A program may put it anywhere, and merge it with other dimensions:
windows of an image as `[n * windows, pixels, channels]`, a sequence as `[time, n, channels]`. A `Layout` says how a
value of the program lies relative to the value of its node, so a permutation moves nothing by itself: whoever needs
another order of dimensions asks for it (`edgeq.frontends.torch_export.arrange`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, cast

from torch import SymInt, Tensor


class Sizes(NamedTuple):
    """The shape of a program's value for a batch of one image, and which dimension has the batch."""

    sizes: tuple[int, ...]
    axis: int


def of_one(size: int | SymInt) -> int:
    """A number that may depend on how many images there are, for one."""
    if not isinstance(size, SymInt):
        return size
    expression = cast(Any, size).node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


def sizes_of(value: Tensor) -> Sizes | None:
    """The shape of a traced value; None unless one dimension is a multiple of the number of images.

    Args:
        value: of any shape; what depends on the number of images is symbolic in it.
    """
    axes = [place for place, size in enumerate(value.shape) if isinstance(size, SymInt)]
    if len(axes) != 1:
        return None
    sizes = tuple(map(of_one, value.shape))
    expression = cast(Any, value.shape[axes[0]]).node.expr
    ratio = [expression / symbol for symbol in expression.free_symbols]
    return Sizes(sizes, axes[0]) if ratio == [sizes[axes[0]]] else None


@dataclass(frozen=True)
class Layout:
    """How a value of a program, `[.., k * n, ..]`, lies relative to that of its node, `[n, *shape]`.

    Attributes:
        dims: the dimensions of the node that each dimension of the program is made of, outermost first; 0 is the
            batch. Only the program's dimension with the batch may be made of several.
        shape: of the node, without the batch.
    """

    dims: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]

    @staticmethod
    def plain(shape: Sequence[int]) -> Layout:
        """The batch first and alone, and everything as the program has it."""
        return Layout(tuple((dim,) for dim in range(len(shape) + 1)), tuple(shape))

    @property
    def axis(self) -> int:
        """The program's dimension with the batch."""
        return next(place for place, group in enumerate(self.dims) if 0 in group)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The program's shape for one image."""
        return tuple(prod(self._size(dim) for dim in group) for group in self.dims)

    @property
    def order(self) -> tuple[int, ...]:
        """The node's dimensions without the batch, in the order in which the program has them."""
        return tuple(dim for group in self.dims for dim in group if dim)

    @property
    def in_order(self) -> bool:
        """Whether the node has its dimensions in the program's order, the batch left aside."""
        return list(self.order) == sorted(self.order)

    @property
    def is_plain(self) -> bool:
        """Whether program and node have the same dimensions."""
        return self == Layout.plain(self.shape)

    def _size(self, dim: int) -> int:
        return self.shape[dim - 1] if dim else 1

    def node_dim(self, dim: int) -> int | None:
        """Where a dimension of the program is in the node; None where the batch is merged with others."""
        group = self.dims[dim]
        return group[0] if len(group) == 1 else None

    def permuted(self, dims: Sequence[int]) -> Layout:
        """Of the program's value with its dimensions in another order, in the same node."""
        return Layout(tuple(self.dims[dim] for dim in dims), self.shape)

    def turned(self, order: Sequence[int]) -> Layout:
        """Of the same value in a node that has its dimensions, without the batch, in this order."""
        new = {0: 0} | {dim: place for place, dim in enumerate(order, 1)}
        shape = tuple(self._size(dim) for dim in order)
        return Layout(tuple(tuple(new[dim] for dim in group) for group in self.dims), shape)

    def resized(self, sizes: Sequence[int]) -> Layout:
        """Of a value with other sizes, whose dimensions are where they are here; the batch's are the same."""
        shape = list(self.shape)
        for group, size in zip(self.dims, sizes, strict=True):
            if 0 not in group:
                shape[group[0] - 1] = size
        return Layout(self.dims, tuple(shape))

    def without(self, gone: Collection[int]) -> Layout:
        """Of a value that lacks some of the node's dimensions."""
        left = [dim for dim in range(1, len(self.shape) + 1) if dim not in gone]
        new = {0: 0} | {dim: place for place, dim in enumerate(left, 1)}
        dims = tuple(tuple(new[dim] for dim in group) for group in self.dims if not set(group) & set(gone))
        return Layout(dims, tuple(self._size(dim) for dim in left))

    def widened(self, rank: int) -> Layout:
        """Of a value with dimensions of one before the others, as broadcasting adds them."""
        more = rank - len(self.dims)
        dims = tuple(tuple(dim + more if dim else 0 for dim in group) for group in self.dims)
        return Layout((*((dim,) for dim in range(1, more + 1)), *dims), (1,) * more + self.shape)

    def repeating(self, each: bool) -> tuple[Layout, int]:
        """Of a node with one more dimension, of one, merged with the batch: innermost or outermost; and which it is."""
        place = max((dim for group in self.dims[: self.axis + each] for dim in group), default=0) + 1
        dims = [tuple(dim + (dim >= place) for dim in group) for group in self.dims]
        dims[self.axis] = (*dims[self.axis], place) if each else (place, *dims[self.axis])
        return Layout(tuple(dims), (*self.shape[: place - 1], 1, *self.shape[place - 1 :])), place

    def regrouped(self, new: Sizes) -> Layout | None:
        """Of a view that only merges dimensions with the batch, or takes them apart; None if it does more."""
        left = [dim for group in self.dims for dim in group]
        dims = []
        for place, size in enumerate(new.sizes):
            count = 1
            if place == new.axis:  # up to the batch at least
                count = left.index(0) + 1 if 0 in left else 0
                while count < len(left) and prod(map(self._size, left[:count])) < size:
                    count += 1
            group, left = tuple(left[:count]), left[count:]
            if not group or prod(map(self._size, group)) != size or (0 in group) != (place == new.axis):
                return None
            dims.append(group)
        return None if left else Layout(tuple(dims), self.shape)

    def reshaped(self, new: Sizes) -> Layout | None:
        """Of any view, in the reshaped node of this one, which is in order; None where it tears the batch apart.

        A view leaves the batch where it is among all numbers in their order: as many of one image are before it.
        """
        flat = [dim for group in self.dims for dim in group]
        before, ahead = prod(map(self._size, flat[: flat.index(0)])), prod(new.sizes[: new.axis])
        outer = before // ahead
        if before % ahead or new.sizes[new.axis] % outer:
            return None
        inner = new.sizes[new.axis] // outer
        parts = [*new.sizes[: new.axis], *[outer][: outer > 1], 1, *[inner][: inner > 1], *new.sizes[new.axis + 1 :]]
        batch = new.axis + (outer > 1)
        numbers = iter((*range(1, batch + 1), 0, *range(batch + 1, len(parts))))
        counts = [1 + (outer > 1) + (inner > 1) if place == new.axis else 1 for place in range(len(new.sizes))]
        dims = tuple(tuple(next(numbers) for _ in range(count)) for count in counts)
        return Layout(dims, tuple(parts[:batch] + parts[batch + 1 :]))

    def matched(self, lead: Layout) -> list[int | None] | None:
        """The dimensions of this node in the order of another, None for those that it lacks.

        Args:
            lead: of a value that this one is broadcast with; it has as many dimensions or more.

        Returns:
            None if the batch is at another place or merged with others than there.
        """
        more = len(lead.dims) - len(self.dims)
        found: dict[int, int | None] = {}
        for theirs, own in zip(lead.dims, ((),) * more + self.dims, strict=True):
            if 0 in theirs or 0 in own:
                if len(theirs) != len(own) or any(
                    lead._size(a) != self._size(b) or (a == 0) != (b == 0) for a, b in zip(theirs, own, strict=True)
                ):
                    return None
                found |= dict(zip(theirs, own, strict=True))
            else:
                found[theirs[0]] = own[0] if own else None
        return [found[dim] for dim in range(1, len(lead.shape) + 1)]

    def constant(self, value: Tensor) -> Tensor:
        """A constant that a value is broadcast with in the program, as the node is: `[1, *node dimensions]`."""
        if self.is_plain or value.numel() == 1:
            return value
        value = value.reshape((1,) * (len(self.dims) - value.dim()) + value.shape)
        parts: list[int] = []
        for size, group in zip(value.shape, self.dims, strict=True):
            parts += [size] if len(group) == 1 else [1 if size == 1 else self._size(dim) for dim in group]
        flat = [dim for group in self.dims for dim in group]
        return value.reshape(parts).permute([flat.index(dim) for dim in range(len(flat))]).contiguous()
