"""The tasks of all outputs of a network together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from edgeq.tasks import Channels
from edgeq.tasks.classification import Classification
from edgeq.tasks.regression import Regression, as_divisor
from edgeq.tasks.task import Task

Answers = tuple[Tensor, ...]
"""The answers of every output, see `edgeq.tasks.task.Task.answers`."""


class Tasks:
    """The tasks of several outputs as one: divergences and losses are summed over outputs, directions are joined.

    The Hessian of a sum of divergences has a block for each output, so random directions of the outputs, drawn
    independently, are a random direction of all of them.

    Args:
        members: the task of each output.
    """

    def __init__(self, members: Sequence[Task]) -> None:
        self.members = tuple(members)

    def answers(self, values: Sequence[Tensor]) -> Answers:
        """Convert the outputs of a network to the form that the other methods take."""
        return tuple(task.answers(value) for task, value in zip(self.members, values, strict=True))

    def shapes(self, values: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the answers for outputs of these shapes, all without the batch dimension."""
        return tuple(task.shape(value) for task, value in zip(self.members, values, strict=True))

    def divergence(self, found: Answers, expected: Answers, reduction: Literal["sum", "batchmean"]) -> Tensor:
        """Return the divergence of answers from those of the float network: its sum, or its mean over images."""
        pairs = zip(self.members, found, expected, strict=True)
        return torch.stack([task.divergence(one, other, reduction) for task, one, other in pairs]).sum()

    def random_direction(self, answers: Answers, signs: Answers) -> Answers:
        """Return a random direction of each output, see `Task.random_direction`."""
        return tuple(task.random_direction(*pair) for task, *pair in zip(self.members, answers, signs, strict=True))

    def random_directions(self, answers: Answers, signs: Answers, others: Answers) -> Iterator[Answers]:
        """Yield two directions of each output, see `Task.random_directions`."""
        each = zip(self.members, answers, signs, others, strict=True)
        yield from zip(*(task.random_directions(*given) for task, *given in each), strict=True)

    def trust(self, answers: Answers) -> Answers:
        """Return how far the float network trusts every possible answer, for `loss`."""
        return tuple(task.trust(one) for task, one in zip(self.members, answers, strict=True))

    def loss(self, trust: Answers, answers: Answers) -> Tensor:
        """Return the expected loss of accuracy, 0..1, of every answer; of several outputs the mean, image by image."""
        each = [task.loss(*pair) for task, *pair in zip(self.members, trust, answers, strict=True)]
        if len(each) == 1:
            return each[0]
        images = len(answers[0])
        return torch.stack([found.reshape(images, -1).mean(1) for found in each]).mean(0)


def tasks_of(outputs: Sequence[tuple[str, tuple[int, ...], int, Channels]]) -> Tasks:
    """Make the tasks of a network's outputs.

    Args:
        outputs: for each output its task, one of `edgeq.tasks.TASKS`, the shape of its value without the batch, the
            axis of its classes, and its channels, which are needed for regression alone.

    Raises:
        ArtifactError: the channels are not those of such an output.
    """
    return Tasks([_task(*output) for output in outputs])


def _task(name: str, shape: tuple[int, ...], classes: int, channels: Channels) -> Task:
    return Classification(classes) if name == "classification" else Regression(as_divisor(shape, *channels))
