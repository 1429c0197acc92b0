"""Affine uint8 quantization of activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np


@dataclass(frozen=True)
class ActivationRange:
    """Scale and zero point of one activation tensor in uint8: `q = clip(round(x / scale) + zero_point, 0, 255)`.

    Attributes:
        low, high: the representable range, `low <= 0 <= high`.
        scale: `(high - low) / 255`, a float32 number.
        zero_point: the code of 0, an integer in 0..255.
    """

    low: float
    high: float
    scale: float
    zero_point: int

    @staticmethod
    def covering(low: float, high: float) -> ActivationRange:
        """Return the range that covers `[low, high]` and 0, shifted by less than a step so that 0 falls on a code.

        A tensor that is always zero gets scale 1 / 255.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            high = 1.0
        scale = max(np.float32((high - low) / 255.0), np.finfo(np.float32).tiny)  # a subnormal may be flushed to 0
        zero_point = int(np.clip(np.rint(-low / scale), 0, 255))
        return ActivationRange(float(-zero_point * scale), float((255 - zero_point) * scale), float(scale), zero_point)


LEVELS: Final = 255
"""The value of a white pixel in uint8."""

MAX_ELEMENTS: Final = 2**26
"""The most elements of an image, or of a node's output for one image, in a file that edgeq opens: 268 MB of float32."""
