"""How much work an export takes to keep the accuracy.

What each effort makes of MobileNetV2, and in how many minutes, is in the README (`benchmarks/accuracy.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Effort:
    """What is spent on rounding and on tuning.

    Attributes:
        views: of every calibration image that the layers are rounded on: the image itself, and random crops of it.
        rows: patches sampled for a layer, over all views, for each weight of an output.
        steps: of training scales and biases, see `edgeq.tune`.
    """

    views: int
    rows: int
    steps: int


EFFORTS: Final = {"fast": Effort(1, 100, 0), "balanced": Effort(3, 300, 200), "best": Effort(5, 300, 400)}
