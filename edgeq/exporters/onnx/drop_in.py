"""An exported model in the place of the ONNX file that its network was read from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import count

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, version_converter

from edgeq.errors import UnsupportedError, one_line
from edgeq.exporters.onnx.model import IR_VERSIONS
from edgeq.frontends.onnx.ends import OF_NETWORK, Ends
from edgeq.frontends.onnx.read import opset_of


def with_ends(model: ModelProto, ends: Ends) -> ModelProto:
    """Put around an exported model what stood around its network in the file that it was read from.

    Args:
        model: from `edgeq.exporters.onnx.model`, in float32 at its ends; it is left as it is.
        ends: of the file.

    Returns:
        A checked model with the inputs and outputs of the file: the same names and types, in the same order, and the
        same sizes where the file fixes them; and with its metadata. Weights keep their names.

    Raises:
        UnsupportedError: the tail of the file has no form in the operator set of the model.
    """
    made = ModelProto()
    made.CopyFrom(model)
    graph, (head, tail, constants) = made.graph, _around(ends, opset_of(model))
    weights = {tensor.name for tensor in graph.initializer}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | weights
    between = {name for node in (*head, *tail) for name in (*node.input, *node.output) if name.endswith(OF_NETWORK)}
    of_file = {value.name for value in (*ends.inputs, *ends.outputs)}
    inner = {name for node in tail for name in (*node.input, *node.output)} - between - of_file
    _rename(tail, constants, _free(inner & taken, taken | inner | of_file))
    ours = {value.name for value in (*graph.input, *graph.output)}
    names = {name: name + OF_NETWORK for name in ours if name + OF_NETWORK in between}
    names |= _free((of_file - ours) & taken, taken | inner | of_file)
    _rename(graph.node, graph.initializer, names)
    nodes = [*head, *graph.node, *tail]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.extend(ends.inputs)
    graph.output.extend(ends.outputs)
    graph.initializer.extend(constants)
    helper.set_model_props(made, dict(ends.metadata))
    try:
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # onnx raises many types
        raise UnsupportedError(
            f"the nodes behind the network do not fit opset {opset_of(model)}: {one_line(error)}; export the file "
            "again with such an opset"
        ) from error
    return made


def _free(names: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """Other names for these, which nobody has; an input that is left out has none."""
    return {name: next(n for i in count(2) if (n := f"{name}:{i}") not in taken) for name in names if name}


def _rename(nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], names: Mapping[str, str]) -> None:
    """Give values other names; nodes and tensors are changed."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(graph.node, (), names)
    for tensor in tensors:
        tensor.name = names.get(tensor.name, tensor.name)


def _around(ends: Ends, opset: int) -> tuple[list[NodeProto], list[NodeProto], list[TensorProto]]:
    """Copies of head, tail and constants, in another version of the operators."""
    if opset == ends.opset or not ends.tail:
        copied = ModelProto()
        copied.graph.node.extend((*ends.head, *ends.tail))
        copied.graph.initializer.extend(ends.constants)
        nodes = list(copied.graph.node)
        return nodes[: len(ends.head)], nodes[len(ends.head) :], list(copied.graph.initializer)
    known = {name for node in ends.tail for name in node.output} | {tensor.name for tensor in ends.constants}
    read = {name for node in ends.tail for name in node.input if name} - known
    of_file = {value.name: value for value in ends.inputs}
    inputs = [
        of_file.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(read)
    ]
    outputs = [value for value in ends.outputs if value.name in known]
    graph = helper.make_graph(list(ends.tail), "tail", inputs, outputs, list(ends.constants))
    part = helper.make_model(graph, opset_imports=[helper.make_opsetid("", ends.opset)], ir_version=IR_VERSIONS[20])
    try:
        done = version_converter.convert_version(part, opset)
    except Exception as error:  # onnx raises many types
        raise UnsupportedError(
            f"the nodes behind the network cannot be converted from opset {ends.opset} to {opset}: {one_line(error)}; "
            "export the file again with such an opset"
        ) from error
    return list(ends.head), list(done.graph.node), list(done.graph.initializer)
