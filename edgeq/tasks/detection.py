"""Detection: boxes with a class and a score, scored by mAP as COCO defines it.

Average precision is the mean precision at 101 recalls, of the 100 boxes of an image with the best scores; mAP is its
mean over the categories and over intersections over union of 0.5, 0.55, ..., 0.95 (https://cocodataset.org/#detection-eval).
pycocotools, the code of COCO's authors, computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError

_MOST_BOXES: Final = 100  # of an image, as in COCO
_LEAST_SCORE: Final = 0.001
_LARGEST_OVERLAP: Final = 0.7  # both as in the validation of Ultralytics
_CANDIDATES: Final = 30_000  # of an image before non-maximum suppression, as there

_WAY_OUT: Final = "; for another form write a function and name it with --metric MODULE:FUNCTION"


class Boxes(NamedTuple):
    """Boxes in an image: corners float64 `[k, 4]` as x1, y1, x2, y2 in pixels, and a category, int64 `[k]`."""

    corners: NDArray[np.float64]
    categories: NDArray[np.int64]


class Detections(NamedTuple):
    """What a model finds in an image: boxes, with a score in 0..1 each, float64 `[k]`."""

    boxes: Boxes
    scores: NDArray[np.float64]


class Truth(NamedTuple):
    """The objects in an image: boxes, and of each whether it is a crowd of many, bool `[k]`.

    What a model finds in a crowd counts neither way.
    """

    boxes: Boxes
    crowd: NDArray[np.bool_]


def detections(outputs: Mapping[str, NDArray[Any]], categories: Sequence[int]) -> list[Detections]:
    """Return what a model finds in each of some images, at most 100 boxes each, the best scores first.

    Args:
        outputs: of a model by name, in one of these forms, boxes in pixels of its input:

            - `boxes` `[k, 4]` as x1, y1, x2, y2, `scores` `[k]` and `labels` `[k]` of one image, or of several with the
              batch first, as torchvision's detectors have them; labels are ids of categories;
            - an output `[n, k, 6]`: x1, y1, x2, y2, score and class;
            - an output `[n, 4 + C, anchors]`: centre, size and the score of each class, as YOLO has them since v8;
            - an output `[n, anchors, 5 + C]`: centre, size, objectness and the score of each class, as YOLOv5 and YOLOX
              (with its boxes decoded) have them.

            Class `i` is the category number `i`. The last two go through a non-maximum suppression class by class.
        categories: ids of the categories, in the order of the model's classes.

    Raises:
        UnsupportedError: another form, or scores outside 0..1.
    """
    if {"boxes", "scores", "labels"} <= outputs.keys():
        found = _of_torchvision(*(outputs[name] for name in ("boxes", "scores", "labels")))
    else:
        found = _of_yolo(outputs, categories)
    scores = np.concatenate([one.scores for one in found])
    if scores.size and not 0 <= scores.min() <= scores.max() <= 1:
        wrong = scores.min() if scores.min() < 0 else scores.max()
        raise UnsupportedError(f"detection: expected scores within 0..1, found {wrong:.4g}{_WAY_OUT}")
    return [_best(one) for one in found]


def mean_average_precision(
    truths: Sequence[Truth], found: Sequence[Detections], categories: Sequence[int]
) -> dict[str, float]:
    """Return `map`, COCO's mAP, and `map50`, that at an intersection over union of 0.5, in percent.

    Args:
        truths: what is in each image.
        found: what a model finds in each.
        categories: ids of all categories; those that are in no image do not count.

    Raises:
        UnsupportedError: pycocotools is not installed.
    """
    coco, cocoeval = _pycocotools()
    images, order = range(len(truths)), sorted(categories)
    with redirect_stdout(StringIO()):  # it prints what it does
        expected, answered = coco.COCO(), coco.COCO()
        listed = {"images": [{"id": i} for i in images], "categories": [{"id": category} for category in order]}
        objects = [one | {"iscrowd": int(crowd)} for i in images for one, crowd in _with_crowds(i, truths[i])]
        boxes = [
            one | {"score": float(score)}
            for i in images
            for one, score in zip(_annotations(i, found[i].boxes), found[i].scores, strict=True)
        ]
        for dataset, annotations in ((expected, objects), (answered, boxes)):
            # 0 would stand for no annotation
            dataset.dataset = listed | {"annotations": [one | {"id": j} for j, one in enumerate(annotations, 1)]}
            dataset.createIndex()
        judged = cocoeval.COCOeval(expected, answered, "bbox")
        judged.params.areaRng, judged.params.areaRngLbl = [[0, float("inf")]], ["all"]
        judged.params.maxDets = [_MOST_BOXES]
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"]  # [overlaps, recalls, categories, 1, 1]; -1 for categories in no image
    return {"map": _mean(precision), "map50": _mean(precision[0])}


def check_installed() -> None:
    """Check that pycocotools is there, before long work.

    Raises:
        UnsupportedError: it is not.
    """
    _pycocotools()


def _pycocotools() -> tuple[Any, Any]:
    try:
        return import_module("pycocotools.coco"), import_module("pycocotools.cocoeval")
    except ImportError as error:
        raise UnsupportedError(
            "detection: expected pycocotools, which computes mAP, found none; pip install 'edgeq[detection]'"
        ) from error


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(100 * known.mean()) if known.size else 0.0


def _with_crowds(image: int, truth: Truth) -> list[tuple[dict[str, Any], bool]]:
    return list(zip(_annotations(image, truth.boxes), truth.crowd.tolist(), strict=True))


def _annotations(image: int, boxes: Boxes) -> list[dict[str, Any]]:
    """Boxes as COCO describes them: x, y, width, height."""
    sizes = np.concatenate([boxes.corners[:, :2], boxes.corners[:, 2:] - boxes.corners[:, :2]], axis=1)
    pairs = zip(sizes.tolist(), boxes.categories.tolist(), strict=True)
    return [{"image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3]} for box, k in pairs]


def _of_torchvision(corners: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> list[Detections]:
    if corners.ndim == 2:
        corners, scores, labels = corners[None], scores[None], labels[None]
    if corners.ndim != 3 or corners.shape[2] != 4 or not corners.shape[:2] == scores.shape == labels.shape:
        shapes = f"boxes {list(corners.shape)}, scores {list(scores.shape)}, labels {list(labels.shape)}"
        raise UnsupportedError(f"detection: expected boxes [k, 4], scores [k] and labels [k], found {shapes}{_WAY_OUT}")
    return [_detections(*image) for image in zip(corners, scores, labels, strict=True)]


def _of_yolo(outputs: Mapping[str, NDArray[Any]], categories: Sequence[int]) -> list[Detections]:
    count, ids = len(categories), np.array(categories, np.int64)
    forms = [(form, value) for value in outputs.values() if (form := _form(value, count))]
    if len(forms) != 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise UnsupportedError(
            f"detection: expected boxes, scores and labels, or one output [n, k, 6], [n, {4 + count}, anchors] or "
            f"[n, anchors, {5 + count}] (the annotations have {count} categories), found {shapes}{_WAY_OUT}"
        )
    ((form, value),) = forms
    value = value.astype(np.float32)
    if form == "final":
        return [_final(image, ids) for image in value]
    if form == "scores":
        rows = value.transpose(0, 2, 1)
        return [_suppressed(image[:, :4], image[:, 4:], ids) for image in rows]
    return [_suppressed(image[:, :4], image[:, 4:5] * image[:, 5:], ids) for image in value]


def _form(value: NDArray[Any], count: int) -> str | None:
    """Which of YOLO's forms an output has; with one category, `[n, k, 6]` is final if its last numbers are whole."""
    if value.ndim != 3:
        return None
    if value.shape[2] == 6 and (count != 1 or bool((value[..., 5] == np.floor(value[..., 5])).all())):
        return "final"
    if value.shape[1] == 4 + count:
        return "scores"
    return "objectness" if value.shape[2] == 5 + count else None


