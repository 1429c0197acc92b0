"""Budgets of a quantized network: bytes of the file, BitOps of an inference, or points of what the task counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Final, Literal, cast

import numpy as np

from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import UnsupportedError

Kind = Literal["size", "bitops", "drop"]

_UNITS: Final[dict[Kind, dict[str, int]]] = {
    "size": {"B": 1, "kB": 10**3, "MB": 10**6, "KiB": 2**10, "MiB": 2**20},
    "bitops": {"M": 10**6, "G": 10**9},
    "drop": {"": 1},
}
_FORM: Final = re.compile(r"([a-z]+)=([0-9]*\.?[0-9]+)([A-Za-z]*)")


@dataclass(frozen=True)
class Budget:
    """An upper limit of what a network may cost.

    Attributes:
        text: the budget as the user wrote it.
        kind: `size` of the file, `bitops` of one inference, or `drop` against the float network: of class scores in
            points of top-1, of other outputs in points of their variance (`edgeq.tasks.regression.Regression.loss`).
        limit: the limit in bytes, BitOps or points; positive.
    """

    text: str
    kind: Kind
    limit: float

    @staticmethod
    def parse(text: str) -> Budget:
        """Read `size=1.3MB` (B, kB, MB, KiB, MiB), `bitops=6G` (M, G) or `drop=1.0` (points).

        Raises:
            UnsupportedError: another form, or a number that is not positive and finite.
        """
        match = _FORM.fullmatch(text)
        kind, number, unit = match.groups() if match else ("", "", "")
        factor = _UNITS.get(cast(Kind, kind), {}).get(unit)
        limit = float(Decimal(number) * factor) if factor else 0.0
        if not (isfinite(limit) and limit > 0):
            raise UnsupportedError(
                f"budget {text!r}: expected size=1.3MB (or B, kB, KiB, MiB), bitops=6G (or M), or drop=1.0 (points), "
                "with a positive number"
            )
        return Budget(text, cast(Kind, kind), limit)


def estimated_drop(record: CalibrationRecord, divergence: float) -> float:
    """Return the points that a divergence costs, by linear interpolation; constant beyond the last point."""
    sensitivities, drops = zip(*record.drops, strict=True)
    return float(np.interp(divergence, sensitivities, drops))


def allowed_divergence(record: CalibrationRecord, drop: float) -> float:
    """Inverse of `estimated_drop`: the divergence that costs so many points."""
    sensitivities, drops = zip(*record.drops, strict=True)
    return float(np.interp(drop, drops, sensitivities))
