"""From a packed network to an ONNX model that stock runtimes run on their int8 kernels.

Passes rewrite the network first; what comes out is translated node by node:

- The image in uint8 (`edgeq.ir.passes.uint8_input`), if the file is to take it as cameras have it, `[batch, rows,
  columns, 3]`. The Transpose behind it cancels against the one of runtimes that convolve maps with the channels last.
- Hard sigmoids on codes (`edgeq.ir.passes.hard_sigmoid`).
- Space-to-depth for the convolution that reads the image (`edgeq.exporters.onnx.space_to_depth`): the Transpose on both
  sides of the Reshape that views a map in groups, or as columns again, cancel likewise.
- Larger groups for grouped convolutions of few channels (`edgeq.exporters.onnx.merged_groups`).

How weights are written is in `edgeq.exporters.onnx.weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import UnsupportedError
from edgeq.exporters.onnx.float_call import Call
from edgeq.exporters.onnx.float_operators import TRANSLATIONS
from edgeq.exporters.onnx.merged_groups import integer_layers, with_merged_groups
from edgeq.exporters.onnx.space_to_depth import over_pixel_groups
from edgeq.exporters.onnx.weights import as_array, write_parameters
from edgeq.ir.graph import INPUT
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.ir.passes.hard_sigmoid import on_codes
from edgeq.ir.passes.uint8_input import AS_FLOATS, with_uint8_input

IR_VERSIONS: Final = {17: 8, 20: 9}
"""The versions of the format that came with the opsets of exports."""


@dataclass(frozen=True)
class Translation:
    """An ONNX model and what it was made of.

    Attributes:
        source: the network that is exported.
        network: what the passes made of it, translated node by node.
        names: the ONNX name of each value of `network`.
        model: of ONNX, checked.
    """

    source: Network
    network: Network
    names: Mapping[str, str]
    model: onnx.ModelProto


def to_onnx(network: Network, pixels: bool = False) -> onnx.ModelProto:
    """The model of `translate`."""
    return translate(network, pixels).model


def translate(network: Network, pixels: bool = False, any_size: bool = False, around: int = 17) -> Translation:
    """Translate a network, packed or float, to ONNX with a dynamic batch dimension.

    Args:
        network: from `edgeq.packed.pack.pack`, or a float one.
        pixels: whether the network reads pixels (`edgeq.ir.passes.fold_normalization`) and the file shall take them in
            uint8.
        any_size: whether the model is to be merged with that of another size (`edgeq.exporters.onnx.open_sizes`): then
            pixels are not read by groups, for which the columns would have to come out even.
        around: the opset of nodes that are to stand around the network. They can be converted to a later one, but
            hardly to an earlier one.

    Returns:
        A model of opset 17, or 20 if it or what is around it has operators that are not in 17, with the inputs and
        outputs of the network in float32; or with an image in uint8 `[batch, rows, columns, channels]`.

    Raises:
        UnsupportedError: an op has no ONNX form.
    """
    graph = with_uint8_input(network.graph) if pixels else network.graph
    lowered = network.with_graph(on_codes(graph))
    lowered = with_merged_groups(lowered if any_size else over_pixel_groups(lowered))
    rules = [_rule(node) for node in lowered.graph.nodes]
    builder = _Builder(lowered, _value_names(network))
    for node, rule in zip(lowered.graph.nodes, rules, strict=True):
        if isinstance(rule, str):
            builder.call(rule, node)
        else:
            rule(builder, node)
    for output in lowered.graph.outputs:
        if builder.value(output.value) != output.name:  # an input, or a value that is returned twice
            builder.node("Identity", [builder.value(output.value)], output.name)
    model = builder.model(TensorProto.UINT8 if pixels else TensorProto.FLOAT, around)
    onnx.checker.check_model(model, full_check=True)
    names = {name: builder.value(name) for name in lowered.graph.shapes()}
    return Translation(network, lowered, names, model)


def _value_names(network: Network) -> dict[str, str]:
    """The ONNX names of the values that a network had before passes added others."""
    # Names of edgeq's own have no such ending, so no layer's name can collide with them.
    names = {node.name: f"{node.name}.out" for node in network.graph.nodes}
    names |= {AS_FLOATS: f"{INPUT}.out", **{one.value: one.name for one in network.graph.inputs}}
    returned = [one for one in network.graph.outputs if one.value not in network.graph.input_values]
    return names | {one.value: one.name for one in reversed(returned)}  # the first name of a value returned twice


class _Builder:
    """Collects nodes and initializers; equal constants are stored once.

    Args:
        network: what is translated.
        names: those of values whose name is not just a number.
    """

    def __init__(self, network: Network, names: dict[str, str]) -> None:
        self.network, self.names = network, names
        self._ends = {one.name for one in network.graph.inputs} | {one.name for one in network.graph.outputs}
        self._shapes = network.graph.shapes()
        self._in_integers = integer_layers(network.graph)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def value(self, name: str) -> str:
        """The ONNX name of a node's output."""
        return self.names[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a node's output, without the batch dimension."""
        return self._shapes[name]

    def node(
        self, op: str, inputs: Sequence[str], output: str | None = None, *, outputs: int = 1, **attributes: Any
    ) -> str:
        """One ONNX node; an output that nobody looks up is named by a number, since names are bytes too."""
        output = output or self._number()
        others = [f"{output}.{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), [output, *others], **attributes))
        return output

    def _number(self) -> str:
        """The number of the next node, unless an input or an output is called so."""
        number = str(len(self.nodes))
        return f"{number}.out" if number in self._ends else number

    def write(self, node: Node, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """The ONNX node that makes the value of a node of the graph."""
        self.names[node.name] = self.node(op, inputs, self.names.get(node.name), **attributes)

    def call(self, op: str, node: Node, *extra: str, **attributes: Any) -> None:
        """One ONNX node for one node of the graph."""
        inputs = [self.value(name) for name in node.inputs]
        self.write(node, op, [*inputs, *extra], name=node.name, **attributes)

    def constant(self, name: str, array: NDArray[Any], shared: bool = True) -> str:
        """An initializer; if shared, the name of an equal one that is there already."""
        key = (array.dtype.str, array.shape, array.tobytes() if shared else name.encode())
        if key not in self._constants:
            self._constants[key] = name
            self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return self._constants[key]

    def shared(self, name: str, write: Callable[[], None]) -> str:
        """A value that is made once."""
        if all(node.output[0] != name for node in self.nodes):
            write()
        return name

    @property
    def count(self) -> int:
        """Nodes so far."""
        return len(self.nodes)

    def prefix(self, node: Node) -> str:
        """What the constants of a node are named after; of one that a pass added, the node that it is a part of."""
        return node.name if node.name in self.names else node.name.rpartition(".")[0]

    def parameters(self, node: Node) -> tuple[str, str]:
        """Names of a layer's decoded weight and its bias."""
        return write_parameters(self, node.name, self.network.layer(node.name), node.name in self._in_integers)

    def model(self, input_type: int, around: int) -> onnx.ModelProto:
        graph = self.network.graph
        needed = max(around, *(OPS[node.op].opset for node in graph.nodes))
        opset = next((known for known in IR_VERSIONS if known >= needed), max(IR_VERSIONS))
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                "edgeq",
                [helper.make_tensor_value_info(one.name, input_type, ["batch", *one.shape]) for one in graph.inputs],
                [
                    helper.make_tensor_value_info(one.name, TensorProto.FLOAT, ["batch", *self.shape(one.value)])
                    for one in graph.outputs
                ],
                self.initializers,
            ),
            producer_name="edgeq",
            opset_imports=[helper.make_opsetid("", opset)],
        )
        model.ir_version = IR_VERSIONS[opset]
        return model


def _float(builder: _Builder, node: Node) -> None:
    """As `edgeq.exporters.onnx.float_operators` has it; its last operator makes the value of the node."""
    module = builder.network.layer(node.name)
    reads, sizes = node.attrs["reads"], builder.network.graph.shapes()
    parameters = {name: as_array(getattr(module, name)) for name in node.attrs["tensors"]}
    values = {name: builder.value(source) for name, source in zip(reads, node.inputs, strict=True)}
    shapes = {name: (1, *sizes[source]) for name, source in zip(reads, node.inputs, strict=True)}
    shapes |= {name: array.shape for name, array in parameters.items()}
    call = Call(
        builder, node.name, values, parameters, shapes, node.attrs["arguments"], (1, *node.shape),
        node.attrs.get("result", 0),
    )  # fmt: skip
    TRANSLATIONS[node.attrs["operator"]](call)
    builder.nodes[-1].name, builder.nodes[-1].output[0] = node.name, builder.value(node.name)


RULES: Final[dict[str, Callable[[_Builder, Node], object]]] = {"float": _float}
"""Ops whose ONNX form depends on more than the node; the entries of the others have it (`edgeq.ir.ops`)."""


def _rule(node: Node) -> str | Callable[[_Builder, Node], object]:
    """The ONNX operator that a node becomes, or what writes it."""
    rule = RULES.get(node.op) or OPS[node.op].onnx
    if rule is None:
        raise UnsupportedError(f"layer {node.name}: edgeq knows no ONNX form of {node.op}")
    return rule
