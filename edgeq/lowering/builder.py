"""What a program is collected in: steps that name slots, and the bytes of constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.lowering.arena import Slot, placed
from edgeq.lowering.draft import Draft
from edgeq.lowering.together import together
from edgeq.native.program import ALIGNED, End, Program, Step, up_to

FLOAT_BYTES: Final = 4


class Levels(NamedTuple):
    """What codes stand for: `(code - zero) * scale`."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Stored:
    """A value in the arena, or an input.

    Attributes:
        slot: its number; -1 - n is input n.
        shape: without the batch. Maps lie in memory with their channels last.
        levels: of codes; None for floats.
    """

    slot: int
    shape: tuple[int, ...]
    levels: Levels | None

    @property
    def codes(self) -> Levels:
        """The levels of a value that is known to be codes."""
        assert self.levels is not None
        return self.levels


class Builder:
    """Collects steps, slots and constants."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.sizes: list[int] = []
        self._constants = bytearray()
        self._known: dict[bytes, int] = {}

    def slot(self, size: int) -> int:
        """Room for a value of so many bytes."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def room(self, shape: tuple[int, ...], levels: Levels | None) -> Stored:
        """Room for a value, of codes or of floats."""
        return Stored(self.slot(prod(shape) * (1 if levels else FLOAT_BYTES)), shape, levels)

    def constant(self, content: bytes | NDArray[Any]) -> int:
        """Where some bytes are in the weights; equal ones are stored once."""
        content = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
        if content not in self._known:
            self._constants += bytes(-len(self._constants) % ALIGNED)
            self._known[content] = len(self._constants)
            self._constants += content
        return self._known[content]

    def add(
        self, name: str, step: Step, scratch: int = 0, all_decoded: int = 0, ahead: tuple[int, int] = (0, 0)
    ) -> None:
        """Append a step, see `Draft`."""
        self.drafts.append(Draft(step, name, scratch, all_decoded, ahead))

    def program(self, inputs: Sequence[End], outputs: Sequence[End], threads: int) -> Program:
        """Lay out the arena, with what each thread needs for itself."""
        together(self.drafts, self.sizes, threads)
        times = _times([draft.step for draft in self.drafts])
        slots = [Slot(size) for size in self.sizes]
        scratches = [Slot(threads * up_to(draft.scratch)) for draft in self.drafts]
        for draft, scratch, time in zip(self.drafts, scratches, times, strict=True):
            scratch.needed(time)
            for member in draft.step.slots:
                slots[getattr(draft.step, member)].needed(time)
        taken = [slot for slot in slots if slot.first >= 0] + [one for one in scratches if one.size]
        arena = placed(taken)
        used = [sum(slot.size for slot in taken if slot.first <= time <= slot.last) for time in times]
        for draft, scratch in zip(self.drafts, scratches, strict=True):
            step = draft.step
            for member in step.slots:
                setattr(step, member, slots[getattr(step, member)].start)
            step.from_, step.to = step.from_ + draft.ahead[0], step.to + draft.ahead[1]
            step.scratch, step.scratch_bytes = scratch.start, up_to(draft.scratch)
        return Program(
            [draft.step for draft in self.drafts], [draft.name for draft in self.drafts], inputs, outputs, arena,
            used, bytes(self._constants), threads,
        )  # fmt: skip


def _times(steps: Sequence[Step]) -> list[int]:
    """When each step runs: those that are computed together, at once."""
    times: list[int] = []
    while len(times) < len(steps):
        times += [len(times)] * steps[len(times)].together
    return times
