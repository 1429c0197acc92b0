"""What stages ask of a task: how far two outputs are apart, in which directions that counts, what an error costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from torch import Tensor


class Task(Protocol):
    """What an output means.

    `answers` are `[n, ...]` float32, what `answers` makes of the value that a network ends with; one of them is an
    entry of `answers[0]`.
    """

    def answers(self, value: Tensor) -> Tensor:
        """Bring the value that a network ends with into the form that the other methods take."""

    def shape(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the answers for one image, where the value has this one, both without the batch dimension."""

    def divergence(self, found: Tensor, expected: Tensor, reduction: Literal["sum", "batchmean"]) -> Tensor:
        """How far answers are from those of the float network; its sum, or its mean over images."""

    def random_direction(self, answers: Tensor, signs: Tensor) -> Tensor:
        """A direction `v` in the space of answers whose covariance is the curvature of the divergence there.

        Args:
            answers: of the float network.
            signs: random 1 and -1 of the same shape.
        """

    def random_directions(self, answers: Tensor, signs: Tensor, others: Tensor) -> Iterator[Tensor]:
        """Two directions whose mean has less variance than one, and a part that counts errors of all answers alike.

        Args:
            answers: of the float network.
            signs: random 1 and -1 of the same shape.
            others: more of them, for that part.
        """

    def trust(self, answers: Tensor) -> Tensor:
        """What the float network thinks of every possible answer, for `loss`."""

    def loss(self, trust: Tensor, answers: Tensor) -> Tensor:
        """What answers lose against those of the float network, in expected accuracy, 0..1; one number an answer."""
