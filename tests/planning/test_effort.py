from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest

from edgeq.planning.effort import EFFORTS


def test_each_effort_is_at_least_as_much_work_as_the_one_before() -> None:
    assert list(EFFORTS) == ["fast", "balanced", "best"]
    for less, more in pairwise(EFFORTS.values()):
        assert less.views <= more.views
        assert less.steps < more.steps


def test_the_least_effort_trains_nothing_and_every_one_sees_the_images() -> None:
    assert EFFORTS["fast"].steps == 0
    assert all(effort.views >= 1 for effort in EFFORTS.values())


def test_an_effort_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EFFORTS["fast"].steps = 1  # type: ignore[misc]
