"""A network as the native engine runs it: steps, the bytes of its weights, and the size of its arena.

A program is what `edgeq/native/sources/edgeq.h` describes. Its file is

    magic "EQP3", then 32-bit words: steps, inputs, outputs, arena bytes, weights bytes, threads there is room for
    each step as the members of `eq_step`, 32 bits each
    each input and output: type (0 uint8, 1 float32), number of elements
    zeros up to a multiple of 64, then the weights

all little-endian. It can be mapped into memory and run as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum, IntFlag
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np

ALIGNED: Final = 64
"""What the weights, and every value in the arena, start at a multiple of."""

MAGIC: Final = b"EQP3"
LANES: Final = 16  # EQ_LANES
DEPTH: Final = 4  # EQ_DEPTH
TOGETHER: Final = 8  # EQ_TOGETHER
DIMENSIONS: Final = 8  # EQ_DIMENSIONS
THREADS: Final = 256  # EQ_THREADS


def up_to(size: int, multiple: int = ALIGNED) -> int:
    """The next multiple of a number, by default of what places start at."""
    return -(-size // multiple) * multiple


class Kind(IntEnum):
    """What a step computes, see `edgeq.h`."""

    QUANTIZE = 1
    DEQUANTIZE = 2
    COPY = 3
    CONVOLUTION = 4
    DEPTHWISE = 5
    ADD = 6
    MULTIPLY = 7
    TABLE = 8
    MAX_POOL = 9
    AVERAGE_POOL = 10
    GLOBAL_AVERAGE = 11
    MOVE = 12
    GATHER = 13
    FILL = 14
    POINTWISE = 15
    COMBINE = 16
    REDUCE = 17
    NORMALIZE = 18
    ORDER = 19
    CONTRACT = 20
    RESAMPLE = 21
    POOL_FLOATS = 22
    PICK = 23
    SOFTMAX_CODES = 24


class Flag(IntFlag):
    """How it computes it."""

    TO_FLOAT = 1
    SMALL = 2
    ROWS = 4
    COUNT_PADDING = 8
    FLOATS = 16
    FROM_CONSTANT = 32
    OTHER_CONSTANT = 64
    INTEGER = 128


TWO_VALUES: Final = (Kind.ADD, Kind.MULTIPLY, Kind.COMBINE, Kind.CONTRACT, Kind.PICK)
"""Steps that read `other`."""


@dataclass
class Step:
    """One step; its fields are the members of `eq_step`, in order.

    Places in the arena are bytes from its start; -1 - n is input or output n.
    """

    kind: Kind
    flags: int = 0
    from_: int = 0
    other: int = -1
    to: int = 0
    rows: int = 1
    columns: int = 1
    channels: int = 1
    out_rows: int = 1
    out_columns: int = 1
    out_channels: int = 1
    kernel_rows: int = 1
    kernel_columns: int = 1
    stride_rows: int = 1
    stride_columns: int = 1
    dilation_rows: int = 1
    dilation_columns: int = 1
    above: int = 0
    left: int = 0
    groups: int = 1
    per_byte: int = 1
    weights: int = 0
    trellis: int = 0
    multipliers: int = 0
    biases: int = 0
    offsets: int = 0
    from_kept: int = 1
    other_kept: int = 1
    to_kept: int = 1
    from_zero: int = 0
    other_zero: int = 0
    to_zero: int = 0
    least: int = 0
    most: int = 255
    from_scale: float = 1.0
    other_scale: float = 1.0
    to_scale: float = 1.0
    scratch: int = 0
    scratch_bytes: int = 0
    decoded: int = 0
    together: int = 1

    @property
    def slots(self) -> list[str]:
        """The members that are places in the arena; the others are inputs, outputs, constants, or not used."""
        members = ["to"] if self.flags & Flag.FROM_CONSTANT else ["from_", "to"]
        if self.kind in TWO_VALUES and not self.flags & Flag.OTHER_CONSTANT:
            members.append("other")
        return [member for member in members if getattr(self, member) >= 0]

    def words(self) -> Iterator[int | float]:
        """The values of all members."""
        return (getattr(self, field.name) for field in fields(self))

    def pack(self) -> bytes:
        """As it lies in memory."""
        return _STEP.pack(*self.words())


_HEADER: Final = struct.Struct("<4s6i")
_END: Final = struct.Struct("<2i")
_STEP: Final = struct.Struct("<" + "".join("f" if field.type == "float" else "i" for field in fields(Step)))


class End(NamedTuple):
    """An input or output of a program.

    Attributes:
        name: of the network's.
        shape: without the batch; floats have their channels first, bytes last.
        floats: whether it is float32; else uint8.
    """

    name: str
    shape: tuple[int, ...]
    floats: bool

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Program:
    """A network as the native engine runs it.

    Attributes:
        steps: in order.
        names: of the node that each step computes, or is a part of.
        inputs, outputs: in the order of the network.
        arena: bytes that it needs while it runs.
        used: bytes of the arena that hold something, while each step runs.
        weights: bytes of all constants.
        threads: how many may run it together: the arena has room for what each of them needs for itself.
    """

    steps: Sequence[Step]
    names: Sequence[str]
    inputs: Sequence[End]
    outputs: Sequence[End]
    arena: int
    used: Sequence[int]
    weights: bytes
    threads: int

    def in_integers(self) -> Program:
        """The same, with sums scaled in integers: of layers, additions and products."""
        scaled = (Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.ADD, Kind.MULTIPLY)
        steps = [replace(one, flags=one.flags | Flag.INTEGER) if one.kind in scaled else one for one in self.steps]
        return replace(self, steps=steps)

    def to_bytes(self) -> bytes:
        """The content of its file."""
        ends = [*self.inputs, *self.outputs]
        sizes = (len(self.steps), len(self.inputs), len(self.outputs), self.arena, len(self.weights))
        head = _HEADER.pack(MAGIC, *sizes, self.threads)
        head += b"".join(step.pack() for step in self.steps)
        head += b"".join(_END.pack(end.floats, end.elements) for end in ends)
        return head + bytes(-len(head) % ALIGNED) + self.weights


class Numbers(NamedTuple):
    """What a program's file says of an input or output: the type of its numbers, and how many an image has."""

    dtype: np.dtype[Any]
    elements: int


class Head(NamedTuple):
    """What a caller has to know of a program's file: its inputs and outputs, the bytes of its arena, its threads."""

    inputs: tuple[Numbers, ...]
    outputs: tuple[Numbers, ...]
    arena: int
    threads: int


def read_head(content: memoryview) -> Head:
    """Read the head of a program's file, which has been found to be one."""
    _, steps, inputs, outputs, arena, _, threads = _HEADER.unpack_from(content)
    starts = range(_HEADER.size + steps * _STEP.size, len(content), _END.size)
    ends = (_END.unpack_from(content, start) for start in starts[: inputs + outputs])
    found = tuple(Numbers(np.dtype(np.float32 if floats else np.uint8), count) for floats, count in ends)
    return Head(found[:inputs], found[inputs:], arena, threads)
