"""Doubts about labels: by how much a number must be off before somebody is told."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeq.data.class_folders import ClassOrder
from edgeq.data.images import ImageSet
from edgeq.data.label_check import doubts, tail

AS_TEXT = sorted(map(str, range(12)))


@given(st.integers(1, 40), st.integers(0, 40), st.floats(0.001, 0.999))
def test_the_tail_is_the_sum_of_a_binomial_distribution(trials: int, hits: int, chance: float) -> None:
    expected = sum(comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(hits, trials + 1))
    assert tail(hits, trials, chance) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_the_tail_of_many_trials() -> None:
    assert tail(50_000, 50_000, 0.001) == 0
    assert tail(50, 50_000, 0.001) == pytest.approx(0.5188, abs=1e-4)


def photos(root: Path, order: ClassOrder | None, each: int = 3) -> ImageSet:
    for name in AS_TEXT:
        (root / name).mkdir()
        for i in range(each):
            Image.new("L", (1, 1)).save(root / name / f"{i}.png")
    return ImageSet.labelled(root, 12, order)


def said(images: ImageSet, predictions: Sequence[int]) -> list[str]:
    assert images.labels is not None
    found = doubts(images, images.labels, predictions, 12)
    return [text.removeprefix(f"{images.name}: the float network's top-1 is ") for text in found]


@pytest.mark.parametrize(("order", "other"), [(None, "name"), ("index", "name"), ("name", "index")])
def test_a_network_of_the_other_order(order: ClassOrder | None, other: str, tmp_path: Path) -> None:
    images = photos(tmp_path, order)
    read = images.class_folders
    assert images.labels is not None
    assert read is not None
    assert read.other is not None
    first, second = said(images, [read.other[label] for label in images.labels])
    how = {"name": "in the order of their names as text", "index": "by the indices that are their names"}[other]
    assert first == f"16.67 %, and 100.00 % with class folders numbered {how}; add --class-order {other}"
    assert second.startswith("16.67 %, not clearly better than guessing among 12 classes; the usual causes are labels")
    assert all(option in second for option in ("--class-order", "--mean", "--weights"))


def test_a_network_of_this_order(tmp_path: Path) -> None:
    images = photos(tmp_path, None)
    assert images.labels is not None
    assert said(images, images.labels) == []
    half = [label if i % 2 else (label + 5) % 12 for i, label in enumerate(images.labels)]
    assert said(images, half) == []


def test_some_folders_of_imagenet_ids_that_a_network_counts_from_0(tmp_path: Path) -> None:
    for name in ("n02102040", "n03028079"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (1, 1)).save(tmp_path / name / f"{i}.png")
    images = ImageSet.labelled(tmp_path, 1000)
    assert images.labels is not None
    (first, _) = doubts(images, images.labels, [0] * 10 + [1] * 10, 1000)
    assert "0.00 %, and 100.00 % with class folders numbered in the order of their names as text" in first
    assert first.endswith("; name the folders by class index")


@pytest.mark.parametrize(
    ("hits", "count", "classes", "doubtful"),
    [
        (0, 9, 1000, False),
        (0, 10, 1000, True),
        (1, 10, 1000, False),
        (5, 10, 2, True),
        (10, 10, 2, False),
        (58, 100, 2, True),
        (70, 100, 2, False),
        (10, 10, 1, False),
    ],
)
def test_how_many_hits_are_no_better_than_guesses(hits: int, count: int, classes: int, doubtful: bool) -> None:
    images = ImageSet.embedded("test", count)
    found = list(doubts(images, [0] * count, [0] * hits + [1] * (count - hits), classes))
    assert (len(found) == 1) == doubtful
