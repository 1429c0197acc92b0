"""Statistics of the outputs of a network over the calibration images."""

from __future__ import annotations

from torch import Tensor

from edgeq.calibration.observers import extremes
from edgeq.tasks.regression import Spread


class OutputStatistics:
    """The extremes of one output, or of the logits behind it, and the spread of its channels.

    Args:
        shape: of the values, without the batch.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.spread = Spread(shape)

    def add(self, x: Tensor) -> None:
        """Add a batch, float32 `[n, *shape]`."""
        low, high = extremes(x)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.spread.add(x)

    def merge(self, other: OutputStatistics) -> None:
        """Add what another stream has seen."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.spread.merge(other.spread)
