"""Segmentation: a class for every pixel of an image, scored by mIoU.

The intersection over union of a class is the number of pixels that are of it both in the mask and as found, as a share
of those that are of it in either. mIoU is its mean over the classes that occur in either, over all images together
(Everingham et al., doi:10.1007/s11263-009-0275-4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError

IGNORED: Final = 255
"""The class index of pixels that do not count."""

MOST_CLASSES: Final = 1024

Counts = NDArray[np.int64]
"""Number of pixels `[classes, classes]`, by the class in the mask and the class that was found."""


class ClassMaps(NamedTuple):
    """The class of every pixel of some images, int64 `[n, h, w]`, and the number of classes, if it is known."""

    maps: NDArray[np.int64]
    classes: int | None


def class_maps(outputs: Mapping[str, NDArray[Any]]) -> ClassMaps:
    """Return the class that a model gives every pixel.

    Args:
        outputs: of a model by name. One of them has scores `[n, classes, h, w]`, or class indices: whole numbers
            `[n, h, w]` or `[n, 1, h, w]`.

    Raises:
        UnsupportedError: none of them, several, or indices of more than 1024 classes.
    """
    found = [value for value in outputs.values() if _is_map(value)]
    if len(found) != 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise UnsupportedError(
            "segmentation: expected one output with class scores [n, classes, h, w] or class indices [n, h, w], found "
            f"{shapes}; for another form write a function and name it with --metric MODULE:FUNCTION"
        )
    (value,) = found
    if value.ndim == 4 and value.shape[1] > 1:
        return ClassMaps(value.argmax(1), value.shape[1])
    if value.max() >= MOST_CLASSES:
        raise UnsupportedError(f"segmentation: expected class indices below {MOST_CLASSES}, found {value.max():g}")
    return ClassMaps(value.reshape(len(value), *value.shape[-2:]).astype(np.int64), None)


def confusion(found: NDArray[np.int64], masks: NDArray[np.int64]) -> Counts:
    """Count the pixels of some images by class.

    Args:
        found: class that a model gives every pixel, at least 0, of any shape.
        masks: class of every pixel, `IGNORED` or at least 0, of the same shape.
    """
    counted = masks != IGNORED
    pairs = masks[counted], found[counted]
    size = max((int(part.max(initial=-1)) + 1 for part in pairs), default=0)
    return np.bincount(pairs[0] * size + pairs[1], minlength=size * size).reshape(size, size)


def mean_iou(counts: Iterable[Counts]) -> float | None:
    """Return the mIoU of all pixels in percent; None if no pixel counts."""
    parts = list(counts)
    size = max((len(part) for part in parts), default=0)
    whole = sum((np.pad(part, (0, size - len(part))) for part in parts), np.zeros((size, size), np.int64))
    both = whole.diagonal()
    either = whole.sum(0) + whole.sum(1) - both
    return float(100 * (both[either > 0] / either[either > 0]).mean()) if either.any() else None


def _is_map(value: NDArray[Any]) -> bool:
    if value.ndim == 4 and value.shape[1] > 1:
        return True
    return value.ndim in (3, 4) and value.size > 0 and bool((value == np.floor(value)).all() and value.min() >= 0)
