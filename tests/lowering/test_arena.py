"""Values that are needed at the same time never share bytes."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from edgeq.lowering.arena import Slot, placed
from edgeq.native.program import ALIGNED

SLOTS = st.lists(
    st.tuples(st.integers(1, 1000), st.integers(0, 20), st.integers(0, 5)).map(
        lambda drawn: Slot(drawn[0], drawn[1], drawn[1] + drawn[2])
    ),
    max_size=30,
)


@given(SLOTS)
def test_slots_that_live_at_once_are_apart(slots: list[Slot]) -> None:
    size = placed(slots)
    for a, b in combinations(slots, 2):
        together = a.first <= b.last and b.first <= a.last
        assert not together or a.start + a.size <= b.start or b.start + b.size <= a.start
    assert all(slot.start % ALIGNED == 0 and slot.start + slot.size <= size for slot in slots)


@given(SLOTS)
def test_the_arena_is_no_larger_than_all_slots(slots: list[Slot]) -> None:
    assert placed(slots) <= sum(slot.size + ALIGNED for slot in slots)


def test_a_place_is_used_again() -> None:
    slots = [Slot(100, 0, 1), Slot(100, 2, 3), Slot(60, 1, 2)]
    assert placed(slots) == 128 + 64
    assert slots[0].start == slots[1].start


def test_a_slot_is_needed_from_its_first_step_to_its_last() -> None:
    slot = Slot(1)
    for step in (3, 7, 2):
        slot.needed(step)
    assert (slot.first, slot.last) == (2, 7)
