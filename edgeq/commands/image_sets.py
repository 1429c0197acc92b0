"""The images of a command, and notices about them for the user."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from edgeq.commands import defaults
from edgeq.commands.defaults import EMBEDDED
from edgeq.data.class_folders import ClassOrder
from edgeq.data.images import ImageSet, Inputs
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError, UnsupportedError
from edgeq.ir.graph import Graph
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.progress import Progress


def choose_data(data: str | None, weights: str) -> str:
    """Return `data`; if it is None, `embedded` for a network with embedded weights.

    Raises:
        DataError: `data` is None for other weights, which were not trained on the embedded images.
    """
    if data is None and weights != EMBEDDED:
        raise DataError(f"{weights} weights need images of their own, found none; name a folder with --data DIR")
    return data or EMBEDDED


def calibration_images(data: str, samples: int | None, seed: int, progress: Progress) -> ImageSet:
    """Return the images to calibrate on.

    Args:
        data: `embedded`, or a folder of images or arrays of any layout, see `edgeq.ImageSet.folder`.
        samples: number of images; None is the default.
        seed: seed of the choice of images in a folder.
        progress: receives notices about files of a folder that were left out, and about too few images.

    Raises:
        DataError: the folder cannot be used.
    """
    if data == EMBEDDED:
        return ImageSet.embedded("calib", defaults.CALIBRATION_SAMPLES if samples is None else samples)
    wanted = defaults.FOLDER_SAMPLES if samples is None else samples
    images = ImageSet.folder(Path(data), wanted, seed)
    report_notices(images, progress)
    if len(images) < wanted:
        progress.notice(f"{data}: expected {wanted} {images.kind}, found {len(images)}; all of them are used")
    return images


def labelled_images(data: str | None, weights: str, classes: int | None, order: ClassOrder | None = None) -> ImageSet:
    """Return the labelled images to score a network on.

    Args:
        data: `embedded` (its test split), or a folder of class folders; None as in `choose_data`.
        weights: `embedded`, `imagenet` or the file of the network's weights.
        classes: number of classes of the network; None if it does not return class scores.
        order: how class folders are numbered, see `edgeq.ImageSet.labelled`.

    Raises:
        DataError: as for `choose_data`, or the folder cannot be used.
        UnsupportedError: an order of class folders for embedded images, or a network without class scores.
    """
    if classes is None:
        raise UnsupportedError("expected a network that returns one vector of class scores, found other outputs")
    where = choose_data(data, weights)
    if where != EMBEDDED:
        return ImageSet.labelled(Path(where), classes, order)
    if order is not None:
        raise UnsupportedError(f"class order {order}: expected a folder of class folders, found {EMBEDDED} images")
    return ImageSet.embedded("test", defaults.TEST_SAMPLES)


def batches(
    images: ImageSet, graph: Graph, preprocess: Preprocess | None, workers: Workers = ALONE
) -> Generator[Inputs, None, None]:
    """Yield batches of what a network takes, without labels, see `edgeq.ImageSet.inputs`."""
    return images.inputs(graph.input_shapes, preprocess, defaults.BATCH, workers)


def report_notices(images: ImageSet, progress: Progress) -> None:
    """Report which files of a folder were left out, and how its class folders were read."""
    for notice in images.notices:
        progress.notice(notice)


def report_unreadable(images: ImageSet, progress: Progress) -> None:
    """Report the images that the latest pass has skipped, and their number."""
    for path, reason in images.unreadable:
        progress.notice(f"warning: {path}: skipped, {reason}")
    if images.unreadable:
        progress.notice(f"warning: {len(images.unreadable)} of {len(images)} images could not be read")
