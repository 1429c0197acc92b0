"""The network as edgeq sees it: a short list of nodes in order of execution.

Tracing turns any module into a `Graph`; calibration, rounding, packing and export all walk the same one. A node's `op`
is one of a closed set, `edgeq.ir.ops.registry.OPS`, whose entries say how each op is computed, quantized and exported.
Batch norms are folded and dropouts gone before a graph exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

from edgeq.errors import ArtifactError
from edgeq.ir.node import Node
from edgeq.ir.ops.codes import CODES
from edgeq.ir.ops.float_operators import FINAL
from edgeq.ir.ops.registry import OPS

__all__ = ["AVERAGING", "CLIPPING", "INPUT", "POINTWISE", "SAME_SCALE", "WEIGHTED", "Graph", "Node"]

INPUT: Final = "input"

_INSERTED: Final = frozenset(op.name for op in CODES)  # by passes on the way to a file

# The names of the ops with a trait, for modules that do not ask the op itself yet.
AVERAGING: Final = frozenset(name for name, op in OPS.items() if op.averaging)
CLIPPING: Final = frozenset(name for name, op in OPS.items() if op.clipping)
POINTWISE: Final = frozenset(name for name, op in OPS.items() if op.pointwise)
SAME_SCALE: Final = frozenset(name for name, op in OPS.items() if op.same_scale)
WEIGHTED: Final = frozenset(name for name, op in OPS.items() if op.weighted)


def _bound(node: Node) -> float:
    """The largest value that a ReLU or clip lets through."""
    return float(node.attrs.get("max", inf))


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

    def cuts(self) -> tuple[str, ...]:
        """The values that every path passes through: the outputs of the blocks that the network is made of.

        The logits and what is made of them are no cuts. Neither is a value that an activation or a grouped convolution
        reads, because its block goes on.
        """
        left, alive, found = self.uses(), {INPUT}, []
        for node in self.nodes:
            for name in node.inputs:
                left[name] -= 1
                if not left[name]:
                    alive.discard(name)
            alive.add(node.name)
            if len(alive) == 1:
                found.append(node.name)
        inside = {
            name
            for node in self.nodes
            if OPS[node.op].pointwise or node.attrs.get("groups", 1) > 1
            for name in node.inputs
        }
        outside = {self.logits, *(node.name for node in self.tail())}
        return tuple(name for name in found if name not in inside | outside)

    def skips(self) -> dict[str, str]:
        """The residual input of each layer whose output only an addition reads: the summand that is computed before."""
        uses, done = self.uses(), {INPUT: self.input_shape}
        found = {}
        added = {node.inputs: node.shape for node in self.nodes if node.op == "add"}
        for node in self.nodes:
            if OPS[node.op].weighted and uses[node.name] == 1:
                for inputs, shape in added.items():
                    others = [name for name in inputs if name != node.name and done.get(name) == shape]
                    if node.name in inputs and others and node.shape == shape:
                        found[node.name] = others[0]
            done[node.name] = node.shape
        return found

    def with_merged_clips(self) -> Graph:
        """Merge a ReLU or clip with the one that it reads: the same network, with the lower of both bounds.

        Where something else reads the first of both, it stays, and the second goes only if its bound is no lower.
        """
        uses, kept = self.uses(), dict[str, Node]()
        alias: dict[str, str] = {}
        for node in self.nodes:
            inputs = tuple(alias.get(name, name) for name in node.inputs)
            made, before = replace(node, inputs=inputs), kept.get(inputs[0])
            if before is not None and OPS[before.op].clipping and OPS[node.op].clipping:
                lower = min(before, made, key=_bound)
                if uses[before.name] == 1:
                    made = replace(lower, name=node.name, inputs=before.inputs)
                    del kept[before.name]
                elif lower is before and node.name != self.output:
                    alias[node.name] = before.name
                    uses[before.name] += uses[node.name] - 1
                    continue
            kept[node.name] = made
        return Graph(self.input_shape, tuple(kept.values()))

    def quantizer_groups(self) -> tuple[tuple[str, ...], ...]:
        """Return the values that get an activation quantizer, grouped by those that must share one scale.

        Every value is quantized except those that only one ReLU reads, pixels that get a border, which are bytes
        already, and what passes between operators in float. What a ReLU makes or is only moved is quantized even then.
        A max pooling or a concatenation computes nothing new, so it shares the scale of its inputs: the runtime then
        moves bytes instead of requantizing them. But if only some inputs of a concatenation come from a ReLU, these
        have a scale of their own, because a quantizer with levels for negative values does not clip as a ReLU does.
        """
        uses = self.uses()
        absorbed = {node.inputs[0] for node in self.nodes if OPS[node.op].clipping and uses[node.inputs[0]] == 1}
        absorbed -= {node.name for node in self.nodes if OPS[node.op].same_scale or OPS[node.op].clipping} | {INPUT}
        absorbed |= {name for node in self.nodes if node.op == "border" for name in node.inputs}
        absorbed |= self._within_islands()
        leader = {name: name for name in (INPUT, *(node.name for node in self.nodes)) if name not in absorbed}

        def find(name: str) -> str:
            while leader[name] != name:
                name = leader[name]
            return name

        clipped: set[str] = set()
        for node in self.nodes:
            op = OPS[node.op]
            if op.clipping or (op.same_scale and clipped.issuperset(node.inputs)):
                clipped.add(node.name)
            if op.same_scale:
                own = clipped if node.name not in clipped else set()
                together = [name for name in (*node.inputs, node.name) if name in leader and name not in own]
                for name in together:
                    leader[find(name)] = find(together[0])
        groups: dict[str, list[str]] = {}
        for name in leader:
            groups.setdefault(find(name), []).append(name)
        return tuple(tuple(members) for members in groups.values())

    def stored_as(self, name: str, ranges: Container[str]) -> str:
        """The value whose range a value is stored in: itself, or the activation that alone reads it.

        Args:
            name: of the value.
            ranges: the names of the values that have a range, see `quantizer_groups`.
        """
        while name not in ranges:
            name = next(node.name for node in self.nodes if name in node.inputs)
        return name

    def _within_islands(self) -> set[str]:
        """The values that only pass from nodes computed in float to nodes computed in float."""
        readers: dict[str, set[str]] = {node.name: set() for node in self.nodes}
        for node in self.nodes:
            for name in {*node.inputs} - {INPUT}:
                readers[name].add(node.name)
        fixed = {node.name for node in self.nodes if node.op == "float"} | {node.name for node in self.tail()}
        island = fixed | {node.name for node in self.nodes if OPS[node.op].in_islands}
        while leaving := {
            node.name
            for node in self.nodes
            if node.name in island - fixed and not (island.issuperset(node.inputs) and readers[node.name] <= island)
        }:
            island -= leaving
        return {name for name in island if readers[name] and readers[name] <= island and name != self.output}

    def answers(self) -> frozenset[str]:
        """The float outputs: what stays float because the network returns it.

        These are the nodes behind the logits, a float operator that makes the output, and what moves or averages values
        on the way to the logits. An average over a map lies between the levels of the map; in uint8, many averages
        would be equal.
        """
        nodes, uses = {node.name: node for node in self.nodes}, self.uses()
        found = {node.name for node in self.tail()} | {node.name for node in self.nodes[-1:] if node.op == "float"}
        if self.logits not in nodes:
            return frozenset(found)
        node = nodes[self.logits]
        while uses[node.name] == 1 and (OPS[node.op].same_scale or OPS[node.op].averaging):
            found.add(node.name)
            if node.op != "flatten" or node.inputs[0] not in nodes:
                break
            node = nodes[node.inputs[0]]
        return frozenset(found)

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
