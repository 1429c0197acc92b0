"""Steps in float, from the values and dimensions that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError
from edgeq.ir.node import Node
from edgeq.lowering.builder import Builder, Stored
from edgeq.lowering.loops import Loop, Operand, as_words, by_memory, loops, merged, rows_of, strides_of
from edgeq.lowering.rearrange import Rearrange, rearranged
from edgeq.native.functions import Pair, Pick, Pointwise, Row
from edgeq.native.program import DIMENSIONS, Flag, Kind, Step

Floats = NDArray[np.float32]

NONE: Final = -1  # where a step has no weights


class FloatSteps:
    """Makes the steps of one node.

    Args:
        builder: gets them.
        node: names them.
    """

    def __init__(self, builder: Builder, node: Node) -> None:
        self.builder, self.node = builder, node

    def constant(self, array: Floats | float) -> Operand:
        """A constant as an operand."""
        held = np.asarray(array, np.float32)
        return Operand(self.builder.constant(held), held.shape, rows_of(held.shape), constant=True)

    def pointwise(self, function: Pointwise, x: Stored, *parameters: float) -> Stored:
        """A function of every value, with up to three parameters."""
        made = self._room(x.shape)
        a, b, c = (*parameters, *(0.0,) * (3 - len(parameters)))
        self._add(Step(
            Kind.POINTWISE, 0, x.slot, to=made.slot, out_columns=prod(x.shape), groups=function, from_scale=a,
            other_scale=b, to_scale=c,
        ))  # fmt: skip
        return made

    def combined(self, function: Pair, a: Operand, b: Operand) -> Stored:
        """A function of pairs of values, each of which is repeated along the dimensions that it lacks.

        What is made of two constants, which need not have the batch first, has the shape of the node.
        """
        constant = a.constant and b.constant
        shape = (1, *self.node.shape) if constant else np.broadcast_shapes(a.shape, b.shape)
        made = self._room(shape[1:])
        found = by_memory(loops(shape, a.spread(shape), b.spread(shape), strides_of(shape[1:])), 2)
        self._add(Step(
            Kind.COMBINE, _flags(a, b), a.place, b.place, made.slot, groups=function, weights=self._loops(found, 3)
        ))  # fmt: skip
        return made

    def reduced(self, function: Row, x: Stored, dims: Sequence[int], factor: float = 1.0) -> Stored:
        """One value of all along some dimensions, which are counted with the batch."""
        source, made = Operand.of(x), self._room(self.node.shape)
        outer, inner = self._split(source, made, dims)
        self._add(Step(
            Kind.REDUCE, 0, x.slot, to=made.slot, groups=function, weights=self._loops(by_memory(outer, 1), 2),
            offsets=self._loops(_first(inner), 1), from_scale=factor,
        ))  # fmt: skip
        return made

    def ordered(self, function: Row, x: Stored, dim: int, count: int) -> Stored:
        """The first ones along a dimension, in order."""
        source, made = Operand.of(x), self._room(self.node.shape)
        outer, inner = self._split(source, made, [dim])
        self._add(Step(
            Kind.ORDER, 0, x.slot, to=made.slot, out_channels=count, groups=function,
            weights=self._loops(by_memory(outer, 1), 2), offsets=self._loops(_first(inner), 1),
            stride_rows=strides_of(made.shape)[dim],
        ))  # fmt: skip
        return made

    def normalized(
        self, function: Row, x: Stored, outer: Sequence[Loop], inner: Sequence[Loop], eps: float = 0.0,
        affine: tuple[Floats | None, Floats | None] = (None, None),
    ) -> Stored:  # fmt: skip
        """Rows of values to rows of as many.

        Args:
            function: what is made of a row.
            x: the values.
            outer: loops over the rows, with their strides in the value and in weight and bias.
            inner: loops along a row.
            eps: added to the variance.
            affine: a weight and a bias of every value, if there are any.
        """
        made = self._room(x.shape)
        rows, along = ([Loop(n, (stride, stride, held)) for n, (stride, held) in part] for part in (outer, inner))
        weight, bias = (NONE if array is None else self.builder.constant(array) for array in affine)
        self._add(Step(
            Kind.NORMALIZE, 0, x.slot, to=made.slot, groups=function, weights=self._loops(rows, 3),
            offsets=self._loops(along, 3), multipliers=weight, biases=bias, from_scale=eps,
        ))  # fmt: skip
        return made

    def along(self, function: Row, x: Stored, dim: int) -> Stored:
        """Rows along one dimension to rows of as many."""
        found = loops((1, *x.shape), strides_of(x.shape), (0,) * (len(x.shape) + 1))
        inner = found.pop(dim % len(found))
        return self.normalized(function, x, by_memory(found, 0), [inner])

    def multiplied(self, a: Operand, b: Operand) -> Stored:
        """The product of matrices, which are the last two dimensions of each; see `torch.matmul`."""
        left, right = _matrix(a, rows=True), _matrix(b, rows=False)
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        sizes = (*batch, left.shape[-2], right.shape[-1])
        strides_a = (
            *left._replace(shape=left.shape[:-2], strides=left.strides[:-2]).spread(batch),
            left.strides[-2],
            0,
        )
        strides_b = (
            *right._replace(shape=right.shape[:-2], strides=right.strides[:-2]).spread(batch),
            0,
            right.strides[-1],
        )
        made = self._room(self.node.shape)
        strides_to = list(strides_of(made.shape))
        if len(a.shape) == 1:
            strides_to.insert(-1 if len(b.shape) > 1 else len(strides_to), 0)
        if len(b.shape) == 1:
            strides_to.append(0)
        self._add(Step(
            Kind.CONTRACT, _flags(a, b), a.place, b.place, made.slot, channels=left.shape[-1],
            stride_rows=left.strides[-1], stride_columns=right.strides[-2],
            weights=self._loops(loops(sizes, strides_a, strides_b, strides_to), 3),
        ))  # fmt: skip
        return made

    def resampled(
        self, x: Stored, dim: int, taps: NDArray[np.int32], weights: Floats, function: Row = Row.TOTAL
    ) -> Stored:
        """Other places along a dimension.

        Args:
            x: the values.
            dim: counted with the batch.
            taps: int32 `[places, taps]`, of which each place is made.
            weights: float32, the same.
            function: the total or the largest of them.
        """
        made = self._room(tuple(len(taps) if i == dim - 1 else n for i, n in enumerate(x.shape)))
        own = strides_of(x.shape)[dim]
        self._add(Step(
            Kind.RESAMPLE, 0, x.slot, to=made.slot, columns=x.shape[dim - 1], channels=own,
            out_rows=prod(x.shape) // (own * x.shape[dim - 1]), out_columns=len(taps), out_channels=own,
            kernel_columns=taps.shape[1], groups=function, offsets=self.builder.constant(taps),
            multipliers=self.builder.constant(weights),
        ))  # fmt: skip
        return made

    def picked(self, step: Pick, source: Operand, index: Operand, made: Stored, dim: int) -> Stored:
        """Values at places of a dimension that are computed: taken from a source, or put into what is made.

        Args:
            step: what to do.
            source: of the values.
            index: the places.
            made: has room for the result.
            dim: counted with the batch.
        """
        target = Operand.of(made)
        take = step == Pick.TAKE
        whole = source if take else target
        shape = index.shape
        moving = whole.strides[dim]

        def fixed(operand: Operand) -> tuple[int, ...]:
            """Strides without that of the dimension of the places."""
            return tuple(0 if i == dim else stride for i, stride in enumerate(operand.strides))

        strides = (
            (fixed(source), index.strides, target.strides)
            if take
            else (source.spread(shape), index.strides, fixed(target))
        )
        self._add(Step(
            Kind.PICK, _flags(source, index), source.place, index.place, made.slot, channels=whole.shape[dim],
            groups=step, stride_rows=moving, weights=self._loops(loops(shape, *strides), 3),
        ))  # fmt: skip
        return made

    def embedded(self, table: Operand, index: Operand) -> Stored:
        """Rows of a table `[places, size]`, behind whose numbers they are put as the last dimension."""
        made = self._room(self.node.shape)
        (count, size), strides = table.shape, strides_of(made.shape)
        found = loops((*index.shape, size), ((0,) * len(index.shape) + (1,)), (*index.strides, 0), strides)
        self._add(Step(
            Kind.PICK, _flags(table, index), table.place, index.place, made.slot, channels=count, groups=Pick.TAKE,
            stride_rows=size, weights=self._loops(found, 3),
        ))  # fmt: skip
        return made

    def pooled(self, function: Row, x: Stored, window: Step) -> Stored:
        """The largest or the mean of each window; a step gives their geometry."""
        made = self._room(self.node.shape)
        window.kind, window.groups, window.from_, window.to = Kind.POOL_FLOATS, function, x.slot, made.slot
        window.channels, window.rows, window.columns = x.shape
        window.out_channels, window.out_rows, window.out_columns = made.shape
        self._add(window)
        return made

    def moved(
        self, function: Rearrange, sources: Sequence[Stored], shape: tuple[int, ...], fill: float = 0.0
    ) -> Stored:
        """Values at other places, see `edgeq.lowering.rearrange`."""
        pixel = np.float32(fill).tobytes()
        return rearranged(self.builder, self.node, function, sources, shape, None, pixel)

    def _room(self, shape: tuple[int, ...]) -> Stored:
        return self.builder.room(shape, None)

    def _add(self, step: Step) -> None:
        self.builder.add(self.node.name, step)

    def _loops(self, found: Sequence[Loop], operands: int) -> int:
        fewer = merged(found, operands)
        if len(fewer) > DIMENSIONS:
            raise UnsupportedError(
                f"layer {self.node.name}: expected at most {DIMENSIONS} dimensions, which is what the native engine "
                f"takes, found {len(fewer)}"
            )
        return self.builder.constant(as_words(fewer))

    def _split(self, x: Operand, made: Stored, dims: Sequence[int]) -> tuple[list[Loop], list[Loop]]:
        """Loops over what is made, and over what each is made of; with strides in both."""
        rank = len(x.shape)
        inside = {dim % rank for dim in dims}
        target = list(strides_of(made.shape))
        if len(target) < rank:
            for dim in sorted(inside):
                target.insert(dim, 0)
        found = loops(x.shape, x.strides, target)
        return [found[i] for i in range(rank) if i not in inside], [found[i] for i in range(rank) if i in inside]


def _first(found: Sequence[Loop]) -> list[Loop]:
    """Loops over the first operand alone."""
    return [Loop(loop.size, loop.strides[:1]) for loop in found]


def _matrix(operand: Operand, rows: bool) -> Operand:
    """A vector as a matrix of one row, or of one column."""
    if len(operand.shape) > 1:
        return operand
    (size,), (stride,) = operand.shape, operand.strides
    shape, strides = ((1, size), (0, stride)) if rows else ((size, 1), (stride, 0))
    return operand._replace(shape=shape, strides=strides)


def _flags(a: Operand, b: Operand) -> Flag:
    return (Flag.FROM_CONSTANT if a.constant else Flag(0)) | (Flag.OTHER_CONSTANT if b.constant else Flag(0))
