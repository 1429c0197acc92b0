"""Regression: the output is numbers of any meaning and shape, such as boxes, maps, features or logits of many kinds.

Outputs are compared by their error relative to the output's own spread, channel by channel: boxes of 0..640 and scores
of 0..1 count alike. A change `d` of the output, in units of the spread, is a divergence of half the mean of `d^2`,
whose Hessian is the identity divided by the number of values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final, Literal

import torch
from torch import Tensor

_NOTHING: Final = 1e-5  # a spread that is this share of the largest magnitude is one of rounding
_MANY: Final = 16  # values of a channel that its spread is estimated from, at least


def channel_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of an output `shape`, without the batch, whose positions are channels of different meaning.

    Of a vector every number is a channel. Of rows and of maps the channels are first or last, whichever is fewer:
    classes are fewer than positions. Of more dimensions, such as `[anchors, rows, columns, channels]`, both are.
    """
    if len(shape) < 2:
        return tuple(range(len(shape)))
    last = len(shape) - 1
    if len(shape) > 3:
        return 0, last
    return (0,) if shape[0] <= shape[last] else (last,)


class Spread:
    """The standard deviation of every channel of an output, over all images and positions of a stream.

    Args:
        shape: of the output, without the batch.

    Attributes:
        channels: how many there are.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        axes = channel_axes(shape)
        self.shape = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
        self._over = [0, *(axis + 1 for axis in range(len(shape)) if axis not in axes)]
        self.channels = prod(self.shape)
        self._positions = prod(shape) // self.channels
        self.count = 0
        self._sums = torch.zeros(2, *self.shape, dtype=torch.float64)
        self._largest = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add a batch of outputs, float32 `[n, *shape]`."""
        values = x.detach().double().cpu()
        self._sums += torch.stack([v.sum(self._over, keepdim=True)[0] for v in (values, values.square())])
        self._largest = torch.maximum(self._largest, values.abs().amax())
        self.count += len(x)

    def merge(self, other: Spread) -> None:
        """Add what another stream has seen."""
        self._sums += other._sums
        self._largest = torch.maximum(self._largest, other._largest)
        self.count += other.count

    def units(self) -> list[float]:
        """Return the unit of the errors of every channel, positive, in the order of the channels.

        It is the channel's spread. A channel that does not vary is measured by the spread of all of them, and so are
        all channels if each has few values.
        """
        values = max(self.count * self._positions, 1)
        means, squares = self._sums / values
        spreads = (squares - means.square()).clamp(min=0).sqrt().flatten()
        centred = squares.mean() - means.mean().square()
        whole = float(centred.clamp(min=0).sqrt()) or 1.0
        enough = values >= _MANY
        return [s if enough and s > _NOTHING * float(self._largest) else whole for s in spreads.tolist()]

    def as_units(self, units: Sequence[float]) -> Tensor:
        """Return units in the shape in which an output is divided by them, float32."""
        return torch.tensor(list(units), dtype=torch.float32).reshape(self.shape)


class Regression:
    """The `edgeq.tasks.task.Task` of outputs that are no class scores.

    Args:
        unit: of the errors of each channel, see `Spread`; float32 that broadcasts to `[n, *shape]`.
    """

    def __init__(self, unit: Tensor) -> None:
        self.unit = unit

    def answers(self, value: Tensor) -> Tensor:
        """Return the output in units of its spread, float32 `[n, ...]`."""
        return value / self.unit.to(value)

    def shape(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output itself."""
        return value

    def divergence(self, found: Tensor, expected: Tensor, reduction: Literal["sum", "batchmean"]) -> Tensor:
        """Return half the mean squared error of an image's values, in units of the spread."""
        images: Tensor = (found - expected).square().flatten(1).mean(1) / 2
        return images.sum() if reduction == "sum" else images.mean()

    def random_direction(self, answers: Tensor, signs: Tensor) -> Tensor:
        """Return random signs, whose covariance is the identity, divided by the root of the number of values."""
        return signs.to(answers) / answers[0].numel() ** 0.5

    def random_directions(self, answers: Tensor, signs: Tensor, others: Tensor) -> Iterator[Tensor]:
        """Yield two independent directions: errors of all values count alike already."""
        yield self.random_direction(answers, signs)
        yield self.random_direction(answers, others)

    def trust(self, answers: Tensor) -> Tensor:
        """Return the answers: the float network is the measure."""
        return answers

    def loss(self, trust: Tensor, answers: Tensor) -> Tensor:
        """Return the share of an image's variation that is lost, 0..1: its mean squared error in units."""
        return (trust - answers).square().flatten(1).mean(1).clamp(max=1)
