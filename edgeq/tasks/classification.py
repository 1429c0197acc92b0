"""Classification: an output is the logits of classes, `[n, classes, ...]`, at every position of a map if there is one.

Answers diverge by the KL divergence of class probabilities. Where logits change by `d`, probabilities `p` diverge by
`d' F d / 2`, up to higher orders, with `F = diag(p) - p p'` their Fisher information.
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

_ALIKE: Final = 0.1  # trace of what is added to the Fisher information, whose own is at most 1


class Classification:
    """The `edgeq.tasks.task.Task` of classifiers."""

    def answers(self, value: Tensor) -> Tensor:
        """Logits of at least two classes.

        A single one is against 0, so that the probabilities of both classes are its sigmoid, and 1 less it.
        """
        return torch.cat([value, torch.zeros_like(value)], 1) if value.shape[1] == 1 else value

    def shape(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """At least two classes, and the positions."""
        classes, *positions = value
        return (max(classes, 2), *positions)

    def divergence(self, found: Tensor, expected: Tensor, reduction: Literal["sum", "batchmean"]) -> Tensor:
        """KL divergence of the class probabilities, in nats."""
        return F.kl_div(found.log_softmax(1), expected.log_softmax(1), log_target=True, reduction=reduction)

    def random_direction(self, answers: Tensor, signs: Tensor) -> Tensor:
        """`v`, whose covariance is the Fisher information `F`.

        Random signs times a root of `F` spread far less than the usual `v`, a class drawn from `p` less `p`, where the
        network is sure of its answer: they are Hutchinson's estimator, doi:10.1080/03610919008812866.
        """
        p = answers.softmax(1)
        v = p.sqrt() * signs
        return v - p * v.sum(1, keepdim=True)

    def random_directions(self, answers: Tensor, signs: Tensor, others: Tensor) -> Iterator[Tensor]:
        """Two `v`, with signs that agree and differ in turn down the classes by probability.

        Where two classes share all of it, the mean over both is exact. Where the network is sure of its answer, the
        divergence hardly sees an error; it is not to be ignored altogether, so a little is added to the Fisher
        information that counts errors of all logits alike.
        """
        ranks = answers.argsort(dim=1, descending=True).argsort(dim=1)
        for differ in (torch.ones_like(answers), 1 - 2 * (ranks % 2)):
            v = self.random_direction(answers, signs * differ)
            yield v + (_ALIKE / answers.shape[1]) ** 0.5 * others * differ

    def trust(self, answers: Tensor) -> Tensor:
        """The class probabilities."""
        return answers.softmax(1)

    def loss(self, trust: Tensor, answers: Tensor) -> Tensor:
        """`p(its answer) - p(answer of the logits)`; without labels, an answer counts as much as it is trusted."""
        return (trust.amax(1) - trust.gather(1, answers.argmax(1, keepdim=True))[:, 0]).reshape(-1)


def classes(outputs: NDArray[np.float32]) -> NDArray[Any]:
    """The class of every image, or of every position; of outputs that are one number an image, these as they are."""
    return outputs.argmax(1) if outputs.ndim > 1 else outputs


@dataclass
class Hits:
    """How often a model was right on some images.

    Attributes:
        predictions: the top-1 class of every image, in order; the first one where several logits are equal.
        top1: images of which it is the label.
        top5: images whose label is among the five largest logits.
        agreed: images with the same top-1 class as the reference.
    """

    predictions: list[int] = field(default_factory=list)
    top1: int = 0
    top5: int = 0
    agreed: int = 0

    @staticmethod
    def of(logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64] | None) -> Hits:
        """Of one batch.

        Args:
            logits: of the model, `[n, classes]`.
            reference: of the float network, the same.
            labels: `[n]`, or None where nobody knows them.
        """
        chosen = classes(logits)
        rank = np.array([]) if labels is None else _rank(logits, labels)
        return Hits(
            chosen.tolist(), int((rank < 1).sum()), int((rank < 5).sum()), int((chosen == classes(reference)).sum())
        )

    def add(self, other: Hits) -> None:
        """Take in what comes next."""
        for name, found in vars(other).items():
            setattr(self, name, getattr(self, name) + found)

    def percent(self, count: int) -> float:
        """A number of images as a share of all."""
        return 100.0 * count / len(self.predictions)


def _rank(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the label's, int64 `[n]`; of equal logits the lower index comes first (argmax)."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower_index = np.arange(logits.shape[1]) < labels[:, None]
    rank: NDArray[np.int64] = ((logits > own) | ((logits == own) & lower_index)).sum(axis=1)
    return rank
