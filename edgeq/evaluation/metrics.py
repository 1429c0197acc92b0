"""Metrics of a task: what is counted of a model's outputs for some images, and the scores of all images."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeq.artifacts.files import sha256
from edgeq.data.annotations import Annotations
from edgeq.data.images import ImageSet
from edgeq.data.masks import Masks
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError, EdgeqError, UnsupportedError, printable
from edgeq.runtimes.jobs import Outputs
from edgeq.system.functions import function_of, raised
from edgeq.tasks.detection import Detections, Truth, check_installed, detections, mean_average_precision
from edgeq.tasks.segmentation import IGNORED, MOST_CLASSES, Counts, class_maps, confusion, mean_iou


class Metric(Protocol):
    """The metric of a task.

    What `count` returns can be pickled, so that the processes of a distributed run can gather it.

    Attributes:
        name: of the score that a model is judged by, a key of `scores`.
    """

    name: str

    def count(self, outputs: Outputs, indices: Sequence[int]) -> Any:
        """Return what counts of a model's outputs for some images, given by their indices in their set."""

    def scores(self, counts: Sequence[Any]) -> dict[str, float]:
        """Return the scores by name from what was counted for all images, in order."""

    def digest(self) -> str:
        """Return the digest of what scores depend on besides images and outputs."""


class Detection:
    """COCO's mAP in percent, `map`, and that at an intersection over union of 0.5, `map50`.

    Boxes are compared in pixels of the network's input; of objects, what the preprocessing cuts off does not count.

    Args:
        annotations: the objects in the images.
        preprocess: preprocessing of the images.

    Raises:
        UnsupportedError: pycocotools is not installed.
    """

    name = "map"

    def __init__(self, annotations: Annotations, preprocess: Preprocess) -> None:
        check_installed()
        self._annotations, self._preprocess = annotations, preprocess
        self._seen: dict[int, Truth] = {}  # the same for all models

    def count(self, outputs: Outputs, indices: Sequence[int]) -> list[tuple[int, Detections]]:
        """Return what is found in each image."""
        found = detections(outputs, self._annotations.categories)
        if len(found) != len(indices):
            raise UnsupportedError(f"detection: expected the boxes of {len(indices)} images, found {len(found)}")
        return list(zip(indices, found, strict=True))

    def scores(self, counts: Sequence[list[tuple[int, Detections]]]) -> dict[str, float]:
        """Return both scores."""
        found = [image for part in counts for image in part]
        for index, _ in found:
            if index not in self._seen:
                self._seen[index] = self._annotations.seen(index, self._preprocess)
        truths = [self._seen[index] for index, _ in found]
        if not any(len(truth.crowd) for truth in truths):
            raise DataError(f"{self._annotations.images.name}: expected objects in the images, found none")
        known, ids = (
            self._annotations.categories,
            {*np.concatenate([one.boxes.categories for _, one in found]).tolist()},
        )
        if ids and not ids & {*known}:
            few = ", ".join(map(str, sorted(ids)[:3]))
            raise UnsupportedError(
                f"detection: expected labels that are ids of categories, {known[0]} to {known[-1]}, found {few}"
            )
        return mean_average_precision(truths, [one for _, one in found], known)

    def digest(self) -> str:
        """Return the digest of the file of annotations."""
        return sha256(self._annotations.file)


class Segmentation:
    """mIoU in percent, `miou`; masks are resized and cropped as their images, then to the size of the output.

    Args:
        masks: the class of every pixel of the images.
        preprocess: preprocessing of the images.
    """

    name = "miou"

    def __init__(self, masks: Masks, preprocess: Preprocess) -> None:
        self._masks, self._preprocess = masks, preprocess

    def count(self, outputs: Outputs, indices: Sequence[int]) -> Counts:
        """Return the number of pixels by class in the mask and class found."""
        maps, classes = class_maps(outputs)
        if len(maps) != len(indices):
            raise UnsupportedError(f"segmentation: expected maps of {len(indices)} images, found {len(maps)}")
        rows, columns = maps.shape[1:]
        masks = np.stack([self._masks.read(index, self._preprocess, (rows, columns)) for index in indices])
        most = classes or MOST_CLASSES
        for index, mask in zip(indices, masks, strict=True):
            if (wrong := mask[(mask != IGNORED) & ((mask < 0) | (mask >= most))]).size:
                raise DataError(
                    f"{self._masks.paths[index]}: expected class indices below {most}, or {IGNORED} where no class "
                    f"counts, found {wrong[0]}"
                )
        return confusion(maps, masks)

    def scores(self, counts: Sequence[Counts]) -> dict[str, float]:
        """Return the score."""
        found = mean_iou(counts)
        if found is None:
            raise DataError(f"{self._masks.images.name}: expected classes in the masks, found only {IGNORED}")
        return {self.name: found}

    def digest(self) -> str:
        """Return a digest of all masks."""
        return hashlib.sha256("".join(map(sha256, self._masks.paths)).encode()).hexdigest()


class Custom:
    """A user's function of outputs and images, `f(outputs, images) -> float`; the score is its mean over the images.

    It is called for every run: with all outputs by name, as the model gives them, and with the paths of the images of
    the run (for rendered images, which have none, their indices).

    Args:
        name: `MODULE:FUNCTION`.
        images: the images that are evaluated.

    Raises:
        UnsupportedError: no such function. `count` raises it if the function fails or returns no finite number.
    """

    def __init__(self, name: str, images: ImageSet) -> None:
        self.name = name
        self._function: Callable[..., Any] = function_of(name)
        self._images = images

    def count(self, outputs: Outputs, indices: Sequence[int]) -> tuple[float, int]:
        """Return the sum over the images, and their number."""
        try:
            found = self._function(dict(outputs), [self._images.place(index) for index in indices])
        except EdgeqError:
            raise
        except (Exception, SystemExit) as error:  # of any code
            raise UnsupportedError(f"{self.name}: the metric raised {raised(error)}") from error
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise UnsupportedError(
                f"{self.name}: expected a finite number of the metric, found {printable(repr(found))}"
            )
        return value * len(indices), len(indices)

    def scores(self, counts: Sequence[tuple[float, int]]) -> dict[str, float]:
        """Return the mean."""
        return {self.name: math.fsum(value for value, _ in counts) / sum(count for _, count in counts)}

    def digest(self) -> str:
        """Return the digest of the file that the function is in; empty if it is in none."""
        try:
            return sha256(Path(inspect.getfile(self._function)))
        except (TypeError, OSError):
            return ""