def _final(rows: NDArray[np.float32], ids: NDArray[np.int64]) -> Detections:
    """Boxes of one image `[k, 6]`; rows without a score fill up the number."""
    rows = rows[rows[:, 4] != 0]
    classes = rows[:, 5]
    if classes.size and not 0 <= classes.min() <= classes.max() < len(ids):
        wrong = classes.min() if classes.min() < 0 else classes.max()
        raise UnsupportedError(f"detection: expected classes below the {len(ids)} of the annotations, found {wrong:g}")
    return _detections(rows[:, :4], rows[:, 4], ids[classes.astype(np.int64)])


def _suppressed(centred: NDArray[np.float32], scores: NDArray[np.float32], ids: NDArray[np.int64]) -> Detections:
    """Non-maximum suppression, class by class, of boxes `[k, 4]` as centre and size with scores `[k, classes]`."""
    torch, batched_nms = import_module("torch"), import_module("torchvision.ops").batched_nms
    places, classes = np.nonzero(scores > _LEAST_SCORE)
    chosen = scores[places, classes]
    order = np.argsort(-chosen, kind="stable")[:_CANDIDATES]
    places, classes, chosen = places[order], classes[order], chosen[order]
    middle, half = centred[places, :2], centred[places, 2:] / 2
    corners = np.concatenate([middle - half, middle + half], axis=1)
    best = batched_nms(*map(torch.from_numpy, (corners, chosen, classes)), _LARGEST_OVERLAP)[:_MOST_BOXES].numpy()
    return _detections(corners[best], chosen[best], ids[classes[best]])


def _detections(corners: NDArray[Any], scores: NDArray[Any], categories: NDArray[Any]) -> Detections:
    boxes = Boxes(corners.astype(np.float64), categories.astype(np.int64))
    return Detections(boxes, scores.astype(np.float64))


def _best(found: Detections) -> Detections:
    order = np.argsort(-found.scores, kind="stable")[:_MOST_BOXES]
    return Detections(Boxes(found.boxes.corners[order], found.boxes.categories[order]), found.scores[order])
