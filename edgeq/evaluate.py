"""Accuracy of models against the labels and against a reference, in one pass over the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, DataError
from edgeq.images import Batch, ImageSet, Unreadable
from edgeq.preprocess import Preprocess, interleaved
from edgeq.runtimes import check_values, read_onnx

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 images `[n, 3, H, W]` -> float32 logits `[n, classes]`."""

PIXEL_TYPE: Final = "tensor(uint8)"
"""What ONNX Runtime calls the type of an input that takes pixels."""


LOGIT_TYPES: Final = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class ModelScore:
    """How one model did.

    Attributes:
        name: the model's name in the call.
        top1: images whose largest logit (the first one, where several are equal) is the label's, in percent.
        top5: images whose label is among the five largest logits, in percent.
        agreement: images with the same top-1 class as the reference, in percent.
        sqnr_db: signal-to-quantization-noise ratio of the logits, 10 log10(sum ref^2 / sum (ref - model)^2) over all
            images, in dB; None where it is not a finite number (no noise at all, or a reference of nothing but zeros).
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
    """What `evaluate` found; the body of an `evaluation` artifact, version 1.

    Attributes:
        data: name of the set of images.
        preprocess: what was done to them.
        images: number of images that were evaluated.
        unreadable: the others, which were skipped.
        labels: class of every evaluated image, in order, or None.
        reference: the reference's own row.
        models: one row a model, in the order of the call.
    """

    data: str
    preprocess: Preprocess
    images: int
    unreadable: tuple[Unreadable, ...]
    labels: tuple[int, ...] | None
    reference: ModelScore
    models: tuple[ModelScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists and numbers, ready for JSON; an unreadable image is `[path, reason]`."""
        return asdict(self)


class _Tally:
    """Running sums of one model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.predictions: list[int] = []
        self.hits1 = self.hits5 = self.agreed = 0
        self.signal = self.noise = 0.0

    def add(
        self, logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64] | None
    ) -> None:
        chosen = logits.argmax(axis=1)
        self.predictions += chosen.tolist()
        self.agreed += int((chosen == reference.argmax(axis=1)).sum())
        self.signal += float(np.square(reference, dtype=np.float64).sum())
        self.noise += float(np.square(reference.astype(np.float64) - logits).sum())
        if labels is not None:
            rank = _rank(logits, labels)
            self.hits1 += int((rank < 1).sum())
            self.hits5 += int((rank < 5).sum())

    def score(self, labelled: bool) -> ModelScore:
        images = len(self.predictions)
        return ModelScore(
            name=self.name,
            top1=100.0 * self.hits1 / images if labelled else None,
            top5=100.0 * self.hits5 / images if labelled else None,
            agreement=100.0 * self.agreed / images,
            sqnr_db=10.0 * math.log10(self.signal / self.noise) if self.signal and self.noise else None,
            predictions=tuple(self.predictions),
        )


def evaluate(
    models: Mapping[str, Runner],
    reference: Runner,
    images: ImageSet,
    preprocess: Preprocess,
    batch: int = 16,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Run all models and the reference over the images once, `batch` at a time, and compare their logits.

    `progress` is called after every batch with the number of images done (skipped ones included) and of all images.

    Raises:
        DataError: the images cannot be used (see `ImageSet.batches`), or their labels do not fit the classes.
        ArtifactError: a model gives logits of another shape than the reference, or logits that are not finite.
    """
    reference_tally = _Tally("reference")
    tallies = {name: _Tally(name) for name in models}
    labels: list[int] = []
    for chunk in images.batches(preprocess, batch):
        expected = _logits("the reference", reference, chunk, classes=None)
        classes = expected.shape[1]
        if chunk.labels is not None:
            _check_labels(images.name, chunk.labels, classes)
            labels += chunk.labels.tolist()
        reference_tally.add(expected, expected, chunk.labels)
        for name, model in models.items():
            tallies[name].add(_logits(name, model, chunk, classes), expected, chunk.labels)
        if progress is not None:
            progress(len(reference_tally.predictions) + len(images.unreadable), len(images))
    labelled = images.labels is not None
    return EvaluationReport(
        data=images.name,
        preprocess=preprocess,
        images=len(reference_tally.predictions),
        unreadable=tuple(images.unreadable),
        labels=tuple(labels) if labelled else None,
        reference=reference_tally.score(labelled),
        models=tuple(tally.score(labelled) for tally in tallies.values()),
    )


def onnx_runner(path: Path, optimize: bool = True, threads: int = 0) -> Runner:
    """Load an ONNX file into ONNX Runtime on the CPU; `threads` 0 leaves their number to ONNX Runtime.

    `optimize` False runs the graph as it stands in the file, node by node. The file must have one input and one output.
    Where the input is uint8, the images are pixels in 0..1, and given to it as `[n, h, w, 3]`.

    Raises:
        ArtifactError: the file is missing, is no ONNX model, or ONNX Runtime cannot load it; the runner raises it when
            ONNX Runtime refuses the images, as a file with a fixed batch does.
    """
    check_values(path, read_onnx(path))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised here; ONNX Runtime would print it too
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ArtifactError(
            f"{path}: expected an ONNX model that ONNX Runtime can load, found: {_reason(error)}"
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: expected an image classifier with 1 input and 1 output, found {len(inputs)} and {len(outputs)}"
        )
    if outputs[0].type not in LOGIT_TYPES:
        raise ArtifactError(f"{path}: expected logits of {' or '.join(LOGIT_TYPES)}, found {outputs[0].type}")
    input_name, pixels = inputs[0].name, inputs[0].type == PIXEL_TYPE

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = session.run(None, {input_name: interleaved(images) if pixels else images})[0]
        except Exception as error:
            raise ArtifactError(f"{path}: cannot run on images {list(images.shape)}: {_reason(error)}") from error
        return logits

    return run


def _logits(name: str, model: Runner, chunk: Batch, classes: int | None) -> NDArray[np.float32]:
    """The model's logits, checked to be finite and `[n, classes]` (any number of classes for the reference)."""
    logits = model(chunk.images)
    n = len(chunk.images)
    if logits.ndim != 2 or logits.shape != (n, classes or logits.shape[1]):
        raise ArtifactError(f"{name}: expected logits [{n}, {classes or 'classes'}], found {list(logits.shape)}")
    if not np.isfinite(logits).all():
        raise ArtifactError(f"{name}: expected finite logits, found NaN or infinity")
    return logits


def _check_labels(data: str, labels: NDArray[np.int64], classes: int) -> None:
    if labels.max() >= classes:
        raise DataError(f"{data}: expected labels below the network's {classes} classes, found {labels.max()}")


def _rank(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the label's, int64 `[n]`; of equal logits the lower index comes first (argmax)."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower_index = np.arange(logits.shape[1]) < labels[:, None]
    rank: NDArray[np.int64] = ((logits > own) | ((logits == own) & lower_index)).sum(axis=1)
    return rank


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, on one line, without the path that precedes it."""
    return " ".join(str(error).rpartition("failed:")[2].split())
