"""How the scores of models are called and read from reports, whatever the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Measure(NamedTuple):
    """A score of a model.

    Attributes:
        key: its name in reports.
        label: what people call it.
        unit: behind a value, with a space before it; empty for none.
    """

    key: str
    label: str
    unit: str

    def of(self, scores: Mapping[str, Any]) -> float | None:
        """Return its value from the scores of a model in a report; None where it is not finite or was not measured."""
        found: float | None = scores[self.key] if self.key in _ALWAYS else scores["metrics"].get(self.key)
        return found


_KNOWN: Final = {
    one.key: one
    for one in (
        Measure("top1", "top-1", " %"), Measure("top5", "top-5", " %"), Measure("sqnr_db", "SQNR", " dB"),
        Measure("map", "mAP", " %"), Measure("map50", "mAP50", " %"), Measure("miou", "mIoU", " %"),
    )
}  # fmt: skip
_ALWAYS: Final = ("top1", "top5", "sqnr_db")  # fields of every score


def measure(key: str) -> Measure:
    """Return a score by its name in reports; that of a user's function has the function's name, without its module."""
    return _KNOWN.get(key, Measure(key, key.rpartition(":")[2], ""))
