"""Budgets: what is read, what is refused, and the way between sensitivity and points."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import record_of

from edgeq.errors import UnsupportedError
from edgeq.planning.budget import Budget, allowed_divergence, estimated_drop


@pytest.mark.parametrize(
    ("text", "kind", "limit"),
    [
        ("size=1.3MB", "size", 1_300_000),
        ("size=1.1MB", "size", 1_100_000),
        ("size=900kB", "size", 900_000),
        ("size=123456B", "size", 123_456),
        ("size=2KiB", "size", 2048),
        ("size=.5MiB", "size", 524_288),
        ("bitops=6G", "bitops", 6_000_000_000),
        ("bitops=0.5M", "bitops", 500_000),
        ("drop=1.0", "drop", 1.0),
        ("drop=0.25", "drop", 0.25),
    ],
)
def test_limits(text: str, kind: str, limit: float) -> None:
    budget = Budget.parse(text)
    assert (budget.text, budget.kind, budget.limit) == (text, kind, limit)


@pytest.mark.parametrize(
    "text",
    [
        "", "1.3MB", "size", "size=", "size=MB", "size=1.3", "size=1.3mb", "size=1.3GB", "size=-1MB", "size=0MB",
        "size=0.0B", "size=nanMB", "size=1e3MB", "size=1.3 MB", "size= 1MB", "size=1.3MB ", "size=1.3MB,drop=1",
        "size=\u0663MB", "size=" + "9" * 400 + "MB", "size=1.3MB\n", "bitops=6", "bitops=6B", "bitops=infG", "drop=1%",
        "drop=nan", "drop=0", "drop=-1", "accuracy=79", "Size=1MB",
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    message = (
        f"budget {text!r}: expected size=1.3MB (or B, kB, KiB, MiB), bitops=6G (or M), or drop=1.0 (points), "
        "with a positive number"
    )
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        Budget.parse(text)


@given(st.text(max_size=20))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    try:
        assert Budget.parse(text).limit > 0
    except UnsupportedError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("sensitivity", "drop"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.3, 10.5), (0.5, 20.0)])
def test_drop_by_hand(sensitivity: float, drop: float) -> None:
    record = record_of([], drops=((0.0, 0.0), (0.1, 1.0), (0.5, 20.0)))
    assert estimated_drop(record, sensitivity) == pytest.approx(drop)
    assert allowed_divergence(record, drop) == pytest.approx(sensitivity)


def test_nothing_is_promised_beyond_what_was_measured() -> None:
    record = record_of([], drops=((0.0, 0.0), (0.5, 20.0)))
    assert allowed_divergence(record, 50.0) == 0.5
    assert estimated_drop(record, 3.0) == 20.0
