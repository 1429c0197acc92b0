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

from edgeq.errors import ArtifactError

_NOTHING: Final = 1e-5  # a spread that is this share of the largest magnitude is one of rounding
_MANY: Final = 16  # values of a channel that its spread is estimated from, at least


class Spread:
    """The standard deviation of every channel of an output, over all images and positions of a stream.

    Channels are the numbers of a vector, the first or the last dimension of rows and maps, and both of them where there
    are more, as in `[anchors, rows, columns, channels]`.

    Args:
        shape: of the output, without the batch.
        axes: of the channels; None to find out.
    """

    def __init__(self, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> None:
        self._shape, self._axes = shape, axes
        ends = {0, len(shape) - 1} if axes is None else {*axes}
        self._kept = tuple(size if axis in ends else 1 for axis, size in enumerate(shape))
        self._over = [0, *(axis + 1 for axis, size in enumerate(shape) if axis not in ends)]
        self.count = 0
        self._sums = torch.zeros(2, *self._kept, dtype=torch.float64)  # of the means over positions, and of squares
        self._largest = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add a batch of outputs, float32 `[n, *shape]`."""
        for i in range(len(x)):  # one at a time, in double precision
            values = x[i : i + 1].detach().double().cpu()
            self._sums += torch.stack([v.mean(self._over, keepdim=True)[0] for v in (values, values.square())])
            self._largest = torch.maximum(self._largest, values.abs().amax())
        self.count += len(x)

    def merge(self, other: Spread) -> None:
        """Add what another stream has seen."""
        self._sums += other._sums
        self._largest = torch.maximum(self._largest, other._largest)
        self.count += other.count

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the channels: of two choices the one that groups values of like spread.

        That is the one by which independent normal values, a variance for each channel, are more likely.
        """
        if self._axes is not None or len(self._shape) < 2:
            return tuple(range(len(self._shape))) if self._axes is None else self._axes
        first, last = (0,), (len(self._shape) - 1,)
        if len(self._shape) > 3:
            return first + last
        return min((first, last), key=lambda axes: float(self._deviations(axes).clamp(min=1e-30).log().mean()))

    def deviations(self) -> list[float]:
        """Return the standard deviation of every channel, in their order; 0 for one that does not vary."""
        return self._deviations(self.axes).tolist()

    def units(self) -> list[float]:
        """Return the unit of the errors of every channel, positive, in the order of the channels.

        It is the channel's spread. A channel that does not vary is measured by the spread of all of them, and so are
        all channels if each has few values.
        """
        found, whole = self._deviations(self.axes), float(self._deviations(())) or 1.0
        enough = self.count * prod(self._shape) >= _MANY * len(found)
        return [unit or whole for unit in found.tolist()] if enough else [whole] * len(found)

    def _deviations(self, axes: tuple[int, ...]) -> Tensor:
        over = [axis for axis in range(len(self._shape)) if axis not in axes]
        means, squares = (part.mean(over, keepdim=True) if over else part for part in self._sums / max(self.count, 1))
        found = (squares - means.square()).clamp(min=0).sqrt()
        return torch.where(found > _NOTHING * self._largest, found, 0.0).flatten()


def as_divisor(shape: tuple[int, ...], axes: Sequence[int], units: Sequence[float]) -> Tensor:
    """Return units in the shape in which an output `shape` is divided by them, float32.

    Raises:
        ArtifactError: they are not as many as the channels along these axes, or not all positive.
    """
    sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    if len(units) != prod(sizes) or not all(0 < unit < float("inf") for unit in units):
        raise ArtifactError(
            f"expected {prod(sizes)} positive units for an output {list(shape)}, found {len(units)}; calibrate this "
            "network again"
        )
    return torch.tensor(list(units), dtype=torch.float32).reshape(sizes)


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
        images: Tensor = (found - expected).square().reshape(len(found), -1).mean(1) / 2
        return images.sum() if reduction == "sum" else images.mean()

    def random_direction(self, answers: Tensor, signs: Tensor) -> Tensor:
        """Return random signs, whose covariance is the identity, divided by the root of the number of values."""
        v: Tensor = signs.to(answers) / answers[0].numel() ** 0.5
        return v

    def random_directions(self, answers: Tensor, signs: Tensor, others: Tensor) -> Iterator[Tensor]:
        """Yield two independent directions: errors of all values count alike already."""
        yield self.random_direction(answers, signs)
        yield self.random_direction(answers, others)

    def trust(self, answers: Tensor) -> Tensor:
        """Return the answers: the float network is the measure."""
        return answers

    def loss(self, trust: Tensor, answers: Tensor) -> Tensor:
        """Return the share of an image's variation that is lost, 0..1: its mean squared error in units."""
        lost: Tensor = (trust - answers).square().reshape(len(answers), -1).mean(1).clamp(max=1)
        return lost
