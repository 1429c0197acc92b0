"""How alike one output of two models is, over all images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OutputScore:
    """How alike an output is to the reference's, over all values of all images.

    Attributes:
        sqnr_db: signal-to-quantization-noise ratio, 10 log10(sum ref^2 / sum (ref - model)^2), in dB; None if it is not
            finite (no noise at all, or a reference that is always zero).
        cosine: cosine of the angle between both, sum(ref * model) / sqrt(sum ref^2 * sum model^2); None where one of
            them is always zero. It does not see a wrong scale.
        other_shape: number of runs in which the output had another shape than the reference's, such as another number
            of boxes. If there are any, the other two are None.
    """

    sqnr_db: float | None
    cosine: float | None
    other_shape: int


@dataclass
class Similarity:
    """Running sums over one output: energies of the reference, of the model and of their difference, in float64."""

    signal: float = 0.0
    energy: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    runs: int = 0
    other_shape: int = 0

    @staticmethod
    def of(found: NDArray[Any], reference: NDArray[Any]) -> Similarity:
        """Return the sums over one run; none where the shapes differ."""
        if found.shape != reference.shape:
            return Similarity(runs=1, other_shape=1)
        expected = reference.astype(np.float64)
        return Similarity(
            signal=float(np.square(expected).sum()),
            energy=float(np.square(found, dtype=np.float64).sum()),
            product=float((expected * found).sum()),
            noise=float(np.square(expected - found).sum()),
            runs=1,
        )

    def add(self, other: Similarity) -> None:
        """Add the sums over the images that follow."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def score(self) -> OutputScore:
        """Return what follows from the sums over all images."""
        if self.other_shape:
            return OutputScore(None, None, self.other_shape)
        sqnr_db = 10.0 * math.log10(self.signal / self.noise) if self.signal and self.noise else None
        size = math.sqrt(self.signal) * math.sqrt(self.energy)
        return OutputScore(sqnr_db, max(-1.0, min(1.0, self.product / size)) if size else None, 0)
