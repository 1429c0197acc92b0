"""All ops by name: one entry an op, in the file of its family."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import Final

from edgeq.ir.ops.activations import ACTIVATIONS
from edgeq.ir.ops.arithmetic import ARITHMETIC
from edgeq.ir.ops.blocks import BLOCKS
from edgeq.ir.ops.codes import CODES
from edgeq.ir.ops.float_operators import FLOAT
from edgeq.ir.ops.layers import LAYERS
from edgeq.ir.ops.op import Op
from edgeq.ir.ops.pooling import POOLING
from edgeq.ir.ops.quantize import QUANTIZE
from edgeq.ir.ops.shape import SHAPE

ENTRIES: Final = tuple(chain(LAYERS, ACTIVATIONS, ARITHMETIC, POOLING, SHAPE, BLOCKS, QUANTIZE, CODES, FLOAT))
OPS: Final[Mapping[str, Op]] = MappingProxyType({op.name: op for op in ENTRIES})
