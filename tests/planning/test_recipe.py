"""Recipes: which options go together, and what files are called by."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import Any

import pytest

from edgeq.errors import UnsupportedError
from edgeq.planning.recipe import EFFORTS, SCHEMES, Recipe


def test_each_effort_is_at_least_as_much_work_as_the_one_before() -> None:
    assert list(EFFORTS) == ["fast", "balanced", "best"]
    for less, more in pairwise(EFFORTS.values()):
        assert less.augmentations <= more.augmentations
        assert less.steps < more.steps


def test_the_least_effort_trains_nothing_and_every_one_sees_the_images() -> None:
    assert EFFORTS["fast"].steps == 0
    assert all(effort.augmentations >= 1 for effort in EFFORTS.values())


def test_an_effort_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EFFORTS["fast"].steps = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "expected"),
    [("effort", "fast, balanced, best"), ("policy", "mix, position"), ("input", "float, uint8")],
)
def test_an_unknown_value(field: str, expected: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^unknown {field} 'most'; expected one of {expected}$"):
        Recipe("adaptive", **{field: "most"})  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_recipe_is_called_by_its_scheme(scheme: str) -> None:
    assert Recipe(scheme, effort="best", seed=1).name == scheme


def test_the_name_tells_all_that_changes_the_file_for_its_user() -> None:
    assert Recipe("adaptive", 32, "size=1.3MB", input="uint8").name == "adaptive-size-1.3MB-a32-uint8"
    assert Recipe("adaptive", policy="position", reduce_range=True).name == "adaptive-position-portable"


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_work_is_that_of_the_effort(effort: str) -> None:
    assert Recipe("4bit", effort=effort).work == EFFORTS[effort]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 5}, "budget: expected str or NoneType, found 5"),
        ({"seed": 1.5}, "seed: expected int, found 1.5"),
        ({"seed": True}, "seed: expected int, found True"),
        ({"seed": -1}, "seed: expected a whole number from 0 to 2147483647, found -1"),
        ({"seed": 2**31}, "seed: expected a whole number from 0 to 2147483647, found 2147483648"),
        ({"act_bits": "8"}, "act_bits: expected int, found '8'"),
        ({"reduce_range": "yes"}, "reduce_range: expected bool, found 'yes'"),
    ],
)
def test_a_value_of_another_kind_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        Recipe("adaptive", **options)
