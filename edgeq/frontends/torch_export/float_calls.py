"""ATen operators in float that take dimensions, make several results, or have the batch in another place."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import fx

from edgeq.frontends.torch_export.arrange import in_order
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import target_name, unsupported, written
from edgeq.frontends.torch_export.layouts import Layout
from edgeq.frontends.torch_export.shapes import vanishing
from edgeq.ir.ops.float_operators import FloatOperator


def _along(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Along one dimension of each image."""
    _check_dim(node, args)
    if any(source in builder.constants for source in node.all_input_nodes):
        raise unsupported(node, f"{node.target} with a constant; expected values and positions that are computed")
    builder.emit_float(node, {"dtype": None})


def _results(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """One node for every result that something reads."""
    _check_dim(node, args)
    for piece in (user for user in node.users if user.users):
        builder.layouts[piece] = Layout.plain(builder.sizes(piece).sizes[1:])
        builder.emit_float(piece)


def _check_dim(node: fx.Node, args: dict[str, Any]) -> None:
    if args["dim"] % args["input"].meta["val"].dim() == 0:
        raise unsupported(node, f"{node.target} over the batch; expected a dimension of one image")


def _recurrent(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """An LSTM or a GRU over sequences, whose first states are the same for all images."""
    first = args["hx"] if isinstance(args["hx"], list | tuple) else [args["hx"]]
    if any(state not in builder.constants for state in first):
        raise unsupported(node, f"{node.target} whose first state is computed from the image; expected a constant")
    states = [builder.tensor(state, node)[1].transpose(0, 1).contiguous() for state in first]
    named = {"hx": states[0]} if len(states) == 1 else {f"hx_{i}": state for i, state in enumerate(states)}
    tensors = named | {f"params_{i}": builder.tensor(value, node)[1] for i, value in enumerate(args["params"])}
    kept = ("has_biases", "num_layers", "dropout", "train", "bidirectional")
    arguments = {key: args[key] for key in kept} | {"batch_first": True, "train": False}
    if len(args["params"]) != args["num_layers"] * (1 + args["bidirectional"]) * (4 if args["has_biases"] else 2):
        raise unsupported(node, f"{node.target} whose states are projected; expected proj_size=0")
    (name, _) = in_order(builder, args["input"], node)
    for piece in (user for user in node.users if user.users):
        (sizes, axis), result = builder.sizes(piece), int(piece.args[1])  # type: ignore[arg-type]
        if sizes[axis] != 1:
            raise unsupported(node, f"{node.target} of parts of images; expected a sequence of each image")
        before = Layout.plain([size for place, size in enumerate(sizes) if place != axis])
        builder.layouts[piece] = before.permuted([*range(1, axis + 1), 0, *range(axis + 1, len(sizes))])
        operator = target_name(node).removeprefix("aten.")
        builder.add_float(piece, FloatOperator(operator, ["input"], arguments, tensors, result), [name])


def _converted(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """To another type: all is float32, so that only what a type cannot hold makes a difference."""
    source: Any = args.get("input", node.args[0])
    before, after = (value.meta["val"].dtype for value in (source, node))
    if after.is_complex:
        raise unsupported(node, f"{written(node).target} makes complex numbers; expected real ones")
    vanishing(builder, node, {"input": source})
    if after == torch.bool != before:
        builder.add_float(node, FloatOperator("ne.Scalar", ["self"], {"other": 0}, {}), [source])
    elif before.is_floating_point and not after.is_floating_point:
        builder.add_float(node, FloatOperator("trunc.default", ["self"], {}, {}), [source])


FLOAT_CALLS: Final[dict[str, Handler]] = {
    **dict.fromkeys(
        (
            "aten.cumsum.default", "aten.prod.dim_int", "aten.gather.default", "aten.scatter.src", "aten.scatter.value",
            "aten.scatter_add.default",
        ),
        _along,
    ),
    **dict.fromkeys(("aten.topk.default", "aten.sort.default"), _results),
}  # fmt: skip
"""Those that take values as the program has them."""

OF_ANY_LAYOUT: Final[dict[str, Handler]] = {
    **dict.fromkeys(
        ("aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten.type_as.default", "aten.to.other"), _converted
    ),
    **dict.fromkeys(("aten.lstm.input", "aten.gru.input"), _recurrent),
}
"""Those that take values however they lie."""
