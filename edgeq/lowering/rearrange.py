"""Steps that copy values to other places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeq.errors import UnsupportedError
from edgeq.ir.node import Node
from edgeq.lowering.builder import FLOAT_BYTES, Builder, Levels, Stored
from edgeq.lowering.moves import Move, in_memory, move, places
from edgeq.native.program import DIMENSIONS, Flag, Kind, Step

Rearrange = Callable[[list[Tensor]], Tensor]


def rearranged(
    builder: Builder, node: Node, function: Rearrange, sources: Sequence[Stored], shape: tuple[int, ...],
    levels: Levels | None, fill: bytes | None = None,
) -> Stored:  # fmt: skip
    """Run a function on the places of values, and copy these to where it puts them.

    Args:
        builder: gets the steps.
        node: what they are a part of.
        function: from `[1, ...]` in int64 to `[1, *shape]`; zeros are of what it puts in between.
        sources: its values, all of codes or all of floats.
        shape: of the result.
        levels: of codes; None for floats.
        fill: the bytes of a pixel of what is put in between, if it is not zero.

    Raises:
        UnsupportedError: there is no order in it.
    """
    starts = [sum(prod(one.shape) for one in sources[:i]) for i in range(len(sources))]
    marked = [places(source.shape) + start + 1 for source, start in zip(sources, starts, strict=True)]
    found = in_memory(function(marked)) - 1
    copies = list[tuple[Stored, NDArray[np.int64], NDArray[np.int64]]]()
    for source, start in zip(sources, starts, strict=True):
        here = np.flatnonzero((found >= start) & (found < start + prod(source.shape)))
        if len(here):
            copies.append((source, found[here] - start, here))
    whole = len(copies) == 1 and len(copies[0][2]) == len(found)
    if whole and np.array_equal(copies[0][1], np.arange(prod(copies[0][0].shape))):
        return replace(copies[0][0], shape=shape, levels=levels)
    made = builder.room(shape, levels)
    if (found < 0).any():
        zero = bytes([levels.zero]) if levels else bytes(FLOAT_BYTES)
        _filled(builder, node, made, zero if fill is None else fill)
    for source, taken, here in copies:
        regular = move(taken, here)
        if regular and len(regular.sizes) <= DIMENSIONS:
            _moved(builder, node, source, made, regular)
        elif whole:
            _gathered(builder, node, source, made, taken)
        else:
            raise UnsupportedError(f"layer {node.name}: the native engine cannot move values as {node.op} does here")
    return made


def _moved(builder: Builder, node: Node, source: Stored, made: Stored, found: Move) -> None:
    """Copy some elements."""
    about = [len(found.sizes), *found.sizes, *found.strides_from, *found.strides_to]
    size = 1 if made.levels else FLOAT_BYTES
    source = in_arena(builder, node, source) if found.start else source
    builder.add(node.name, Step(
        Kind.MOVE, 0 if made.levels else Flag.FLOATS, source.slot, to=made.slot,
        weights=builder.constant(np.array(about, np.int32)),
    ), ahead=(found.start * size, found.end * size))  # fmt: skip


def in_arena(builder: Builder, node: Node, source: Stored) -> Stored:
    """A value that may be an input of the network, where its channels are last and its elements have places."""
    if source.slot >= 0:
        return source
    floats, made = source.levels is None, builder.room(source.shape, source.levels)
    channels, rows, columns = as_end(source.shape)
    builder.add(node.name, Step(
        Kind.COPY, Flag.FLOATS if floats else 0, source.slot, to=made.slot, rows=rows, columns=columns,
        channels=channels, out_rows=rows, out_columns=columns, out_channels=channels, from_kept=rows, to_kept=rows,
    ))  # fmt: skip
    return made


def _filled(builder: Builder, node: Node, made: Stored, pixel: bytes) -> None:
    """Repeat some bytes all over a value."""
    count = prod(made.shape) * (1 if made.levels else FLOAT_BYTES) // len(pixel)
    builder.add(node.name, Step(
        Kind.FILL, Flag.FROM_CONSTANT, to=made.slot, out_columns=count, out_channels=len(pixel),
        weights=builder.constant(pixel),
    ))  # fmt: skip


def as_end(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, rows and columns of an input or output: only those of maps have another order outside."""
    return shape if len(shape) == 3 else (1, 1, prod(shape))


def _gathered(builder: Builder, node: Node, source: Stored, made: Stored, taken: NDArray[np.int64]) -> None:
    """Copy without order, in blocks that are as long as can be."""
    size, block = 1 if made.levels else FLOAT_BYTES, _block(taken)
    firsts = (taken[::block] // block).astype(np.int32)
    builder.add(node.name, Step(
        Kind.GATHER, 0, in_arena(builder, node, source).slot, to=made.slot, columns=block * size,
        channels=prod(source.shape) // block, out_channels=len(firsts), weights=builder.constant(firsts),
    ))  # fmt: skip


def _block(taken: NDArray[np.int64]) -> int:
    """The longest run of neighbours of which all that is taken is made, each at a multiple of its length."""
    for size in (n for n in range(len(taken), 1, -1) if len(taken) % n == 0):
        rows = taken.reshape(-1, size)
        if (rows[:, 0] % size == 0).all() and (np.diff(rows, axis=1) == 1).all():
            return size
    return 1
