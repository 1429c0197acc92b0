"""The interface of a task: how far apart two outputs are, which errors of an output matter, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from torch import Tensor


class Task(Protocol):
    """What the output of a network means.

    The argument `answers` of the other methods is what the method `answers` returns, float32 `[n, ...]`.
    """

    def answers(self, value: Tensor) -> Tensor:
        """Convert the output of a network to the form that the other methods take."""

    def shape(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the answers for an output of this shape, both without the batch dimension."""

    def divergence(self, found: Tensor, expected: Tensor, reduction: Literal["sum", "batchmean"]) -> Tensor:
        """Return the divergence of answers from those of the float network: its sum, or its mean over images."""

    def random_direction(self, answers: Tensor, signs: Tensor) -> Tensor:
        """Return a random direction `v` of the shape of answers, whose covariance is the Hessian of the divergence.

        Args:
            answers: those of the float network.
            signs: random 1 and -1 of the same shape.
        """

    def random_directions(self, answers: Tensor, signs: Tensor, others: Tensor) -> Iterator[Tensor]:
        """Yield two directions, whose mean estimate varies less than that of one `random_direction`.

        They include a small part that weighs errors of all answers alike.

        Args:
            answers: those of the float network.
            signs: random 1 and -1 of the same shape.
            others: independent random signs of the same shape, for the small part.
        """

    def trust(self, answers: Tensor) -> Tensor:
        """Return how far the float network trusts every possible answer, for `loss`."""

    def loss(self, trust: Tensor, answers: Tensor) -> Tensor:
        """Return the expected loss of accuracy, 0..1, of each answer against that of the float network."""
