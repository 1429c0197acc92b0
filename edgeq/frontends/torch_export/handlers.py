"""What every ATen call becomes in a graph: a node or two, another name of a value, part of a layer, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import fx

from edgeq.frontends.torch_export.activations import ACTIVATIONS
from edgeq.frontends.torch_export.arithmetic import ARITHMETIC
from edgeq.frontends.torch_export.arrange import Placed, broadcast, image_dim, plain
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import is_elementwise, target_name, unknown, unsupported
from edgeq.frontends.torch_export.einsum import einsum
from edgeq.frontends.torch_export.float_calls import FLOAT_CALLS, OF_ANY_LAYOUT
from edgeq.frontends.torch_export.gathers import GATHERS
from edgeq.frontends.torch_export.joins import JOINS
from edgeq.frontends.torch_export.layers import ANY_LAYOUT as LAYERS_OF_ANY_LAYOUT
from edgeq.frontends.torch_export.layers import LAYERS
from edgeq.frontends.torch_export.layouts import Layout
from edgeq.frontends.torch_export.pools import POOLS, REDUCTIONS
from edgeq.frontends.torch_export.shapes import SHAPES, SHUFFLES, viewed
from edgeq.frontends.torch_export.transposed import TRANSPOSED
from edgeq.frontends.torch_export.windows import WINDOWS
from edgeq.ir.ops.float_operators import OPERATORS
from edgeq.ir.ops.op import FromCall, Op
from edgeq.ir.ops.registry import OPS

_MOVED: Final = "moves the batch or merges it with other dimensions; expected it first and alone, as"
_OVER_A_DIMENSION: Final = ("aten.softmax.int", "aten.log_softmax.int")

ANY_LAYOUT: Final = frozenset({
    *_OVER_A_DIMENSION, "aten.einsum.default", *LAYERS_OF_ANY_LAYOUT, *REDUCTIONS, *SHAPES, *GATHERS, *JOINS,
    *OF_ANY_LAYOUT,
})  # fmt: skip
"""Calls that take values however they lie."""


def _in_float(builder: GraphBuilder, node: fx.Node, _: dict[str, Any]) -> None:
    builder.emit_float(node)


def _over_a_dimension(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    dim = image_dim(builder, args["input"], node, args["dim"])
    builder.layouts[node] = builder.layouts[args["input"]].resized(builder.sizes(node).sizes)
    builder.emit_float(node, {"dim": dim, "dtype": None})


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
    **dict.fromkeys(_OVER_A_DIMENSION, _over_a_dimension),
    "aten.einsum.default": einsum,
    **LAYERS, **TRANSPOSED, **ARITHMETIC, **ACTIVATIONS, **WINDOWS, **POOLS, **SHAPES, **SHUFFLES, **GATHERS, **JOINS,
    **FLOAT_CALLS, **OF_ANY_LAYOUT,
})  # fmt: skip
"""What translates a call, by its name."""


def translated(builder: GraphBuilder, node: fx.Node, handler: Handler, args: dict[str, Any]) -> None:
    """Translate a call: with its values aligned if it is elementwise, else as the program has them.

    Handlers in `ANY_LAYOUT` take values as they are, and say themselves how the result lies.
    """
    computed = [source for source in node.all_input_nodes if source in builder.alias]
    if is_elementwise(node):
        seen = broadcast(builder, node, computed)
        if len(node.all_input_nodes) == 1:
            _before_a_view(builder, node, handler, args, seen)
            return
    elif target_name(node) in ANY_LAYOUT:
        seen = {}
    else:
        if not _leads(builder, node):
            raise unsupported(node, f"{_moving(builder, node).target} {_MOVED} {node.target} needs it")
        seen = {source: plain(builder, source, node) for source in computed}
        builder.layouts[node] = Layout.plain(builder.sizes(node).sizes[1:])
    with builder.seen(seen):
        handler(builder, node, args)


def _leads(builder: GraphBuilder, node: fx.Node) -> bool:
    """Whether a value has the batch first and alone."""
    sizes, axis = builder.sizes(node)
    return axis == 0 and sizes[0] == 1


def _moving(builder: GraphBuilder, node: fx.Node) -> fx.Node:
    """The call by which the batch is no longer first and alone in what another one reads."""
    for source in node.all_input_nodes:
        if source in builder.alias and not _leads(builder, source):
            return _moving(builder, source)
    return node


def _before_a_view(
    builder: GraphBuilder, node: fx.Node, handler: Handler, args: dict[str, Any], seen: Mapping[fx.Node, Placed]
) -> None:
    """Translate an elementwise call of one value: where a map is seen as rows, on the map, and seen as rows then.

    So an activation stays next to the convolution that a linear layer is.
    """
    ((source, (name, layout)),) = seen.items()
    wanted = builder.layouts[node]
    view = builder.nodes.get(name)
    if view is not None and view.op == "reshape":
        whole = builder.shape_of(view.inputs[0])
        if len(whole) == 3 and whole[0] == view.shape[0]:
            name, layout = view.inputs[0], Layout.plain(whole)
    if layout.shape != wanted.shape:
        builder.layouts[node] = layout
    with builder.seen({source: (name, layout)}):
        handler(builder, node, args)
    if layout.shape != wanted.shape:
        builder.layouts[node] = wanted
        viewed(builder, node, builder.alias[node], wanted.shape)
