"""How activations are stored in uint8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np


@dataclass(frozen=True)
class ActivationRange:
    """How one activation tensor is stored in uint8.

    Attributes:
        low, high: the range that is represented, `low <= 0 <= high`.
        scale: `(high - low) / 255`, a float32 number.
        zero_point: the code of 0.
    """

    low: float
    high: float
    scale: float
    zero_point: int

    @staticmethod
    def covering(low: float, high: float) -> ActivationRange:
        """The range that covers `[low, high]` and 0, moved by less than a step so that 0 falls on a level.

        A tensor that is always zero gets scale 1 / 255.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            high = 1.0
        scale = max(np.float32((high - low) / 255.0), np.finfo(np.float32).tiny)  # a subnormal one may divide as 0
        zero_point = int(np.clip(np.rint(-low / scale), 0, 255))
        return ActivationRange(float(-zero_point * scale), float((255 - zero_point) * scale), float(scale), zero_point)


LEVELS: Final = 255
"""Of a pixel above black."""

MAX_ELEMENTS: Final = 2**26
"""Of an image, or of what a node makes of one, in a file that edgeq opens: 268 MB of float32."""
