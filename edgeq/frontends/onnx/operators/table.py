"""What computes an ONNX operator, by its name."""

from __future__ import annotations

from typing import Final

from edgeq.frontends.onnx.call import Handler
from edgeq.frontends.onnx.operators.layers import LAYERS
from edgeq.frontends.onnx.operators.pointwise import POINTWISE
from edgeq.frontends.onnx.operators.recurrent import RECURRENT
from edgeq.frontends.onnx.operators.reductions import REDUCTIONS
from edgeq.frontends.onnx.operators.resize import RESIZES
from edgeq.frontends.onnx.operators.shapes import SHAPES
from edgeq.frontends.onnx.operators.windows import POOLS

OPERATORS: Final[dict[str, Handler]] = {
    **LAYERS, **POOLS, **POINTWISE, **SHAPES, **REDUCTIONS, **RESIZES, **RECURRENT,
}  # fmt: skip
