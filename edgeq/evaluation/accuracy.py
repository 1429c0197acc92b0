"""Models against a reference and against what is known of the images, in one pass over the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.data.images import ImageSet, Unreadable
from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, DataError
from edgeq.evaluation.metrics import Metric
from edgeq.evaluation.outputs import class_scores, length, like, named
from edgeq.evaluation.similarity import OutputScore, Similarity
from edgeq.runtimes.jobs import Inputs, Model
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.progress import SILENT, Progress
from edgeq.tasks.classification import Hits

Labelled = tuple[Inputs, NDArray[np.int64] | None]
"""Images, float32 `[n, ...]`, or one array for each input by name, with their labels, int64 `[n]` or None."""


@dataclass(frozen=True)
class ModelScore:
    """The scores of one model.

    Attributes:
        name: the model's name in the call.
        top1: share of images whose label has the largest logit (of equal logits, the first counts), in percent.
        top5: share of images whose label is among the five largest logits, in percent.
        agreement: share of images with the same top-1 class as the reference, in percent.
        sqnr_db: signal-to-quantization-noise ratio of the worst output, see `OutputScore`; None if no output has one.
        predictions: the top-1 class of every image, in order.
        metrics: the scores of the metric by name, see `edgeq.evaluation.metrics`.
        outputs: how alike each output is to the reference's, by its name.

    `top1` and `top5` are None for unlabelled images, and so is `agreement` for networks that are no classifiers, whose
    `predictions` are empty.
    """

    name: str
    top1: float | None
    top5: float | None
    agreement: float | None
    sqnr_db: float | None
    predictions: tuple[int, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, OutputScore] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationReport:
    """The result of `evaluate`; the body of an `evaluation` artifact, version 2.

    Attributes:
        data: name of the set of images; `batches` if the caller passed batches.
        preprocess: preprocessing of the images; None if the caller passed batches without it.
        images: number of images that were evaluated.
        unreadable: the images that were skipped.
        labels: class of every evaluated image, in order, or None.
        metric: the score that models are judged by: `top1`, a key of their `metrics`, or `sqnr_db`.
        reference: the score of the reference.
        models: the score of each model, in the order of the call.
    """

    data: str
    preprocess: Preprocess | None
    images: int
    unreadable: tuple[Unreadable, ...]
    labels: tuple[int, ...] | None
    metric: str
    reference: ModelScore
    models: tuple[ModelScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists and numbers, ready for JSON; an unreadable image is `[path, reason]`."""
        return asdict(self)


