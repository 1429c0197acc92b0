"""Accuracy of models against the labels and against a reference, in one pass over the images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.data.images import ImageSet, Unreadable
from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.runtimes.jobs import Runner
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.progress import SILENT, Progress
from edgeq.tasks.classification import Hits

Labelled = tuple[NDArray[np.float32], NDArray[np.int64] | None]
"""A batch of images, float32 `[n, 3, H, W]`, with their labels, int64 `[n]` or None."""


@dataclass(frozen=True)
class ModelScore:
    """The accuracy of one model.

    Attributes:
        name: the model's name in the call.
        top1: share of images whose label has the largest logit (of equal logits, the first counts), in percent.
        top5: share of images whose label is among the five largest logits, in percent.
        agreement: share of images with the same top-1 class as the reference, in percent.
        sqnr_db: signal-to-quantization-noise ratio of the logits, 10 log10(sum ref^2 / sum (ref - model)^2) over all
            images, in dB; None if it is not finite (no noise at all, or a reference that is always zero).
        predictions: the top-1 class of every image, in order.

    `top1` and `top5` are None for unlabelled images.
    """

    name: str
    top1: float | None
    top5: float | None
    agreement: float
    sqnr_db: float | None
    predictions: tuple[int, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """The result of `evaluate`; the body of an `evaluation` artifact, version 1.

    Attributes:
        data: name of the set of images; `batches` if the caller passed batches.
        preprocess: preprocessing of the images; None if the caller passed batches without it.
        images: number of images that were evaluated.
        unreadable: the images that were skipped.
        labels: class of every evaluated image, in order, or None.
        reference: the score of the reference.
        models: the score of each model, in the order of the call.
    """

    data: str
    preprocess: Preprocess | None
    images: int
    unreadable: tuple[Unreadable, ...]
    labels: tuple[int, ...] | None
    reference: ModelScore
    models: tuple[ModelScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists and numbers, ready for JSON; an unreadable image is `[path, reason]`."""
        return asdict(self)


@dataclass
class _Tally:
    """Running sums for one model: its hits, and the energy of the reference's logits and of their errors."""

    hits: Hits = field(default_factory=Hits)
    signal: float = 0.0
    noise: float = 0.0

    @staticmethod
    def of(logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64] | None) -> _Tally:
        """Return the sums over one batch."""
        return _Tally(
            hits=Hits.of(logits, reference, labels),
            signal=float(np.square(reference, dtype=np.float64).sum()),
            noise=float(np.square(reference.astype(np.float64) - logits).sum()),
        )

    def add(self, other: _Tally) -> None:
        """Add the sums over the images that follow."""
        self.hits.add(other.hits)
        self.signal += other.signal
        self.noise += other.noise

    def score(self, name: str, labelled: bool) -> ModelScore:
        return ModelScore(
            name=name,
            top1=self.hits.percent(self.hits.top1) if labelled else None,
            top5=self.hits.percent(self.hits.top5) if labelled else None,
            agreement=self.hits.percent(self.hits.agreed),
            sqnr_db=10.0 * math.log10(self.signal / self.noise) if self.signal and self.noise else None,
            predictions=tuple(self.hits.predictions),
        )


