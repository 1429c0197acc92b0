"""A graph in the making: the nodes and layers that the calls of an exported program have become so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from edgeq.calls import module_path, unsupported
from edgeq.constants import Constant
from edgeq.errors import UnsupportedError, WeightsError
from edgeq.graph import INPUT, Node
from edgeq.network import float_layer


class GraphBuilder:
    """Nodes and layers of a graph in the making, and what the values of an exported program are called in it.

    `alias` follows values whose op has vanished (dropout, batch norm); `constants` do not depend on the image.

    A graph holds maps with their channels first only. A network may turn a map around, `permute(0, 2, 3, 1)`, to mix or
    normalize its channels as the last dimension: such values, `last`, are aliases of maps, too.
    """

    def __init__(self, program: fx.Graph, constants: Mapping[fx.Node, Constant], keep_float: bool) -> None:
        self.keep_float = keep_float
        self.nodes: list[Node] = []
        self.layers: dict[str, nn.Module] = {}
        self.alias: dict[fx.Node, str] = {}
        self.last: set[fx.Node] = set()
        self.split: dict[fx.Node, int] = {}  # the dimension that a call has split
        self.constants = constants
        self.alias |= {n: INPUT for n in program.find_nodes(op="placeholder") if n not in constants}

    def emit(
        self,
        node: fx.Node,
        op: str,
        inputs: Iterable[Argument],
        attrs: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        shape: tuple[int, ...] | None = None,
    ) -> Node:
        """Append a node; its name is the layer's, or where there is none the path of its module plus the op."""
        wanted = name or f"{module_path(node)}.{op}".lstrip(".")
        taken = {INPUT, *(n.name for n in self.nodes)}
        unique = next(n for n in chain([wanted], (f"{wanted}:{i}" for i in count(2))) if n not in taken)
        sources = tuple(self.value(i, node) for i in inputs)
        made = Node(unique, op, sources, shape or self.shape(node), attrs or {})
        self.nodes.append(made)
        self.alias[node] = unique
        return made

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Of a value, as the graph has it, without the batch."""
        dims = tuple(int(d) for d in node.meta["val"].shape[1:])
        return (dims[-1], *dims[:-1]) if node in self.last else dims

    def emit_layer(self, node: fx.Node, op: str, args: Mapping[str, Any], geometry: Mapping[str, Any]) -> None:
        """Append a node with weights, named by its parameter, and make its module."""
        name, weight = self.tensor(args["weight"], node)
        self.add_layer(node, op, args["input"], name, weight, self.optional(args["bias"], node), geometry)

    def add_layer(
        self,
        node: fx.Node,
        op: str,
        source: Argument,
        name: str,
        weight: Tensor,
        bias: Tensor | None,
        attrs: Mapping[str, Any],
    ) -> None:
        """Append a node with these weights, named by the parameter that they are of."""
        made = self.emit(node, op, [source], attrs, name=name.removesuffix(".weight"))
        self.layers[made.name] = float_layer(made, weight, bias)

    def value(self, source: Argument, user: fx.Node) -> str:
        """Name of the node that computes a value."""
        if isinstance(source, fx.Node) and source in self.alias:
            return self.alias[source]
        raise unsupported(user, f"{user.target} takes a constant; only computed values are supported")

    def op(self, name: str) -> str:
        """What computes a value; empty for the input."""
        return next((node.op for node in self.nodes if node.name == name), "")

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
        made = Node(f"{first.name}.{op}", op, (*others, first.name), shape, attrs)
        self.nodes.append(made)
        self.alias[node] = made.name

    def only_read_by(self, name: str, node: fx.Node) -> bool:
        """Whether nothing else reads a value, under this name or an alias."""
        readers = {user for source, alias in self.alias.items() if alias == name for user in source.users}
        return all(user is node or self.alias.get(user) == name for user in readers)

    def finish(self, output: fx.Node) -> None:
        """Keep what the one output is computed from, so that it is the last node."""
        needed = {self.value(cast(Sequence[Argument], output.args[0])[0], output)}
        for node in reversed(self.nodes):
            needed |= {*node.inputs} if node.name in needed else set()
        self.nodes = [node for node in self.nodes if node.name in needed]
        if not self.nodes:
            raise UnsupportedError("expected a network that computes something, found one that returns its image")
