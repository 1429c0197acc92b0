"""The network as edgeq sees it: a short list of nodes in order of execution.

Tracing turns any module into a `Graph`; calibration, rounding, packing and export all walk the same one. A node's `op`
is one of a closed set, `edgeq.ir.ops.registry.OPS`, whose entries say how each op is computed, quantized and exported.
Batch norms are folded and dropouts gone before a graph exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.ir.node import Node
from edgeq.ir.ops.codes import CODES
from edgeq.ir.ops.float_operators import FINAL
from edgeq.ir.ops.registry import OPS
from edgeq.tasks import TASKS

INPUT: Final = "input"
"""What nodes read the image by in a network that has one input."""

_INSERTED: Final = frozenset(op.name for op in CODES)  # by passes on the way to a file


@dataclass(frozen=True)
class Input:
    """One input of a network.

    Attributes:
        name: what it is called in exported files.
        value: what nodes read it by.
        shape: without the batch dimension.
    """

    name: str
    value: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Attributes:
        name: what it is called in exported files.
        value: the node whose value it is.
        task: what it means, one of `edgeq.tasks.TASKS`.
    """

    name: str
    value: str
    task: str


@dataclass(frozen=True)
class Graph:
    """A network: inputs `[batch, *shape]`, nodes in order of execution, and those of their values that it returns.

    Raises:
        ArtifactError: on construction, when a name is used twice, an op is unknown, an input comes later or never, or
            there is nothing to return.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    def __post_init__(self) -> None:
        known = set(self.input_values)
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
        for kind, found in (("input", self.inputs), ("output", self.outputs)):
            names = [end.name for end in found]
            if not names or len({*names}) < len(names):
                raise ArtifactError(f"expected {kind}s with names of their own, found {', '.join(names) or 'none'}")
        if len({*self.input_values}) < len(self.inputs):
            raise ArtifactError(f"expected inputs with values of their own, found {', '.join(self.input_values)}")
        if unknown := [output.value for output in self.outputs if output.value not in known]:
            raise ArtifactError(f"output {unknown[0]}: no node makes it")

    @staticmethod
    def of_image(shape: tuple[int, ...], nodes: tuple[Node, ...]) -> Graph:
        """A classifier of one image `[batch, *shape]`, whose logits the last node makes."""
        if not nodes:
            raise ArtifactError("a network needs at least one node, found none")
        image, logits = Input("image", INPUT, shape), Output("logits", nodes[-1].name, "classification")
        return Graph((image,), nodes, (logits,))

    @property
    def input_values(self) -> tuple[str, ...]:
        """What nodes read the inputs by."""
        return tuple(one.value for one in self.inputs)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every input by its name in exported files, without the batch."""
        return {one.name: one.shape for one in self.inputs}

    @property
    def image(self) -> Input:
        """The input of a network that has but one.

        Raises:
            UnsupportedError: it has several.
        """
        if len(self.inputs) != 1:
            names = ", ".join(one.name for one in self.inputs)
            raise UnsupportedError(f"expected a network with one input, the image, found {names}")
        return self.inputs[0]

    @property
    def returned(self) -> frozenset[str]:
        """The values that the network returns."""
        return frozenset(output.value for output in self.outputs)

    @property
    def answers(self) -> tuple[str, ...]:
        """The values by which outputs are judged: for class scores the logits, else the output itself."""
        return tuple(self.logits(one.value) if one.task == "classification" else one.value for one in self.outputs)

    def logits(self, output: str) -> str:
        """What a final softmax, sigmoid or argmax reads, or the output without such an end; with its dimension."""
        nodes, end = {node.name: node for node in self.nodes}, self.ending(output)
        found = output if end is None else end.inputs[0]
        while found in nodes and not nodes[found].shape and OPS[nodes[found].op].same_scale:
            (found,) = nodes[found].inputs
        return found

    def ending(self, output: str) -> Node | None:
        """The final softmax, sigmoid or argmax of an output, the first of several; None without such an end.

        Behind it values may be moved, as in `softmax(1)[:, 1]`.
        """
        nodes, name, found = {node.name: node for node in self.nodes}, output, None
        while name in nodes and len(nodes[name].inputs) == 1:
            node = nodes[name]
            final = node.op == "sigmoid" or (node.op == "float" and node.attrs["operator"] in FINAL)
            if not final and not OPS[node.op].same_scale:
                break
            found = node if final else found
            name = node.inputs[0]
        return found

    def class_axis(self, output: str) -> int:
        """The axis, without the batch, along which `logits` holds the classes: that of a final softmax, or the first.

        -1 stands for the batch itself, and for several axes at once.
        """
        end = self.ending(output)
        if end is None or end.op != "float":
            return 0
        dims = end.attrs["arguments"].get("dim")
        dim, *others = dims if isinstance(dims, list) else [dims]
        rank = len(self.shapes()[end.inputs[0]]) + 1
        return -1 if others or dim is None else dim % rank - 1

    def behind_answers(self) -> tuple[Node, ...]:
        """The nodes that make outputs of answers, in order of execution: no answer depends on them."""
        before = self.sources(self.answers)
        return tuple(node for node in self.nodes if node.name not in before)

    def sources(self, values: Iterable[str]) -> frozenset[str]:
        """These values and all that they are computed from."""
        found = {*values}
        for node in reversed(self.nodes):
            if node.name in found:
                found |= {*node.inputs}
        return frozenset(found)

    @property
    def quantized(self) -> bool:
        """Whether there are quantizers: in packed networks with 8-bit activations."""
        return any(node.op == "quantize" for node in self.nodes)

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes whose weights are quantized, in order of execution."""
        return tuple(node for node in self.nodes if OPS[node.op].weighted)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every value, without the batch dimension."""
        return {one.value: one.shape for one in self.inputs} | {node.name: node.shape for node in self.nodes}

    def uses(self) -> Counter[str]:
        """How often each value is read; an output counts as read once."""
        return Counter([one.value for one in self.outputs] + [name for node in self.nodes for name in node.inputs])

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as JSON values."""
        return {
            "inputs": [{**asdict(one), "shape": list(one.shape)} for one in self.inputs],
            "outputs": [asdict(one) for one in self.outputs],
            "nodes": [node.to_dict() for node in self.nodes],
        }

    @staticmethod
    def from_dict(body: Mapping[str, Any]) -> Graph:
        """Inverse of `to_dict`.

        Raises:
            ArtifactError: it is no graph, or one that passes have rewritten for a file, which is never stored.
        """
        nodes = tuple(Node.from_dict(node) for node in body["nodes"])
        if inserted := [node for node in nodes if node.op in _INSERTED]:
            raise ArtifactError(f"node {inserted[0].name}: no stored network has an op {inserted[0].op}")
        inputs = tuple(Input(one["name"], one["value"], tuple(one["shape"])) for one in body["inputs"])
        outputs = tuple(Output(one["name"], one["value"], one["task"]) for one in body["outputs"])
        if unknown := [one.task for one in outputs if one.task not in TASKS]:
            raise ArtifactError(f"unknown task {unknown[0]}; expected one of {', '.join(TASKS)}")
        return Graph(inputs, nodes, outputs)
