"""Classification: the output is class logits, `[n, classes]`, or for every position of a map or of a sequence.

Outputs are compared by the KL divergence of their class probabilities. A change `d` of the logits changes probabilities
`p` by a divergence of `d' F d / 2`, up to higher orders, where `F = diag(p) - p p'` is their Fisher information.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_ALIKE: Final = 0.1  # trace of the term added to the Fisher information, whose own trace is at most 1


class Classification:
    """The `edgeq.tasks.task.Task` of classifiers.

    Args:
        axis: of the classes in an output, without the batch.
    """

    def __init__(self, axis: int = 0) -> None:
        self.axis = axis

    def answers(self, value: Tensor) -> Tensor:
        """Return logits of at least two classes, float32 `[n, classes, ...]`.

        A single logit gets a second one, 0, so that the class probabilities are its sigmoid and 1 minus its sigmoid.
        """
        value = value.movedim(self.axis + 1, 1)
        return torch.cat([value, torch.zeros_like(value)], 1) if value.shape[1] == 1 else value

    def shape(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of classes, at least two, and the shape of the positions."""
        positions = [*value]
        classes = positions.pop(self.axis)
        return (max(classes, 2), *positions)

    def divergence(self, found: Tensor, expected: Tensor, reduction: Literal["sum", "batchmean"]) -> Tensor:
        """Return the KL divergence of the class probabilities, in nats."""
        return F.kl_div(found.log_softmax(1), expected.log_softmax(1), log_target=True, reduction=reduction)

    def random_direction(self, answers: Tensor, signs: Tensor) -> Tensor:
        """Return a random `v` whose covariance is the Fisher information `F`.

        It is a root of `F` times random signs (Hutchinson's estimator, doi:10.1080/03610919008812866). The usual choice
        is a one-hot class drawn from `p`, minus `p`; it varies far more where the network is sure of its answer.
        """
        p = answers.softmax(1)
        v = p.sqrt() * signs
        return v - p * v.sum(1, keepdim=True)

    def random_directions(self, answers: Tensor, signs: Tensor, others: Tensor) -> Iterator[Tensor]:
        """Yield two `v`; the second has the opposite sign at every other class in the order of probability.

        Where two classes share all of the probability, the mean over both `v` is exact. Where the network is sure of
        its answer, the divergence hardly sees an error. So that such errors still count, a small multiple of the
        identity is added to the Fisher information: it weighs errors of all logits alike.
        """
        ranks = answers.argsort(dim=1, descending=True).argsort(dim=1)
        for differ in (torch.ones_like(answers), 1 - 2 * (ranks % 2)):
            v = self.random_direction(answers, signs * differ)
            yield v + (_ALIKE / answers.shape[1]) ** 0.5 * others * differ

    def trust(self, answers: Tensor) -> Tensor:
        """Return the class probabilities."""
        return answers.softmax(1)

    def loss(self, trust: Tensor, answers: Tensor) -> Tensor:
        """Return `p(class of the float network) - p(class of the answers)`, with `p` of the float network.

        Without labels, the float network's probability of a class stands for the chance that it is right.
        """
        return (trust.amax(1) - trust.gather(1, answers.argmax(1, keepdim=True))[:, 0]).reshape(-1)


def entropy(logits: Tensor) -> Tensor:
    """Return how unsure a classifier is of each image, in nats: the entropy of the class probabilities, `[n]`."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def classes(outputs: NDArray[np.float32], axis: int | None = 0) -> NDArray[Any]:
    """Return the top-1 class of every image, or of every position.

    Args:
        outputs: of a model, `[n, ...]`.
        axis: of the classes, without the batch. None, or outputs `[n]`: they are the classes themselves or
            probabilities of one of two.
    """
    return np.round(outputs) if axis is None or outputs.ndim == 1 else outputs.argmax(axis + 1)


@dataclass
class Hits:
    """The number of images that a model classified correctly.

    Attributes:
        predictions: the top-1 class of every image, in order; of equal logits, the first counts.
        top1: number of images whose label is the top-1 class.
        top5: number of images whose label is among the five largest logits.
        agreed: number of images with the same top-1 class as the reference.
    """

    predictions: list[int] = field(default_factory=list)
    top1: int = 0
    top5: int = 0
    agreed: int = 0

    @staticmethod
    def of(logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64] | None) -> Hits:
        """Count the hits in one batch.

        Args:
            logits: output of the model, float32 `[n, classes]`.
            reference: output of the float network, of the same shape.
            labels: int64 `[n]`, or None for images without labels.
        """
        chosen = classes(logits)
        rank = np.array([]) if labels is None else _rank(logits, labels)
        return Hits(
            chosen.tolist(), int((rank < 1).sum()), int((rank < 5).sum()), int((chosen == classes(reference)).sum())
        )

    def add(self, other: Hits) -> None:
        """Add the hits of the images that follow."""
        for name, found in vars(other).items():
            setattr(self, name, getattr(self, name) + found)

    def percent(self, count: int) -> float:
        """Return a number of images in percent of all images."""
        return 100.0 * count / len(self.predictions)


def _rank(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each label by logit, from 0, int64 `[n]`; of equal logits the lower index ranks first."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower_index = np.arange(logits.shape[1]) < labels[:, None]
    rank: NDArray[np.int64] = ((logits > own) | ((logits == own) & lower_index)).sum(axis=1)
    return rank
