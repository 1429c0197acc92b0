"""Ops that only move values, as copies between strides.

An op is run on the places of its input's values instead of the values. What comes out says where each value of the
output is from; if that is regular, it is a few dimensions with strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Places = NDArray[np.int64]


class Move(NamedTuple):
    """Elements to copy.

    Attributes:
        start, end: the first element's place in what is read, and in what is made.
        sizes: of the dimensions, the last of which varies fastest.
        strides_from, strides_to: how many elements apart neighbours along a dimension are.
    """

    start: int
    end: int
    sizes: tuple[int, ...]
    strides_from: tuple[int, ...]
    strides_to: tuple[int, ...]

    @property
    def as_it_is(self) -> bool:
        """Whether it copies a run of elements in their order to the start of what is made."""
        return self.end == self.start == 0 and self.strides_from == self.strides_to == (1,)


def places(shape: Sequence[int]) -> Tensor:
    """Where each value of a shape lies in memory, int64 `[1, *shape]`: maps with the channels last."""
    count = torch.arange(prod(shape))
    if len(shape) != 3:
        return count.reshape(1, *shape)
    channels, rows, columns = shape
    return count.reshape(1, rows, columns, channels).permute(0, 3, 1, 2)


def in_memory(values: Tensor) -> Places:
    """Values `[1, ...]` in the order in which they lie in memory."""
    found = values.permute(0, 2, 3, 1) if values.dim() == 4 else values
    return found.reshape(-1).numpy()


def move(sources: Places, targets: Places) -> Move | None:
    """The copy from places to places; None if they are not regular."""
    pairs = np.stack([sources, targets], axis=1)
    dims: list[tuple[int, int, int]] = []
    while len(pairs) > 1:
        step = pairs[1] - pairs[0]
        size = _run(pairs, step)
        if size == 1:
            return None
        dims.append((size, int(step[0]), int(step[1])))
        pairs = pairs[::size]
    sizes, strides_from, strides_to = zip(*reversed(dims), strict=True) if dims else ((1,), (1,), (1,))
    return Move(int(pairs[0, 0]), int(pairs[0, 1]), sizes, strides_from, strides_to)


def _run(pairs: Places, step: Places) -> int:
    """The longest run of a constant step of which all pairs are made."""
    ends = np.flatnonzero((np.diff(pairs, axis=0) != step).any(axis=1))
    longest = int(ends[0]) + 1 if len(ends) else len(pairs)
    for size in range(longest, 1, -1):
        if len(pairs) % size == 0:
            runs = pairs.reshape(-1, size, 2)
            if (runs - runs[:, :1] == np.arange(size)[:, None] * step).all():
                return size
    return 1