def evaluate(
    models: Mapping[str, Runner],
    reference: Runner,
    images: ImageSet | Iterable[Labelled],
    preprocess: Preprocess | None = None,
    batch: int = 16,
    *,
    progress: Progress = SILENT,
    workers: Workers = ALONE,
) -> EvaluationReport:
    """Run all models and the reference over the images once and compare their logits.

    Args:
        models: the models to score by name: functions from images to logits, such as those of `edgeq.onnx_runner`.
        reference: the model to compare with, usually the float network.
        images: a set of images, or batches of `(images, labels)`: float32 `[n, 3, H, W]`, and int64 `[n]` or None.
        preprocess: preprocessing for a set of images; not needed for batches.
        batch: number of images in a batch of a set.
        progress: after every batch, receives the number of images done, skipped ones included, and of all images; for
            batches, whose total is unknown, both are the number of images done.
        workers: the processes of a distributed run, which take the batches of a set in turn, or are each given their
            own batches; all get the same report.

    Returns:
        The scores of the reference and of each model.

    Raises:
        WorkerError: another process has ended early.
        DataError: the images cannot be used (see `ImageSet.batches`), there are none, or labels do not fit the classes.
        ArtifactError: a model gives logits of another shape than the reference, or logits that are not finite.
        UnsupportedError: a set of images without a preprocessing.

    Example:
        >>> report = edgeq.evaluate({"same": runner}, runner, [(batches[0], labels)])
        >>> report.images, report.models[0].agreement, report.models[0].sqnr_db
        (8, 100.0, None)
    """
    chunks: Iterable[Labelled]
    if isinstance(images, ImageSet):
        if preprocess is None:
            raise UnsupportedError(f"{images.name}: expected the preprocessing of the network's images, found none")
        data, chunks = images.name, images.batches(preprocess, batch, workers)
    else:
        data, chunks = "batches", images
    mine: list[_Counted | None] = []
    done = 0
    for pixels, labels in chunks:
        mine.append(_counted(models, reference, pixels, labels, data) if len(pixels) else None)
        done += workers.size * (batch if isinstance(images, ImageSet) else len(pixels))
        total = len(images) if isinstance(images, ImageSet) else done
        progress.step("evaluating", min(done, total), total)
    whole = _Counted([], _Tally(), {name: _Tally() for name in models})
    for side_by_side in zip_longest(*workers.all_gather(mine)):
        for counted in side_by_side:
            if counted:
                whole.add(counted)
    unreadable: tuple[Unreadable, ...] = ()
    if isinstance(images, ImageSet):
        images.put_together(workers)
        unreadable = tuple(images.unreadable)
    count = len(whole.reference.hits.predictions)
    if not count:
        raise DataError(f"{data}: no images to evaluate on; expected at least one")
    labelled = len(whole.labels) == count
    return EvaluationReport(
        data=data,
        preprocess=preprocess,
        images=count,
        unreadable=unreadable,
        labels=tuple(whole.labels) if labelled else None,
        reference=whole.reference.score("reference", labelled),
        models=tuple(tally.score(name, labelled) for name, tally in whole.models.items()),
    )


@dataclass
class _Counted:
    """The sums for the reference and all models over some images, and the labels of these images."""

    labels: list[int]
    reference: _Tally
    models: dict[str, _Tally]

    def add(self, other: _Counted) -> None:
        """Add the sums over the images that follow."""
        self.labels += other.labels
        self.reference.add(other.reference)
        for name, tally in other.models.items():
            self.models[name].add(tally)


def _counted(
    models: Mapping[str, Runner],
    reference: Runner,
    images: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    data: str,
) -> _Counted:
    """Run the reference and all models on one batch.

    Raises:
        ArtifactError, DataError: as for `evaluate`.
    """
    expected = _logits("the reference", reference, images, classes=None)
    if labels is not None:
        _check_labels(data, labels, *expected.shape)
    tallies = {
        name: _Tally.of(_logits(name, model, images, expected.shape[1]), expected, labels)
        for name, model in models.items()
    }
    return _Counted([] if labels is None else labels.tolist(), _Tally.of(expected, expected, labels), tallies)


def _logits(name: str, model: Runner, images: NDArray[np.float32], classes: int | None) -> NDArray[np.float32]:
    """Return the model's logits, checked to be finite and `[n, classes]`; None allows any number of classes."""
    logits = model(images)
    n = len(images)
    if logits.ndim != 2 or logits.shape != (n, classes or logits.shape[1]):
        raise ArtifactError(f"{name}: expected logits [{n}, {classes or 'classes'}], found {list(logits.shape)}")
    if not np.isfinite(logits).all():
        raise ArtifactError(f"{name}: expected finite logits, found NaN or infinity")
    return logits


def _check_labels(data: str, labels: NDArray[np.int64], images: int, classes: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.shape != (images,) or labels.dtype.kind not in "iu":
        found = f"{labels.dtype}{list(labels.shape)}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(f"{data}: expected labels as a NumPy array of integers [{images}], found {found}")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"{data}: expected labels below the network's {classes} classes, found {wrong}")
