"""Loops over the dimensions of values, by which steps in float find what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.lowering.builder import Stored
from edgeq.lowering.moves import places


class Operand(NamedTuple):
    """A value in float as a step reads it.

    Attributes:
        place: its slot; of a constant, where it is in the weights.
        shape: with the batch of 1 first; of a constant, as it is.
        strides: how many elements apart neighbours along each dimension are.
        constant: whether it is one.
    """

    place: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    constant: bool = False

    @staticmethod
    def of(value: Stored) -> Operand:
        """A value in the arena."""
        return Operand(value.slot, (1, *value.shape), strides_of(value.shape))

    def spread(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Its strides in a larger shape, along which it is repeated: 0 where it has but one element."""
        lead = len(shape) - len(self.shape)
        sizes, strides = (1,) * lead + self.shape, (0,) * lead + self.strides
        return tuple(0 if size == 1 else stride for size, stride in zip(sizes, strides, strict=True))


class Loop(NamedTuple):
    """One dimension: its size, and its stride in each operand."""

    size: int
    strides: tuple[int, ...]


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a value `[1, *shape]` as it lies in memory: maps with the channels last."""
    return places(shape).stride()


def rows_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of an array whose last dimension varies fastest."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides[: len(shape)])


def loops(sizes: Sequence[int], *strides: Sequence[int]) -> list[Loop]:
    """The loops over a shape, for some operands."""
    return [Loop(size, each) for size, each in zip(sizes, zip(*strides, strict=True), strict=True)]


def by_memory(found: Sequence[Loop], operand: int) -> list[Loop]:
    """Loops in the order in which an operand lies in memory."""
    return sorted(found, key=lambda loop: -loop.strides[operand])


def merged(found: Sequence[Loop], operands: int) -> list[Loop]:
    """Fewer loops over the same elements in the same order, and at least one."""
    made = list[Loop]()
    for loop in (one for one in found if one.size > 1):
        if made and all(a == b * loop.size for a, b in zip(made[-1].strides, loop.strides, strict=True)):
            loop = Loop(made.pop().size * loop.size, loop.strides)  # noqa: PLW2901
        made.append(loop)
    return made or [Loop(1, (0,) * operands)]


def as_words(found: Sequence[Loop]) -> NDArray[np.int32]:
    """How many there are, their sizes, and the strides of each operand."""
    sizes, strides = [loop.size for loop in found], zip(*(loop.strides for loop in found), strict=True)
    return np.array([len(found), *sizes, *(stride for each in strides for stride in each)], np.int32)
