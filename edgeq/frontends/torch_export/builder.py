"""A graph in the making: the nodes and layers that the calls of an exported program have become so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from operator import getitem
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from edgeq.errors import WeightsError
from edgeq.frontends.torch_export.calls import is_elementwise, module_path, target_name, unsupported
from edgeq.frontends.torch_export.constants import Constant
from edgeq.frontends.torch_export.layouts import Layout, Sizes, sizes_of
from edgeq.ir.graph import Input
from edgeq.ir.network import Moments, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator


class Parameters(NamedTuple):
    """Of a layer: its weight, with the name that the network has for it, and its bias, if it has one; both float32."""

    name: str
    weight: Tensor
    bias: Tensor | None

    def as_conv(self) -> Parameters:
        """Of the convolution of 1x1, over maps or rows, that does what these do over the last dimension."""
        return self._replace(weight=self.weight[:, :, None, None])


class GraphBuilder:
    """Nodes and layers of a graph in the making, and what the values of an exported program are called in it.

    `alias` follows values whose op has vanished (dropout); `constants` do not depend on the image. A node of the op
    `affine` multiplies channels and adds to them, what is in `affines`; no graph has it, since
    `edgeq.frontends.torch_export.fold` makes it part of a layer, or a layer of its own. `trained` has what those that
    are batch norms say of their values.

    The value of a node may have its dimensions in another order than that of the program, and has the batch first and
    alone: `layouts` says how they lie (`edgeq.frontends.torch_export.layouts`).
    """

    def __init__(
        self,
        program: fx.Graph,
        constants: Mapping[fx.Node, Constant],
        inputs: Sequence[Input],
    ) -> None:
        self.inputs = {one.value: one for one in inputs}
        self.nodes: dict[str, Node] = {}
        self.affines: dict[str, tuple[Tensor, Tensor]] = {}
        self.trained: dict[str, Moments] = {}
        self.layers: dict[str, nn.Module] = {}
        self.alias: dict[fx.Node, str] = {}
        self.layouts: dict[fx.Node, Layout] = {}
        self.split: dict[fx.Node, int] = {}  # the program's dimension that a call has split
        self.constants = constants
        self._moves: dict[tuple[str, str, tuple[int, ...]], str] = {}
        taken = [node for node in program.find_nodes(op="placeholder") if node not in constants]
        for node, one in zip(taken, inputs, strict=True):
            self.alias[node], self.layouts[node] = one.value, Layout.plain(one.shape)

    def emit(
        self,
        node: fx.Node,
        op: str,
        inputs: Iterable[Argument | str],
        attrs: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        shape: tuple[int, ...] | None = None,
    ) -> Node:
        """Append a node; its name is the layer's, or where there is none the path of its module plus the op.

        Inputs are values of the program or names of nodes.
        """
        sources = tuple(i if isinstance(i, str) else self.value(i, node) for i in inputs)
        path = name or f"{module_path(node)}.{op}".lstrip(".")
        made = self._append(path, op, sources, self.shape(node) if shape is None else shape, attrs)
        self.alias[node] = made.name
        return made

    def _append(
        self, path: str, op: str, sources: tuple[str, ...], shape: tuple[int, ...], attrs: Mapping[str, Any] | None
    ) -> Node:
        made = Node(self._unique(path), op, sources, shape, attrs or {})
        self.nodes[made.name] = made
        return made

    def moved(self, source: fx.Node, name: str, op: str, attrs: Mapping[str, list[int]], shape: tuple[int, ...]) -> str:
        """The node that moves what another one holds of a value: a new one, or the one that does it already."""
        key = (name, op, tuple(*attrs.values()))
        if key not in self._moves:
            path = f"{module_path(source)}.{op}".lstrip(".")
            self._moves[key] = self._append(path, op, (name,), shape, attrs).name
        return self._moves[key]

    @contextmanager
    def seen(self, values: Mapping[fx.Node, tuple[str, Layout]]) -> Iterator[None]:
        """Take values of the program, for the length of one call, as other nodes hold them."""
        kept = {source: (self.alias[source], self.layouts[source]) for source in values}
        self._place(values)
        try:
            yield
        finally:
            self._place(kept)

    def _place(self, values: Mapping[fx.Node, tuple[str, Layout]]) -> None:
        for source, (name, layout) in values.items():
            self.alias[source], self.layouts[source] = name, layout

    def _unique(self, name: str) -> str:
        taken = {*self.inputs, *self.nodes}
        return next(n for n in chain([name], (f"{name}:{i}" for i in count(2))) if n not in taken)

    def sizes(self, node: fx.Node) -> Sizes:
        """The shape of a value as the program has it, of one image; of several values, the first one's."""
        value = node.meta["val"]
        found = sizes_of(value if isinstance(value, Tensor) else value[0])
        if found is None:
            raise unsupported(node, f"{node.target} is not done to each image by itself; expected the same for all")
        return found

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a value as its node has it, without the batch."""
        return self.layouts[node].shape

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of what a node makes, or of an input."""
        return self.nodes[name].shape if name in self.nodes else self.inputs[name].shape

    def emit_layer(self, node: fx.Node, op: str, args: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
        """Append a node with the weights of a call, and make its module."""
        self.add_layer(node, op, args["input"], self.parameters(args, node), attrs)

    def parameters(self, args: Mapping[str, Any], user: fx.Node) -> Parameters:
        """The weight and the bias among the arguments of a call."""
        return Parameters(*self.tensor(args["weight"], user), self.optional(args["bias"], user))

    def add_layer(
        self,
        node: fx.Node,
        op: str,
        source: Argument | str,
        parameters: Parameters,
        attrs: Mapping[str, Any],
        shape: tuple[int, ...] | None = None,
    ) -> Node:
        """Append a node with these parameters, named as its weight is."""
        made = self.emit(node, op, [source], attrs, name=parameters.name.removesuffix(".weight"), shape=shape)
        self.layers[made.name] = float_layer(made, parameters.weight, parameters.bias)
        return made

    def emit_affine(
        self,
        node: fx.Node,
        source: Argument | str,
        factor: Tensor | float,
        shift: Tensor | None = None,
        name: str = "",
    ) -> Node:
        """Append `factor * source + shift`; both are float32 `[channels]`, or the same number for all, or no shift."""
        source = source if isinstance(source, str) else self.value(source, node)
        path = name or f"{module_path(node)}.conv2d".lstrip(".")
        made = self.emit(node, "affine", [source], name=path, shape=self.shape_of(source))
        if not isinstance(factor, Tensor):
            factor = torch.full(made.shape[:1], factor, dtype=torch.float32)
        self.affines[made.name] = factor, torch.zeros_like(factor) if shift is None else shift
        return made

    def emit_float(
        self, node: fx.Node, changed: Mapping[str, Any] | None = None, operator: str = "", source: str = ""
    ) -> Node:
        """Append the operator that a node calls, as it is.

        Args:
            node: the call, or one of its several results.
            changed: arguments to pass in place of those of the call.
            operator: to call in place of the node's.
            source: a node to call it on in place of the call's own value.
        """
        piece, result = node, 0
        if node.target is getitem:
            node, result = cast(fx.Node, node.args[0]), cast(int, node.args[1])
        operator = operator or target_name(node).removeprefix("aten.")
        packet, _, overload = operator.partition(".")
        schema = getattr(getattr(torch.ops.aten, packet), overload)._schema
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
        given |= {**node.kwargs, **(changed or {})}
        reads, inputs, arguments, tensors = [], [], {}, {}
        for name, value in given.items():
            if isinstance(value, fx.Node) and value in self.constants:
                held = self.constants[value].value
                if isinstance(held, Tensor):
                    tensors[name] = self.operand(value, node)
                else:
                    arguments[name] = _as_json(held, node)
            elif isinstance(value, Tensor):
                tensors[name] = value
            elif isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor):
                reads.append(name)
                inputs.append(source if source and name == "self" else value)
            elif value is not None and not isinstance(value, torch.dtype):  # all is float32
                arguments[name] = _as_json(value, node)
        return self.add_float(piece, FloatOperator(operator, reads, arguments, tensors, result), inputs)

    def add_float(
        self,
        node: fx.Node,
        layer: FloatOperator,
        inputs: Iterable[Argument | str],
        shape: tuple[int, ...] | None = None,
    ) -> Node:
        """Append an operator in float, which reads these."""
        path = f"{module_path(node)}.{layer.operator.partition('.')[0]}".lstrip(".")
        made = self.emit(node, "float", inputs, layer.attrs, name=path, shape=shape)
        self.layers[made.name] = layer
        return made

    def value(self, source: Argument, user: fx.Node) -> str:
        """Name of the node that computes a value."""
        if isinstance(source, fx.Node) and source in self.alias:
            return self.alias[source]
        raise unsupported(user, f"{user.target} takes a constant; only computed values are supported")

    def op(self, name: str) -> str:
        """What computes a value; empty for the input."""
        return self.nodes[name].op if name in self.nodes else ""

    def tensor(self, source: Argument, user: fx.Node) -> tuple[str, Tensor]:
        """The name and value of a constant, float32, checked to be finite."""
        if not isinstance(source, fx.Node) or source not in self.constants:
            raise unsupported(user, "its weights are computed from the image; expected the same for all images")
        found = self.constants[source]
        value = torch.as_tensor(found.value).float()
        if not torch.isfinite(value).all():
            if found.computed:
                raise WeightsError(
                    f"layer {module_path(user) or user.name}: what it computes from {found.name or 'constants'} has "
                    "NaN or infinite values; expected finite ones"
                )
            raise WeightsError(f"weights {found.name}: found NaN or infinite values; use weights that are finite")
        return found.name, value

    def optional(self, source: Argument, user: fx.Node) -> Tensor | None:
        """The value of a parameter that may be left out."""
        return None if source is None else self.tensor(source, user)[1]

    def follow(
        self, node: fx.Node, first: Node, op: str, shape: tuple[int, ...], attrs: Mapping[str, Any], *others: str
    ) -> None:
        """Append a second node for the same call, which reads the first, and maybe other values before it."""
        self.alias[node] = self._append(f"{first.name}.{op}", op, (*others, first.name), shape, attrs).name

    def operand(self, source: fx.Node, node: fx.Node) -> Tensor:
        """A constant of a call, as the nodes of the values are that the call takes it with."""
        value = self.tensor(source, node)[1]
        return self.layouts[node].constant(value) if is_elementwise(node) else value

    def constant(self, source: Argument, user: fx.Node) -> Tensor | None:
        """A parameter or a number of a call as a tensor, see `operand`; None for what is computed."""
        if isinstance(source, fx.Node):
            return self.operand(source, user) if source in self.constants else None
        return torch.tensor(float(cast(float, source)), dtype=torch.float32)

    def needed(self, values: Iterable[str]) -> tuple[Node, ...]:
        """The nodes that some values are computed from, in order of execution."""
        found = {*values}
        for node in reversed(self.nodes.values()):
            found |= {*node.inputs} if node.name in found else set()
        return tuple(node for node in self.nodes.values() if node.name in found)


Handler = Callable[[GraphBuilder, fx.Node, dict[str, Any]], object]
"""Adds to a graph what a call with these arguments, by name, stands for."""


def _as_json(value: Argument, node: fx.Node) -> Any:
    """A constant argument of a call."""
    if isinstance(value, list | tuple):
        return [_as_json(item, node) for item in value]
    if not isinstance(value, bool | int | float | str):
        raise unsupported(node, f"{node.target} with {value}, which depends on the batch; expected constants")
    if isinstance(value, float) and not math.isfinite(value):
        raise unsupported(node, f"{node.target} with {value}; expected finite numbers")
    return value
