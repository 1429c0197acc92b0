"""Ops of two values, one of which may be repeated along some dimensions to the size of the other."""

from __future__ import annotations

from typing import Final

from edgeq.ir.ops.op import Op

ARITHMETIC: Final = (
    Op("add", lambda x, _: x[0] + x[1], onnx="Add", in_islands=True),
    Op("mul", lambda x, _: x[0] * x[1], onnx="Mul", in_islands=True),
)
