"""How tables, figures and messages speak of sensitivities and drops: in terms of the tasks of a network's outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class Words(NamedTuple):
    """What the numbers of a record are.

    Attributes:
        unit: of a sensitivity, short enough to head a column.
        divergence: what a sensitivity measures.
        points: what an estimated drop counts, in hundredths.
    """

    unit: str
    divergence: str
    points: str


_CLASSIFICATION: Final = Words("nats", "the KL divergence", "points")
_REGRESSION: Final = Words(
    "error", "half the outputs' squared error over their variance", "points of the outputs' variance"
)
_SEVERAL: Final = Words(
    "sum", "of class scores the KL divergence, of others half the squared error over the variance,",
    "points of top-1 and variance, averaged over the outputs",
)  # fmt: skip


def words(tasks: Iterable[str]) -> Words:
    """Return the words for a network whose outputs have these tasks, of `edgeq.tasks.TASKS`."""
    found = {*tasks}
    if found <= {"classification"}:
        return _CLASSIFICATION
    return _SEVERAL if "classification" in found else _REGRESSION