@dataclass(frozen=True)
class Test:
    """What models are tested on.

    Attributes:
        images: a set of images, or batches with labels.
        preprocess: preprocessing of a set of images; not needed for batches.
        batch: number of images in a run on a set.
        metric: what else is measured, for a set of images alone; None for nothing.
        classifies: whether there is an output of class scores `[n, classes]`; None to find out: labelled images need
            one, and an only output of two dimensions is one.
        shapes: of the network's inputs by name, without the batch; for a set of arrays alone.
    """

    __test__ = False  # pytest takes it for a test

    images: ImageSet | Iterable[Labelled]
    preprocess: Preprocess | None = None
    batch: int = 16
    metric: Metric | None = None
    classifies: bool | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the images."""
        return self.images.name if isinstance(self.images, ImageSet) else "batches"

    def runs(self, workers: Workers) -> Iterator[tuple[Inputs, NDArray[np.int64] | None, tuple[int, ...]]]:
        """Yield the images of each run with their labels and, for a set, their indices."""
        if not isinstance(self.images, ImageSet):
            yield from ((inputs, labels, ()) for inputs, labels in self.images)
        elif self.images.kind == "arrays":
            yield from ((inputs, None, ()) for inputs in self.images.inputs(self.shapes, None, self.batch, workers))
        else:
            for inputs, labels, indices in self.images.batches(self.preprocess, self.batch, workers):
                yield inputs, None if self.classifies is False else labels, indices


def evaluate(
    models: Mapping[str, Model],
    reference: Model,
    images: ImageSet | Iterable[Labelled],
    preprocess: Preprocess | None = None,
    batch: int = 16,
    *,
    progress: Progress = SILENT,
    workers: Workers = ALONE,
) -> EvaluationReport:
    """Run all models and the reference over the images once and compare their outputs.

    Args:
        models: the models to score by name: functions from images to logits, such as those of `edgeq.onnx_runner`, or
            from images to a dict of all outputs.
        reference: the model to compare with, usually the float network.
        images: a set of images, or batches of `(images, labels)`: float32 `[n, 3, H, W]` (a dict by name for a network
            with several inputs), and int64 `[n]` or None.
        preprocess: preprocessing for a set of images; not needed for batches.
        batch: number of images in a batch of a set.
        progress: after every batch, receives the number of images done, skipped ones included, and of all images; for
            batches, whose total is unknown, both are the number of images done.
        workers: the processes of a distributed run, which take the batches of a set in turn, or are each given their
            own batches; all get the same report.

    Returns:
        The scores of the reference and of each model. Those of classifiers need a single output `[n, classes]`, or with
        labels one of this form.

    Raises:
        WorkerError: another process has ended early.
        DataError: the images cannot be used (see `ImageSet.batches`), there are none, or labels do not fit the classes.
        ArtifactError: a model has other outputs than the reference, or values that are not finite.
        UnsupportedError: a set of images without a preprocessing.

    Example:
        >>> report = edgeq.evaluate({"same": runner}, runner, [(batches[0], labels)])
        >>> report.images, report.models[0].agreement, report.models[0].sqnr_db
        (8, 100.0, None)
    """
    return score(models, reference, Test(images, preprocess, batch), progress, workers)


def score(
    models: Mapping[str, Model],
    reference: Model,
    test: Test,
    progress: Progress = SILENT,
    workers: Workers = ALONE,
) -> EvaluationReport:
    """Do what `evaluate` does, with a metric of any task.

    Raises:
        EdgeqError: as for `evaluate`, or what `test.metric` raises.
    """
    images = test.images if isinstance(test.images, ImageSet) else None
    mine: list[_Counted | None] = []
    done = 0
    for run in test.runs(workers):
        n = length(run[0])
        mine.append(_counted(models, reference, test, run) if n else None)
        done += n if images is None else workers.size * test.batch
        total = done if images is None else len(images)
        progress.step("evaluating", min(done, total), total)
    whole = _Counted(0, [], _Tally(), {name: _Tally() for name in models})
    for side_by_side in zip_longest(*workers.all_gather(mine)):
        for counted in side_by_side:
            if counted:
                whole.add(counted)
    unreadable: tuple[Unreadable, ...] = ()
    if images is not None:
        images.put_together(workers)
        unreadable = tuple(images.unreadable)
    if not whole.images:
        raise DataError(f"{test.name}: no images to evaluate on; expected at least one")
    labelled = len(whole.labels) == whole.images
    scored = [whole.reference.score("reference", test.metric, labelled)]
    scored += [tally.score(name, test.metric, labelled) for name, tally in whole.models.items()]
    usual = "top1" if labelled and whole.reference.hits.predictions else "sqnr_db"
    return EvaluationReport(
        data=test.name,
        preprocess=test.preprocess,
        images=whole.images,
        unreadable=unreadable,
        labels=tuple(whole.labels) if labelled else None,
        metric=test.metric.name if test.metric else usual,
        reference=scored[0],
        models=tuple(scored[1:]),
    )


@dataclass
class _Tally:
    """What is counted of one model."""

    hits: Hits = field(default_factory=Hits)
    outputs: dict[str, Similarity] = field(default_factory=dict)
    counts: list[Any] = field(default_factory=list)

    def add(self, other: _Tally) -> None:
        """Add what was counted of the images that follow."""
        self.hits.add(other.hits)
        for name, similarity in other.outputs.items():
            self.outputs.setdefault(name, Similarity()).add(similarity)
        self.counts += other.counts

    def score(self, name: str, metric: Metric | None, labelled: bool) -> ModelScore:
        """Return the scores over all images."""
        outputs = {output: similarity.score() for output, similarity in self.outputs.items()}
        for output, similarity in self.outputs.items():
            if similarity.other_shape == similarity.runs:
                raise ArtifactError(f"{name}: expected output {output} in the reference's shape, never found it so")
        known = [one.sqnr_db for one in outputs.values() if one.sqnr_db is not None]
        classified, labelled = bool(self.hits.predictions), labelled and bool(self.hits.predictions)
        return ModelScore(
            name=name,
            top1=self.hits.percent(self.hits.top1) if labelled else None,
            top5=self.hits.percent(self.hits.top5) if labelled else None,
            agreement=self.hits.percent(self.hits.agreed) if classified else None,
            sqnr_db=min(known, default=None),
            predictions=tuple(self.hits.predictions),
            metrics=metric.scores(self.counts) if metric else {},
            outputs=outputs,
        )


@dataclass
class _Counted:
    """What is counted of the reference and of all models over some images, and the labels of these images."""

    images: int
    labels: list[int]
    reference: _Tally
    models: dict[str, _Tally]

    def add(self, other: _Counted) -> None:
        """Add what was counted of the images that follow."""
        self.images += other.images
        self.labels += other.labels
        self.reference.add(other.reference)
        for name, tally in other.models.items():
            self.models[name].add(tally)


def _counted(
    models: Mapping[str, Model],
    reference: Model,
    test: Test,
    run: tuple[Inputs, NDArray[np.int64] | None, tuple[int, ...]],
) -> _Counted:
    """Run the reference and all models once.

    Raises:
        EdgeqError: as for `score`.
    """
    inputs, labels, indices = run
    n = length(inputs)
    expected = named("the reference", reference(inputs))
    logits = class_scores(expected, n, test.classifies, labels is not None)
    if labels is not None:
        _check_labels(test.name, labels, n, expected[logits].shape[1] if logits else 0)
    tallies = []
    for name, model in {"the reference": None, **models}.items():
        found = expected if model is None else like(name, named(name, model(inputs)), expected, logits)
        tallies.append(
            _Tally(
                Hits.of(found[logits], expected[logits], labels) if logits else Hits(),
                {output: Similarity.of(found[output], value) for output, value in expected.items()},
                [test.metric.count(found, indices)] if test.metric else [],
            )
        )
    return _Counted(
        n, [] if labels is None else labels.tolist(), tallies[0], dict(zip(models, tallies[1:], strict=True))
    )


def _check_labels(data: str, labels: NDArray[np.int64], images: int, classes: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.shape != (images,) or labels.dtype.kind not in "iu":
        found = f"{labels.dtype}{list(labels.shape)}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(f"{data}: expected labels as a NumPy array of integers [{images}], found {found}")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"{data}: expected labels below the network's {classes} classes, found {wrong}")
