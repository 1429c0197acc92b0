"""Trellis codes: what a byte of weights stands for depends on the byte before it (trellis-coded quantization).

A byte brings its weights in steps. A step takes some new bits of the byte, `bits`, and with them and the 8 bits before
them it looks up `weights` levels in a table of `entries`. Each of 256 nodes of the trellis is what the last 8 bits can
be, so the encoder, which is Viterbi's algorithm, knows all that the future depends on. This is the bit-shift trellis of
QTIP (arXiv:2406.11235), after trellis-coded quantization (Marcellin and Fischer, doi:10.1109/26.46532); with
time-varying steps that add up to 8 bits, so that bytes can be decoded all at once.

The decoder computes, for a byte and the one before it,

    U = 224 * previous + byte
    index = ((U >> left) mod (224 * 2^bits)) mod entries        of a step, behind which `left` bits are still to come

where the first step of a byte, whose window is all of U, goes without the first remainder. `entries` is odd, so that
all 8 + `bits` bits matter for the index. 224 instead of 256 makes a few windows share an entry, which costs nothing, as
tables are far smaller than there are windows anyway; but it lets operators on bytes compute U: it fits a byte, and is a
multiple of 2^left.

A sequence of bytes is closed: before its first byte comes its last. So it needs no bytes for its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RADIX: Final = 224
"""What the byte before is multiplied by."""

PAIRS: Final = 255 * RADIX + 256
"""Number of values of `RADIX * previous + byte`."""

NODES: Final = 256
_SHORTEST, _LONGEST = 16, 31  # bytes of a sequence, if there are so many: a few more close with less noise, but slower


class Step(NamedTuple):
    """A step of a byte: how many new bits it takes, how many weights it gives, and the entries of its table, an odd
    number. Equal steps share a table."""

    bits: int
    weights: int
    entries: int


class Place(NamedTuple):
    """How a weight of a byte is found: `table[(U >> left) mod modulus mod entries + start]`."""

    left: int
    modulus: int
    entries: int
    start: int


@dataclass(frozen=True)
class Trellis:
    """A trellis code.

    Attributes:
        steps: those of a byte; their bits add up to 8.
        table: the tables behind each other, in the order of `steps`, int8 `[sum of weights * entries]`: of each, the
            entries of its first weight, then those of its second.
    """

    steps: tuple[Step, ...]
    table: NDArray[Any]

    @property
    def per_byte(self) -> int:
        """Number of weights in one byte, K."""
        return sum(step.weights for step in self.steps)

    @property
    def lefts(self) -> tuple[int, ...]:
        """Bits of the byte that come after each step."""
        return tuple(sum(step.bits for step in self.steps[i + 1 :]) for i in range(len(self.steps)))

    @property
    def moduli(self) -> tuple[int, ...]:
        """What the first remainder of each step is taken by; of the first, a number that leaves everything as it is."""
        return (PAIRS, *(RADIX << step.bits for step in self.steps[1:]))

    @property
    def starts(self) -> tuple[int, ...]:
        """Where the table of each step starts."""
        tables = list(dict.fromkeys(self.steps))
        before = (tables[: tables.index(step)] for step in self.steps)
        return tuple(sum(step.weights * step.entries for step in found) for found in before)

    @property
    def places(self) -> tuple[Place, ...]:
        """How each weight of a byte is found."""
        found = zip(self.steps, self.lefts, self.moduli, self.starts, strict=True)
        return tuple(
            Place(left, modulus, step.entries, start + step.entries * number)
            for step, left, modulus, start in found
            for number in range(step.weights)
        )

    @cached_property
    def decoder(self) -> NDArray[np.int8]:
        """The levels of every `U = RADIX * previous + byte`, int8 `[PAIRS, K]`, read-only."""
        made = self.table[self.index(np.arange(PAIRS))]
        made.flags.writeable = False
        return made

    def index(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the weights of values of U are in the table, int64 `[..., K]`."""
        lefts, moduli, entries, starts = np.array(self.places).T
        return np.asarray((pairs[..., None] >> lefts) % moduli % entries + starts)

    def lookup(self, number: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return what a step looks up, by the 8 bits before it: a node.

        Returns:
            Where the levels of each node start, int64 `[256]`, within 0..`entries` - 1: new bits `x` choose the entry
            `x` behind it. And these entries, `[entries + 2^bits - 1, weights]`: the table of the step, going on with
            its start.
        """
        step, left, start = self.steps[number], self.lefts[number], self.starts[number]
        windows = np.arange(NODES) << step.bits  # of the byte before, then of the byte so far
        index = (RADIX >> left) * (windows >> 8 - left) + windows % (1 << 8 - left)
        own = self.table[start:][: step.weights * step.entries].reshape(step.weights, step.entries).T
        return index % self.moduli[number] % step.entries, np.concatenate([own, own[: (1 << step.bits) - 1]])

    def decode(self, data: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Decode sequences of bytes, uint8 `[sequences, bytes, ...]`, to int8 `[sequences, bytes, ..., K]`."""
        pairs = RADIX * np.roll(data, 1, axis=1).astype(np.int32) + data
        return np.asarray(self.decoder[pairs], np.int8)


def sequences(rows: int) -> tuple[int, int]:
    """Return how many sequences hold at least so many bytes, and the bytes of each.

    They have at most 31 bytes, at least 16 if there are so many; of these lengths the one that wastes least, and of
    equally good ones the shortest.
    """
    if rows <= _LONGEST:
        return 1, rows
    length = min(range(_SHORTEST, _LONGEST + 1), key=lambda size: -(-rows // size) * size)
    return -(-rows // length), length
