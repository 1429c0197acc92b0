from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError
from edgeq.tasks.segmentation import class_maps, confusion, mean_iou

MASK = np.array([[[0, 0, 1, 1], [2, 255, 1, 1]]])
FOUND = np.array([[[0, 1, 1, 1], [2, 2, 0, 1]]])


def test_iou_of_each_class_by_hand() -> None:
    """0: 1 of 3 pixels; 1: 3 of 5; 2: 1 of 1, as the pixel 255 does not count."""
    counts = confusion(FOUND, MASK)
    assert counts.tolist() == [[1, 1, 0], [1, 3, 0], [0, 0, 1]]
    assert mean_iou([counts]) == pytest.approx(100 * (1 / 3 + 3 / 5 + 1) / 3)


def test_counts_of_several_batches_add_up_whatever_classes_they_have() -> None:
    """0: 2 of 4, 1: 3 of 5, 2: 1 of 1, 3: 0 of 1."""
    more = confusion(np.array([0, 3]), np.array([0, 0]))
    assert mean_iou([confusion(FOUND, MASK), more]) == pytest.approx(100 * (2 / 5 + 3 / 5 + 1 + 0) / 4)


def test_classes_in_neither_mask_nor_answer_do_not_count() -> None:
    assert mean_iou([confusion(np.array([5, 5]), np.array([5, 5]))]) == 100


def test_nothing_to_count_is_no_score() -> None:
    assert mean_iou([confusion(np.array([1]), np.array([255]))]) is None
    assert mean_iou([]) is None


SCORES = np.array([[[[0.1, 0.9]], [[0.5, 0.2]], [[0.4, 0.1]]]], np.float32)


@pytest.mark.parametrize(
    ("value", "classes"),
    [
        (SCORES, 3), (np.array([[[1, 0]]], np.int64), None), (np.array([[[[1, 0]]]], np.uint8), None),
        (np.array([[[1.0, 0.0]]], np.float32), None),
    ],
    ids=["scores", "indices", "indices with a channel", "whole floats"],
)  # fmt: skip
def test_forms_of_outputs(value: NDArray[np.float32], classes: int | None) -> None:
    found = class_maps({"vector": np.zeros((1, 7)), "map": value})
    assert found.maps.tolist() == [[[1, 0]]]
    assert found.classes == classes


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            {"y": np.full((1, 1, 2, 2), 0.5, np.float32)},
            "segmentation: expected one output with class scores [n, classes, h, w] or class indices [n, h, w], found "
            "y [1, 1, 2, 2]; for another form write a function and name it with --metric MODULE:FUNCTION",
        ),
        (
            {"out": SCORES, "aux": SCORES},
            "segmentation: expected one output with class scores [n, classes, h, w] or class indices [n, h, w], found "
            "out [1, 3, 1, 2], aux [1, 3, 1, 2]; for another form write a function and name it with --metric "
            "MODULE:FUNCTION",
        ),
        ({"y": np.array([[[2000]]])}, "segmentation: expected class indices below 1024, found 2000"),
    ],
    ids=["one channel", "two maps", "too many classes"],
)
def test_other_forms(outputs: dict[str, NDArray[np.float32]], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        class_maps(outputs)
