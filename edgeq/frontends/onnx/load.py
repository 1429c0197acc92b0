"""From an ONNX file to a float `Network`, and what stands around it in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import onnx

from edgeq.errors import UnsupportedError
from edgeq.frontends.onnx.ends import Ends, cut, ends_of, returned
from edgeq.frontends.onnx.interpret import Interpretation
from edgeq.frontends.onnx.module import OnnxModule
from edgeq.frontends.onnx.patterns import named
from edgeq.frontends.onnx.read import check_domains, opset_of, read
from edgeq.frontends.onnx.shapes import folded, shapes_of
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network


@dataclass(frozen=True)
class Imported:
    """A network that was read from an ONNX file.

    Attributes:
        network: float; its inputs and outputs are named as in the file.
        ends: what stands around it in the file.
        sha256: of the file, with its external data.
        notes: what the user should know, a line each.
    """

    network: Network
    ends: Ends
    sha256: str
    notes: tuple[str, ...]


def load(
    path: Path,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    tasks: str | Mapping[str, str] | None = None,
) -> Imported:
    """Read an ONNX file.

    Args:
        path: of opset 9 to 22, in float.
        input_shapes: of inputs whose size the file leaves open, without the batch, by their names.
        tasks: see `edgeq.frontends.torch_export.trace.trace`; by the names of outputs in the file.

    Raises:
        ArtifactError: no ONNX file, damaged, or its external data is missing or outside of its folder.
        UnsupportedError: a quantized file, one without layers, of another opset, with custom operators; sizes that stay
            open or contradict the file; an operator that edgeq does not know, and that layers depend on.
        WeightsError: a weight that is NaN or infinite.
    """
    path = Path(path)
    model, digest = read(path)
    shapes = shapes_of(path, model.graph, input_shapes or {})
    plain = named(folded(path, model, shapes))
    check_domains(path, plain.graph)
    _name_nodes(plain.graph)
    try:
        found, network = _traced(plain.graph, opset_of(plain), shapes, tasks)
    except UnsupportedError as error:
        raise UnsupportedError(f"{path}: {error}") from error
    ends = ends_of(model, plain, found, opset_of(plain))
    return Imported(network, ends, digest, tuple(_notes(ends, found)))


def _traced(
    graph: onnx.GraphProto, opset: int, shapes: Mapping[str, tuple[int, ...]], tasks: str | Mapping[str, str] | None
) -> tuple[Interpretation, Network]:
    """The network, up to what the tracer cannot follow behind its last layers."""
    beyond: set[str] = set()
    while True:
        found = cut(graph, opset, shapes, beyond)
        outputs = returned(graph, found)
        module = OnnxModule(found, list(shapes), outputs)
        try:
            network = trace(module, tuple(shapes.values()), tasks=_by_number(tasks, outputs))
        except UnsupportedError as error:
            node = module.paths.get(error.layer)
            if node is None or node in found.needed:
                raise
            beyond.add(node)
        else:
            return found, _renamed(network, list(shapes), outputs)


def _by_number(tasks: str | Mapping[str, str] | None, outputs: list[str]) -> str | dict[str, str] | None:
    """Tasks by the names that the tracer has for outputs."""
    if tasks is None or isinstance(tasks, str):
        return tasks
    if unknown := [name for name in tasks if name not in outputs]:
        raise UnsupportedError(f"tasks: no output {unknown[0]}; expected one of {', '.join(outputs)}")
    if len(outputs) == 1:
        return tasks.get(outputs[0])
    return {f"output{number}": tasks[name] for number, name in enumerate(outputs) if name in tasks}


def _renamed(network: Network, inputs: list[str], outputs: list[str]) -> Network:
    """With the names that inputs and outputs have in the file."""
    graph = network.graph
    taken = [replace(one, name=name) for one, name in zip(graph.inputs, inputs, strict=True)]
    made = [replace(one, name=name) for one, name in zip(graph.outputs, outputs, strict=True)]
    return network.with_graph(replace(graph, inputs=tuple(taken), outputs=tuple(made)))


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own: that of the file, or that of what it makes."""
    taken: set[str] = set()
    for number, node in enumerate(graph.node):
        path = node.name or next((name for name in node.output if name), f"{node.op_type}_{number}")
        node.name = next(name for name in chain([path], (f"{path}:{i}" for i in count(2))) if name not in taken)
        taken.add(node.name)


def _notes(ends: Ends, found: Interpretation) -> list[str]:
    notes = []
    if found.beyond:
        kinds = ", ".join(dict.fromkeys(node.op_type for node in found.beyond))
        notes.append(f"{len(found.beyond)} nodes behind the last layers stay as they are in the file: {kinds}")
    if found.floating:
        notes.append(
            f"{len(found.floating)} layers depend on how much is found in an image and stay in float: "
            f"{', '.join(found.floating)}"
        )
    if ends.head:
        notes.append(f"inputs are converted to float first: {', '.join(node.input[0] for node in ends.head)}")
    return notes
