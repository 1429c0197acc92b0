"""What stands around the network in an ONNX file, so that an export can take the file's place.

A network takes float32 and returns float32, `[n, ...]`. The file may take other types, may have the batch elsewhere in
its outputs, and may end in operators that depend on the values in an image, such as non-maximum suppression. These stay
as they are in the file: nodes before the network, its head, and behind it, its tail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgeq.errors import UnsupportedError
from edgeq.frontends.onnx.interpret import Interpretation, Value, interpret, names_read

OF_NETWORK: Final = ":network"
"""How the name of a network's input or output ends where a head or a tail stands between it and the file's."""

_TYPES: Final = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64, torch.bool: TensorProto.BOOL}


@dataclass(frozen=True)
class Ends:
    """What stands around a network.

    Attributes:
        inputs: of the file that takes the original's place: names, types and sizes as there; what was open and is fixed
            now, is fixed.
        outputs: likewise.
        head: nodes from the inputs to what the network takes, called as these and `OF_NETWORK`.
        tail: nodes from what the network returns, called so too, to the outputs.
        constants: that the tail reads.
        opset: of head and tail.
        metadata: what the file says of itself, which applications read: text by key, such as the names of classes.
    """

    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[ValueInfoProto, ...]
    head: tuple[NodeProto, ...]
    tail: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]
    opset: int
    metadata: Mapping[str, str]


def cut(
    graph: onnx.GraphProto, opset: int, shapes: Mapping[str, tuple[int, ...]], beyond: Collection[str]
) -> Interpretation:
    """Interpret a folded graph up to where its tail begins; between both, all is float.

    Args:
        graph: see `edgeq.frontends.onnx.interpret`.
        opset: of its operators.
        shapes: of its inputs, without the batch.
        beyond: names of nodes that belong to the tail in any case.
    """
    behind = set(beyond)
    while True:
        found = interpret(graph, opset, shapes, behind)
        makers = {name: call.name for call in found.calls for name in call.outputs}
        integers = {makers[name] for name in returned(graph, found) if not found.values[name].one.is_floating_point()}
        if integers <= found.needed:
            return found
        behind |= integers - found.needed


def returned(graph: onnx.GraphProto, found: Interpretation) -> list[str]:
    """The values that the network returns: outputs of the file, and what its tail reads."""
    inputs = {value.name for value in graph.input}
    read = [name for node in found.beyond for name in names_read(node)]
    names = dict.fromkeys([*(value.name for value in graph.output), *read])
    kept = [name for name in names if name in found.values and name not in inputs]
    if not kept:
        raise UnsupportedError("expected outputs that are computed from the images, found none")
    return kept


def ends_of(original: onnx.ModelProto, plain: onnx.ModelProto, found: Interpretation, opset: int) -> Ends:
    """What stands around an interpreted network.

    Args:
        original: the file.
        plain: the same, folded.
        found: `cut` of it.
        opset: of its operators.
    """
    graph = plain.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    taken = {name for node in found.beyond for name in names_read(node)}
    head = [
        helper.make_node("Cast", [value.name], [value.name + OF_NETWORK], to=TensorProto.FLOAT)
        for value in graph.input
        if kinds[value.name] != TensorProto.FLOAT
    ]
    tail: list[NodeProto] = []
    for name in returned(graph, found):
        tail += _restored(name, found.values[name], kinds.get(name, 0), name in taken)
    outputs = {value.name for value in graph.output}
    passed = [name for name in outputs if name in found.static or name in kinds.keys() & {v.name for v in graph.input}]
    renamed = {name: f"{name}:given" for name in passed if name in found.static}
    tail += [helper.make_node("Identity", [renamed.get(name, name)], [name]) for name in passed]
    support, constants = _support(graph, found, [*taken, *passed])
    for node in support:
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in constants:
        tensor.name = renamed.get(tensor.name, tensor.name)
    return Ends(
        tuple(_fixed(value, graph.input) for value in _inputs(original.graph, graph)),
        tuple(_output(value, found) for value in original.graph.output),
        tuple(head),
        (*support, *tail, *found.beyond),
        tuple(constants),
        opset,
        {entry.key: entry.value for entry in original.metadata_props},
    )


def _restored(name: str, value: Value, kind: int, read: bool) -> Iterator[NodeProto]:
    """Nodes that make a value as the file has it of what the network returns."""
    kind = kind or _TYPES.get(value.one.dtype, TensorProto.FLOAT)
    size, axis, outer = value.shape[value.axis], value.axis, value.outer
    parts = [outer] * (outer > 1) + [-1] + [size // outer] * (size // outer > 1)
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    at = axis + (outer > 1)
    if at:
        order = [*range(1, at + 1), 0, *range(at + 1, len(value.shape) + len(parts) - 1)]
        steps.append(("Transpose", [], {"perm": order}))
    if len(parts) > 1:
        sizes = [-1 if place == axis else length for place, length in enumerate(value.shape)]
        made = helper.make_node(
            "Constant", [], [f"{name}:sizes"], value=numpy_helper.from_array(np.array(sizes, np.int64))
        )
        yield made
        steps.append(("Reshape", [f"{name}:sizes"], {}))
    if kind != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": kind}))
    if not steps and read:
        steps.append(("Identity", [], {}))
    now = name + OF_NETWORK
    for number, (op, more, attributes) in enumerate(steps, 1):
        result = name if number == len(steps) else f"{name}:{op.lower()}"
        yield helper.make_node(op, [now, *more], [result], **attributes)
        now = result


def _support(
    graph: onnx.GraphProto, found: Interpretation, names: Collection[str]
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Constants that a tail reads, and the nodes that make them."""
    wanted = {name for name in names if name in found.static}
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    for node in reversed(graph.node):
        if not wanted.intersection(node.output):
            continue
        if all(name in found.static for name in names_read(node) if name):
            made = NodeProto()
            made.CopyFrom(node)
            nodes.insert(0, made)
            wanted.update(names_read(node))
        else:  # the shape of a value
            constants.append(numpy_helper.from_array(found.static[node.output[0]].numpy(), node.output[0]))
    for tensor in graph.initializer:
        if tensor.name in wanted:
            made_of = TensorProto()
            made_of.CopyFrom(tensor)
            constants.append(made_of)
    return nodes, constants


