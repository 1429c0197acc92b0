"""The operators that stay in float, in ONNX: one line each where ONNX has the same, else a few operators.

An operator is exported if and only if `edgeq.ir.ops.float_operators` computes it; a test compares both lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from edgeq.exporters.onnx.float_call import Translation
from edgeq.exporters.onnx.float_maps import MAPS
from edgeq.exporters.onnx.float_pointwise import POINTWISE
from edgeq.exporters.onnx.float_reductions import REDUCTIONS
from edgeq.exporters.onnx.recurrent import RECURRENT

TRANSLATIONS: Final[Mapping[str, Translation]] = MappingProxyType({**POINTWISE, **REDUCTIONS, **MAPS, **RECURRENT})
"""By the names of `edgeq.ir.ops.float_operators.OPERATORS`; all are of opset 20."""
