"""What every ATen operator becomes in a graph: a node or two, another name of a value, part of a layer, or an error."""

from __future__ import annotations

from typing import Any, Final

from torch import fx

from edgeq.frontends.torch_export.activations import ACTIVATIONS
from edgeq.frontends.torch_export.arithmetic import ARITHMETIC
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.layers import LAYERS
from edgeq.frontends.torch_export.pools import POOLS
from edgeq.frontends.torch_export.shapes import SHAPES
from edgeq.ir.ops.float_operators import OPERATORS


def _in_float(builder: GraphBuilder, node: fx.Node, _: dict[str, Any]) -> None:
    builder.emit_float(node)


HANDLERS: Final[dict[str, Handler]] = {
    **{f"aten.{operator}": _in_float for operator in OPERATORS},
    **LAYERS, **ARITHMETIC, **ACTIVATIONS, **POOLS, **SHAPES,
}  # fmt: skip

CHANNELS_LAST: Final = frozenset({
    "aten.permute.default", "aten.linear.default", "aten.matmul.default", "aten.layer_norm.default",
    "aten.gelu.default", "aten.relu.default", "aten.silu.default", "aten.hardswish.default", "aten.add.Tensor",
    "aten.mul.Tensor", "aten.dropout.default", "aten.contiguous.default", "aten.clone.default",
})  # fmt: skip
"""What may read a map with its channels last: its handler asks for shapes by `GraphBuilder.shape` alone."""
