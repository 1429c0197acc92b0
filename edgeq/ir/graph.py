"""The network as edgeq sees it: a short list of nodes in order of execution.

Tracing turns any module into a `Graph`; calibration, rounding, packing and export all walk the same one. A node's `op`
is one of a closed set, `edgeq.ir.ops.registry.OPS`, whose entries say how each op is computed, quantized and exported.
Batch norms are folded and dropouts gone before a graph exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeq.errors import ArtifactError
from edgeq.ir.node import Node
from edgeq.ir.ops.codes import CODES
from edgeq.ir.ops.float_operators import FINAL
from edgeq.ir.ops.registry import OPS

INPUT: Final = "input"

_INSERTED: Final = frozenset(op.name for op in CODES)  # by passes on the way to a file


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Attributes:
        name: what it is called in exported files.
        node: the node whose value it is.
        task: what it means, one of `edgeq.tasks.TASKS`.
    """

    name: str
    node: str
    task: str


@dataclass(frozen=True)
class Input:
    """One input of a network.

    Attributes:
        name: what it is called in exported files.
        shape: without the batch dimension.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A network with one input `[batch, *input_shape]` and one output, the last node.

    Raises:
        ArtifactError: on construction, when a name is used twice, an op is unknown, or an input comes later or never.
    """

    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        known = {INPUT}
        for node in self.nodes:
            if node.op not in OPS:
                raise ArtifactError(f"node {node.name}: unknown op {node.op}; expected one of {', '.join(sorted(OPS))}")
            if node.name in known:
                raise ArtifactError(f"node {node.name}: this name is used twice")
            if missing := [name for name in node.inputs if name not in known]:
                raise ArtifactError(f"node {node.name}: its input {missing[0]} does not come before it")
            known.add(node.name)
        if not self.nodes:
            raise ArtifactError("a network needs at least one node, found none")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the network takes; one so far."""
        return (Input("image", self.input_shape),)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What the network returns; one so far."""
        return (Output("logits", self.output, "classification"),)

    @property
    def output(self) -> str:
        """Name of the node whose value the network returns."""
        return self.nodes[-1].name

    @property
    def logits(self) -> str:
        """Name of the logits: what a final softmax, sigmoid or argmax reads, or the output without such an end.

        Before and behind it, values may be moved, as in `softmax(1)[:, 1]` or `squeeze(1)`.
        """
        nodes, uses = {node.name: node for node in self.nodes}, self.uses()
        found = name = self.output
        while name in nodes and len(nodes[name].inputs) == uses[name] == 1:
            node = nodes[name]
            final = node.op == "sigmoid" or (node.op == "float" and node.attrs["operator"] in FINAL) or not node.shape
            if not final and not OPS[node.op].same_scale:
                break
            name = node.inputs[0]
            found = name if final else found
        return found

    def tail(self) -> tuple[Node, ...]:
        """The nodes behind the logits, in order of execution."""
        return self.nodes[[INPUT, *(node.name for node in self.nodes)].index(self.logits) :]

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes whose weights are quantized, in order of execution."""
        return tuple(node for node in self.nodes if OPS[node.op].weighted)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every value, without the batch dimension."""
        return {INPUT: self.input_shape} | {node.name: node.shape for node in self.nodes}

    def uses(self) -> Counter[str]:
        """How often each value is read; the output counts as read once."""
        return Counter([self.output, *(name for node in self.nodes for name in node.inputs)])

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as JSON values."""
        return {"input_shape": list(self.input_shape), "nodes": [node.to_dict() for node in self.nodes]}

    @staticmethod
    def from_dict(body: Mapping[str, Any]) -> Graph:
        """Inverse of `to_dict`.

        Raises:
            ArtifactError: it is no graph, or one that passes have rewritten for a file, which is never stored.
        """
        nodes = tuple(Node.from_dict(node) for node in body["nodes"])
        if inserted := [node for node in nodes if node.op in _INSERTED]:
            raise ArtifactError(f"node {inserted[0].name}: no stored network has an op {inserted[0].op}")
        return Graph(tuple(body["input_shape"]), nodes)
