"""What every ATen call becomes in a graph: a node or two, another name of a value, part of a layer, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import fx

from edgeq.frontends.torch_export.activations import ACTIVATIONS
from edgeq.frontends.torch_export.arithmetic import ARITHMETIC
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import unknown
from edgeq.frontends.torch_export.layers import LAYERS
from edgeq.frontends.torch_export.pools import POOLS
from edgeq.frontends.torch_export.shapes import SHAPES
from edgeq.ir.ops.float_operators import OPERATORS
from edgeq.ir.ops.op import FromCall, Op
from edgeq.ir.ops.registry import OPS


def _in_float(builder: GraphBuilder, node: fx.Node, _: dict[str, Any]) -> None:
    builder.emit_float(node)


def _refused(_: GraphBuilder, node: fx.Node, __: dict[str, Any]) -> None:
    raise unknown(node)


def _as_entry(op: Op, attributes: FromCall, otherwise: Handler) -> Handler:
    """A handler of a call that becomes an op, unless its entry has no attributes for these arguments."""

    def handle(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
        constants = {k: builder.tensor(v, node)[1] for k, v in args.items() if k != "input" and isinstance(v, fx.Node)}
        attrs = attributes(args | constants)
        if attrs is None:
            otherwise(builder, node, args)
        elif op.has_module:
            builder.emit_layer(node, op.name, args, attrs)
        else:
            builder.emit(node, op.name, [args["input"]], attrs)

    return handle


def _with_entries(rules: Mapping[str, Handler]) -> dict[str, Handler]:
    """These rules, behind what the entries of the ops say of the same calls (`Op.aten`)."""
    handlers = dict(rules)
    for op in OPS.values():
        for call, attributes in op.aten.items():
            handlers[call] = _as_entry(op, attributes, handlers.get(call, _refused))
    return handlers


HANDLERS: Final = _with_entries({
    **{f"aten.{operator}": _in_float for operator in OPERATORS},
    **LAYERS, **ARITHMETIC, **ACTIVATIONS, **POOLS, **SHAPES,
})  # fmt: skip
"""What translates a call, by its name."""

CHANNELS_LAST: Final = frozenset({
    "aten.permute.default", "aten.linear.default", "aten.matmul.default", "aten.layer_norm.default",
    "aten.gelu.default", "aten.relu.default", "aten.silu.default", "aten.hardswish.default", "aten.add.Tensor",
    "aten.mul.Tensor", "aten.dropout.default", "aten.contiguous.default", "aten.clone.default",
})  # fmt: skip
"""What may read a map with its channels last: its handler asks for shapes by `GraphBuilder.shape` alone."""
