"""How far the values of a layer are from what its batch norm has seen in training."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from edgeq.ir.network import Moments

_DEAD: Final = 1e-2  # times the usual deviation of a layer's channels


def distance(found: Moments, trained: Moments) -> float:
    """How far the values of a layer are from those of its training.

    The mean over channels of `log(1 + KL)`, which no single channel can dominate; KL is the Kullback-Leibler divergence
    in nats of a normal distribution of the values found from one of the values in training. Channels that are nearly
    constant in training are left out.

    Args:
        found: mean and standard deviation of each channel, float `[channels]`.
        trained: those in training.
    """
    live = trained.std > _DEAD * trained.std.median()
    mean, std, usual_mean, usual_std = (part[live].double() for part in (*found, *trained))
    variance, usual = std.square().clamp_min(1e-12 * usual_std.square()), usual_std.square()
    divergence = 0.5 * ((variance + (mean - usual_mean).square()) / usual - 1 - (variance / usual).log())
    return float(divergence.log1p().mean()) if len(divergence) else 0.0


class Seen:
    """What one value has been over images, one at a time."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._scores: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        """Take the value of one image, `[1, channels, ...]`."""
        pixels = value[0].movedim(0, -1).reshape(-1, value.shape[1])
        mean = pixels.mean(0)
        variance = (pixels - mean).square().mean(0)  # a quarter of the time of `torch.var_mean`
        self._parts.append((mean.double().cpu(), variance.double().cpu()))
        if value.dim() == 2:
            self._scores.append(value[0].double().cpu())

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation of each channel over all images."""
        means, variances = (torch.stack(part) for part in zip(*self._parts, strict=True))
        spread = variances.mean(0) + means.var(0, correction=0)
        return Moments(means.mean(0), spread.sqrt())

    @property
    def scores(self) -> Tensor:
        """The values themselves, if they are flat: float64 `[images, channels]`."""
        return torch.stack(self._scores)
