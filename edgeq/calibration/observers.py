"""Observers: choose the range of an activation from a histogram of its values, in constant memory."""

from __future__ import annotations

from math import frexp, isfinite
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.artifacts.record import Bins
from edgeq.errors import UnsupportedError
from edgeq.numerics.activations import ActivationRange

Observer = Literal["minmax", "percentile", "mse"]
OBSERVERS: Final = get_args(Observer)

_BINS: Final = 8192
_COARSE_BINS: Final = 64
_MIN_EXPONENT: Final = -100  # exponent of an all-zero tensor; its bins are still normal float32 numbers
_SAMPLES: Final = 16384  # values of a tensor that enter the histogram, for each image
_PERCENTILE: Final = 99.99
_GRID: Final = 33  # candidates for each end of a range


def extremes(x: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest value of a batch `[n, ...]`; both are NaN if any value is."""
    low, high = torch.aminmax(_in_memory_order(x))
    return float(low), float(high)


def _in_memory_order(x: Tensor) -> Tensor:
    """Reshape to `[n, values]` in memory order, without a copy: the order of the values does not matter here."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(len(x), -1)


class Histogram:
    """The exact minimum and maximum of a stream of values, and a histogram of a sample of them.

    The bins divide `[-2^k, 2^k)`. When a value falls outside, `k` grows and pairs of bins merge. So the histograms of
    parts of a stream add up exactly, in any order.
    """

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")
        self.exponent: int | None = None
        self.counts: NDArray[np.int64] = np.zeros(_BINS, np.int64)

    def add(self, x: Tensor, ends: tuple[float, float] | None = None) -> tuple[float, float]:
        """Add a batch `[n, ...]`. Of large tensors, only a regular sample of the values is counted.

        Args:
            x: the batch.
            ends: its exact extremes, where they are known.

        Returns:
            The exact extremes of the batch. A batch with NaN or infinite values is not added.
        """
        flat = _in_memory_order(x)
        low, high = ends or extremes(flat)
        if not (isfinite(low) and isfinite(high)):
            return low, high
        self.low, self.high = min(self.low, low), max(self.high, high)
        reach = max(abs(low), abs(high))
        self._widen(max(frexp(reach)[1], _MIN_EXPONENT) if reach else _MIN_EXPONENT)  # frexp gives 0 for zero
        step = flat.shape[1] // _SAMPLES | 1  # odd, so that samples do not fall into the same columns of all rows
        # Scaling by a power of two is exact, so the bin of a value does not depend on other values.
        scaled = flat[:, ::step].float().cpu() * (2.0 ** -(self.exponent or 0) * (_BINS // 2))
        bins = scaled.floor_().to(torch.int64).flatten().add_(_BINS // 2)
        self.counts += torch.bincount(bins, minlength=_BINS).numpy()
        return low, high

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            merged = np.zeros(_BINS, np.int64)
            merged[_BINS // 4 : 3 * _BINS // 4] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts, self.exponent = merged, self.exponent + 1

    def merge(self, other: Histogram) -> None:
        """Add the values of another histogram."""
        if other.exponent is None:
            return
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._widen(other.exponent)
        other._widen(self.exponent or 0)
        self.counts = self.counts + other.counts

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return centres and counts of the bins that are not empty, float64 and int64 `[bins]`."""
        reach = 2.0 ** (self.exponent or 0)
        centres = (np.arange(_BINS) + 0.5) * (2 * reach / _BINS) - reach
        filled = self.counts > 0
        return np.clip(centres[filled], self.low, self.high), self.counts[filled]

    def coarse(self) -> Bins:
        """Return at most 64 bins, those at the ends not empty: neighbours put together, in powers of two."""
        if not self.counts.any():
            return Bins(0.0, 1.0, ())
        (filled,), merged = self.counts.nonzero(), 1
        while filled[-1] // merged - filled[0] // merged >= _COARSE_BINS:
            merged *= 2
        first, last = filled[0] // merged, filled[-1] // merged
        counts = self.counts.reshape(-1, merged).sum(axis=1)[first : last + 1]
        width = merged * 2.0 ** ((self.exponent or 0) + 1) / _BINS
        return Bins(float((first - _BINS // 2 // merged) * width), width, tuple(counts.tolist()))


def choose_range(histogram: Histogram, observer: Observer) -> ActivationRange:
    """Choose the range of an activation.

    Args:
        histogram: of its values.
        observer: `minmax` covers all values, `percentile` all but the rarest; `mse` has the least squared error of
            clipping and rounding together.

    Raises:
        UnsupportedError: an unknown observer.
    """
    if observer == "minmax":
        return ActivationRange.covering(histogram.low, histogram.high)
    if observer == "percentile":
        return ActivationRange.covering(*_percentiles(histogram))
    if observer == "mse":
        return _least_squares(histogram)
    raise UnsupportedError(f"unknown observer {observer!r}; expected one of {', '.join(OBSERVERS)}")


def _percentiles(histogram: Histogram) -> tuple[float, float]:
    centres, counts = histogram.bins()
    share = np.cumsum(counts) / counts.sum()
    tail = 1 - _PERCENTILE / 100
    low = histogram.low if histogram.low >= 0 else float(centres[np.searchsorted(share, tail)])
    return low, float(centres[min(int(np.searchsorted(share, 1 - tail)), len(centres) - 1)])


def _least_squares(histogram: Histogram) -> ActivationRange:
    """Search over both ends of the range, from the extremes to a quarter of them."""
    centres, counts = histogram.bins()
    shrinks = np.linspace(1.0, 0.25, _GRID)
    lows = [0.0] if histogram.low >= 0 else histogram.low * shrinks
    highs = [0.0] if histogram.high <= 0 else histogram.high * shrinks
    best = ActivationRange.covering(histogram.low, histogram.high)
    least = _squared_error(best, centres, counts)
    for low in lows:
        for high in highs:
            candidate = ActivationRange.covering(float(low), float(high))
            error = _squared_error(candidate, centres, counts)
            if error < least:
                best, least = candidate, error
    return best


def _squared_error(chosen: ActivationRange, centres: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    codes = np.clip(np.rint(centres / chosen.scale) + chosen.zero_point, 0, 255)
    residual = centres - (codes - chosen.zero_point) * chosen.scale
    return float(residual @ (residual * counts))