def _inputs(original: onnx.GraphProto, graph: onnx.GraphProto) -> list[ValueInfoProto]:
    names = {value.name for value in graph.input}
    return [value for value in original.input if value.name in names]


def _fixed(value: ValueInfoProto, now: Collection[ValueInfoProto]) -> ValueInfoProto:
    """An input, whose open sizes but the batch are what they are fixed to."""
    made = ValueInfoProto()
    made.CopyFrom(value)
    fixed = next(one for one in now if one.name == value.name)
    dims = made.type.tensor_type.shape.dim
    if not made.type.tensor_type.HasField("shape"):
        for place, dim in enumerate(fixed.type.tensor_type.shape.dim):
            dims.add().CopyFrom(dim)
            if place == 0:
                dims[0].dim_param = "batch"
        return made
    for place, dim in enumerate(fixed.type.tensor_type.shape.dim):
        if place == 0:
            _open(dims[0])
        else:
            dims[place].dim_value = dim.dim_value
    return made


def _output(value: ValueInfoProto, found: Interpretation) -> ValueInfoProto:
    """An output, whose open sizes but the batch are those that were found."""
    made = ValueInfoProto()
    made.CopyFrom(value)
    dims = made.type.tensor_type.shape.dim
    place = found.values.get(value.name)
    if place is None:
        return made
    if not made.type.tensor_type.HasField("shape") or len(dims) != len(place.shape):
        del dims[:]
        for _ in place.shape:
            dims.add()
    for axis, size in enumerate(place.shape):
        if dims[axis].dim_value > 0:
            continue
        if axis == place.axis:
            _open(dims[axis])
        else:
            dims[axis].dim_value = size
    return made


def _open(dim: onnx.TensorShapeProto.Dimension) -> None:
    """A size that is any, with the name that it has."""
    if dim.dim_value <= 0 and not dim.dim_param:
        dim.dim_param = "batch"
