"""Where values lie in the arena while a network runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.native.program import up_to


@dataclass
class Slot:
    """Room for a value, from the step that makes it to the last that reads it.

    Attributes:
        size: in bytes.
        first, last: the steps between which it is needed, both included.
        start: bytes from the start of the arena.
    """

    size: int
    first: int = -1
    last: int = -1
    start: int = 0

    def needed(self, step: int) -> None:
        """Keep it until a step, or from one on."""
        self.first = step if self.first < 0 else min(self.first, step)
        self.last = max(self.last, step)


def placed(slots: Sequence[Slot]) -> int:
    """Give every slot its place, the largest first, where no slot that is needed at the same time is.

    Returns:
        The size of the arena.
    """
    done: list[Slot] = []
    for slot in sorted(slots, key=lambda slot: (-slot.size, slot.first)):
        start = 0
        for other in sorted((o for o in done if o.first <= slot.last and slot.first <= o.last), key=lambda o: o.start):
            if start + slot.size <= other.start:
                break
            start = max(start, up_to(other.start + other.size))
        slot.start = start
        done.append(slot)
    return max((up_to(slot.start + slot.size) for slot in done), default=0)
