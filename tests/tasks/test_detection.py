from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError
from edgeq.tasks.detection import Boxes, Detections, Truth, check_installed, detections, mean_average_precision

Row = tuple[float, float, float, float, int]


def truth(*rows: Row, crowd: Sequence[bool] = ()) -> Truth:
    """Objects as x1, y1, x2, y2, category."""
    boxes = Boxes(np.array([row[:4] for row in rows], float).reshape(-1, 4), np.array([row[4] for row in rows], int))
    return Truth(boxes, np.array([*crowd] or [False] * len(rows), bool))


def found(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    """Boxes as x1, y1, x2, y2, category, score."""
    boxes = truth(*(row[:5] for row in rows)).boxes
    return Detections(boxes, np.array([row[5] for row in rows], float))


def test_a_perfect_detector() -> None:
    score = mean_average_precision([truth((0, 0, 10, 10, 3))], [found((0, 0, 10, 10, 3, 0.9))], [1, 3])
    assert score == {"map": pytest.approx(100.0), "map50": pytest.approx(100.0)}


def test_an_overlap_of_08_counts_up_to_a_threshold_of_08() -> None:
    """Intersection 80, union 100: right at 0.5 to 0.8, 7 of 10 thresholds."""
    score = mean_average_precision([truth((0, 0, 10, 10, 1))], [found((0, 0, 10, 8, 1, 0.9))], [1])
    assert score == {"map": pytest.approx(70.0), "map50": pytest.approx(100.0)}


def test_precision_of_a_ranking_by_hand() -> None:
    """Right, wrong, right: precision 1 up to a recall of a half (51 of 101 recalls), 2/3 above."""
    truths = [truth((0, 0, 10, 10, 1), (20, 20, 30, 30, 1))]
    rows = found((0, 0, 10, 10, 1, 0.9), (50, 50, 60, 60, 1, 0.8), (20, 20, 30, 30, 1, 0.7))
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert mean_average_precision(truths, [rows], [1])["map"] == pytest.approx(expected)


def test_the_mean_is_over_categories_that_occur_and_images_count_together() -> None:
    """Category 1: found in one of two images; 2: not at all; 7 is in no image."""
    truths = [truth((0, 0, 10, 10, 1)), truth((0, 0, 10, 10, 1), (5, 5, 9, 9, 2))]
    score = mean_average_precision(truths, [found((0, 0, 10, 10, 1, 0.5)), found()], [1, 2, 7])
    assert score["map50"] == pytest.approx(100 * (51 / 101 + 0) / 2)


def test_what_is_found_in_a_crowd_counts_neither_way() -> None:
    truths = [truth((0, 0, 10, 10, 1), (20, 20, 90, 90, 1), crowd=[False, True])]
    rows = found((30, 30, 40, 40, 1, 0.9), (0, 0, 10, 10, 1, 0.8))
    assert mean_average_precision(truths, [rows], [1])["map"] == pytest.approx(100)


def test_nothing_found() -> None:
    assert mean_average_precision([truth((0, 0, 10, 10, 1))], [found()], [1]) == {"map": 0.0, "map50": 0.0}


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    test_a_perfect_detector()
    assert capsys.readouterr() == ("", "")


# --- forms of outputs -----------------------------------------------------------------------------------------------

BOX = np.array([[10, 20, 30, 60]], np.float32)  # centre 20, 40, size 20, 40


def assert_one(outputs: dict[str, NDArray[np.generic]], categories: Sequence[int], category: int, score: float) -> None:
    """The box, alone."""
    (image,) = detections(outputs, categories)
    np.testing.assert_allclose(image.boxes.corners, BOX)
    assert image.boxes.categories.tolist() == [category]
    np.testing.assert_allclose(image.scores, [score])


def test_torchvisions_form_has_ids_of_categories() -> None:
    outputs: dict[str, NDArray[Any]] = {"boxes": BOX, "scores": np.array([0.5], np.float32)}
    outputs |= {"labels": np.array([9]), "masks": np.zeros((1, 5))}
    assert_one(outputs, [3, 9], 9, 0.5)
    batched = {name: value[None] for name, value in outputs.items()}
    assert_one(batched, [3, 9], 9, 0.5)


def test_final_boxes_have_numbers_of_classes_and_empty_rows() -> None:
    rows = np.zeros((1, 3, 6), np.float32)
    rows[0, 0] = [*BOX[0], 0.5, 1]
    assert_one({"output0": rows}, [3, 9], 9, 0.5)


def anchors(scores: Sequence[Sequence[float]], shift: float = 1.0) -> NDArray[np.float32]:
    """Centre, size and scores of boxes `shift` pixels apart, `[1, anchors, 4 + scores]`."""
    rows = [[20 + shift * i, 40, 20, 40, *row] for i, row in enumerate(scores)]
    return np.array([rows], np.float32)


def test_raw_boxes_are_suppressed_class_by_class() -> None:
    """Of two boxes of one class that overlap the better stays; another class does not mind."""
    rows = anchors([[0.9, 0.0], [0.8, 0.3], [0.0, 0.0005]])
    (image,) = detections({"output0": rows.transpose(0, 2, 1)}, [3, 9])
    assert image.boxes.categories.tolist() == [3, 9]
    np.testing.assert_allclose(image.scores, [0.9, 0.3])
    np.testing.assert_allclose(image.boxes.corners, [BOX[0], BOX[0] + [1, 0, 1, 0]])


def test_raw_boxes_with_objectness() -> None:
    rows = np.insert(anchors([[0.9, 0.0]]), 4, 0.5, axis=2)
    assert_one({"output": rows}, [3, 9], 3, 0.45)


def test_one_category_with_objectness_is_told_from_final_boxes() -> None:
    rows = np.insert(anchors([[0.9]]), 4, 0.5, axis=2)
    assert_one({"output": rows}, [4], 4, 0.45)
    final = np.array([[[*BOX[0], 0.5, 0]]], np.float32)
    assert_one({"output": final}, [4], 4, 0.5)


def test_the_hundred_best_boxes_of_an_image_count() -> None:
    n = 150
    outputs: dict[str, NDArray[Any]] = {
        "boxes": np.repeat(BOX, n, 0),
        "scores": np.linspace(0, 1, n),
        "labels": np.ones(n, int),
    }
    (image,) = detections(outputs, [1])
    assert len(image.scores) == 100
    assert image.scores[0] == 1
    assert (np.diff(image.scores) <= 0).all()


WAY_OUT = "; for another form write a function and name it with --metric MODULE:FUNCTION"


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            {"output0": np.zeros((1, 84, 8400))},
            "detection: expected boxes, scores and labels, or one output [n, k, 6], [n, 7, anchors] or [n, anchors, 8] "
            f"(the annotations have 3 categories), found output0 [1, 84, 8400]{WAY_OUT}",
        ),
        (
            {"boxes": np.zeros((2, 4)), "scores": np.zeros(3), "labels": np.zeros(2, int)},
            "detection: expected boxes [k, 4], scores [k] and labels [k], found boxes [1, 2, 4], scores [1, 3], labels "
            f"[1, 2]{WAY_OUT}",
        ),
        (
            {"output0": np.full((1, 7, 5), 8.0, np.float32)},
            f"detection: expected scores within 0..1, found 8{WAY_OUT}",
        ),
        (
            {"output0": np.array([[[0, 0, 1, 1, 0.5, 3]]])},
            "detection: expected classes below the 3 of the annotations, found 3",
        ),
    ],
    ids=["other classes", "other lengths", "logits", "class too high"],
)
def test_other_forms(outputs: dict[str, NDArray[np.generic]], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        detections(outputs, [1, 2, 3])


def test_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    message = "detection: expected pycocotools, which computes mAP, found none; pip install 'edgeq[detection]'"
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        check_installed()
