"""From an ONNX file to a float `Network` and what stands around it in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import onnx

from edgeq.errors import UnsupportedError
from edgeq.frontends.onnx.ends import Ends, cut
from edgeq.frontends.onnx.module import OnnxModule
from edgeq.frontends.onnx.read import check_domains, read
from edgeq.frontends.onnx.shapes import folded, input_shapes
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network


@dataclass(frozen=True)
class Imported:
    """A network that was read from an ONNX file.

    Attributes:
        network: float; its inputs and outputs are named as in the file.
        ends: what stands around it in the file.
        sha256: of the file and its external data.
        notes: what the user should know, a line each.
    """

    network: Network
    ends: Ends
    sha256: str
    notes: tuple[str, ...]


def load(
    path: Path,
    input_shapes_given: Mapping[str, tuple[int, ...]] | None = None,
    tasks: str | Mapping[str, str] | None = None,
) -> Imported:
    model, digest = read(path)
    shapes = input_shapes(path, model.graph, input_shapes_given or {})
    plain = folded(path, model, shapes)
    check_domains(path, plain.graph)
    _name_nodes(plain.graph)
    opset = next(one.version for one in plain.opset_import if one.domain in ("", "ai.onnx"))
    found = cut(plain.graph, opset, shapes)
    module = OnnxModule(found, list(shapes), [v.name for v in plain.graph.output])
    network = trace(module, tuple(shapes.values()))
    return network, module


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for number, node in enumerate(graph.node):
        path = node.name or next((name for name in node.output if name), f"{node.op_type}_{number}")
        node.name = next(name for name in chain([path], (f"{path}:{i}" for i in count(2))) if name not in taken)
        taken.add(node.name)
