"""The images that a command works on, and what the user should know about them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.commands import defaults
from edgeq.commands.defaults import EMBEDDED
from edgeq.data.class_folders import ClassOrder
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError, UnsupportedError
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.progress import Progress


def choose_data(data: str | None, weights: str) -> str:
    """Return `data`, or where it is None `embedded` for a network with embedded weights.

    Raises:
        DataError: the images are not named, and those that come with edgeq are not what the network was trained on.
    """
    if data is None and weights != EMBEDDED:
        raise DataError(f"{weights} weights need images of their own, found none; name a folder with --data DIR")
    return data or EMBEDDED


def calibration_images(data: str, samples: int | None, seed: int, progress: Progress) -> ImageSet:
    """The images to calibrate on.

    Args:
        data: `embedded`, or a folder of any layout.
        samples: number of images; None takes as many as is usual.
        seed: of the choice of images of a folder.
        progress: is told what of a folder was left out, and where it has fewer images.

    Raises:
        DataError: the folder cannot be used.
    """
    if data == EMBEDDED:
        return ImageSet.embedded("calib", defaults.CALIBRATION_SAMPLES if samples is None else samples)
    wanted = defaults.FOLDER_SAMPLES if samples is None else samples
    images = ImageSet.folder(Path(data), wanted, seed)
    report_notices(images, progress)
    if len(images) < wanted:
        progress.notice(f"{data}: expected {wanted} images, found {len(images)}; all of them are used")
    return images


def labelled_images(data: str | None, weights: str, classes: int, order: ClassOrder | None = None) -> ImageSet:
    """The images to score a network on.

    Args:
        data: `embedded` (its test split), or a folder of class folders; None as in `choose_data`.
        weights: of the network.
        classes: their number.
        order: what numbers class folders, see `edgeq.ImageSet.labelled`.

    Raises:
        DataError: the images are not named, or the folder cannot be used.
        UnsupportedError: an order of class folders for embedded images.
    """
    where = choose_data(data, weights)
    if where != EMBEDDED:
        return ImageSet.labelled(Path(where), classes, order)
    if order is not None:
        raise UnsupportedError(f"class order {order}: expected a folder of class folders, found {EMBEDDED} images")
    return ImageSet.embedded("test", defaults.TEST_SAMPLES)


def batches(
    images: ImageSet, preprocess: Preprocess, workers: Workers = ALONE
) -> Generator[NDArray[np.float32], None, None]:
    """Preprocessed images without their labels, float32 `[n, 3, H, W]` each."""
    return (batch.images for batch in images.batches(preprocess, defaults.BATCH, workers))


def report_notices(images: ImageSet, progress: Progress) -> None:
    """Say what of a folder was left out, and how its class folders were read."""
    for notice in images.notices:
        progress.notice(notice)


def report_unreadable(images: ImageSet, progress: Progress) -> None:
    """Name and count the images that the latest pass has skipped."""
    for path, reason in images.unreadable:
        progress.notice(f"warning: {path}: skipped, {reason}")
    if images.unreadable:
        progress.notice(f"warning: {len(images.unreadable)} of {len(images)} images could not be read")
