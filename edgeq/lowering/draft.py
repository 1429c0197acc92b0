"""A step before the arena is laid out."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.native.program import Step


@dataclass
class Draft:
    """A step whose places are slots, until the arena is laid out.

    Attributes:
        step: with numbers of slots for places.
        name: of the node that it computes.
        scratch: bytes that each thread needs for it.
        all_decoded: bytes of all of its weights, decoded.
        ahead: bytes by which it starts behind the starts of what it reads and makes.
    """

    step: Step
    name: str
    scratch: int = 0
    all_decoded: int = 0
    ahead: tuple[int, int] = (0, 0)
