"""Quantizers wherever a value is stored in uint8."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from edgeq.ir.analysis import float_outputs, quantizer_groups, require_ranges, returned_joins
from edgeq.ir.graph import Graph
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.ir.passes.hard_sigmoid import from_minus_three, on_levels
from edgeq.numerics.activations import ActivationRange


def with_quantizers(graph: Graph, ranges: Mapping[str, ActivationRange], in_float: Container[str] = ()) -> Graph:
    """Insert a `quantize` node behind every value that is stored in uint8, and drop the ReLUs it performs itself.

    A hard swish of a value whose lowest level is -3 becomes a product with a hard sigmoid, which integers can do.

    Args:
        graph: of the float network.
        ranges: of every value that gets a quantizer.
        in_float: those of these values that stay float all the same.
    """
    shapes = graph.shapes()
    points, floats = {name for group in quantizer_groups(graph) for name in group}, float_outputs(graph)
    require_ranges(points, ranges)
    points -= on_levels(graph, ranges) | {name for name in points if name in in_float}
    current = {name: name for name in graph.input_values}  # where the value of an original node is now found
    # What is returned in float reads an input as it came, and the parts of a concatenation in their own scales.
    exact = {*graph.input_values, *returned_joins(graph)}
    made: list[Node] = []

    def quantize(name: str, source: str) -> None:
        current[name] = f"{name}.q"
        found = ranges[name]
        attrs = {"scale": found.scale, "zero_point": found.zero_point}
        made.append(Node(current[name], "quantize", (source,), shapes[name], attrs))

    for name in graph.input_values:
        if name in points:
            quantize(name, name)
    for node in graph.nodes:
        source = node.name
        reads = tuple(n if node.name in floats and n in exact else current[n] for n in node.inputs)
        quantized = points.intersection((node.name, *node.inputs))
        if OPS[node.op].clipping and quantized == {node.name} and _clips(ranges[node.name], node):
            source = current[node.inputs[0]]
        elif node.op == "hardswish" and node.name in points and from_minus_three(ranges[node.inputs[0]]):
            x, gate = current[node.inputs[0]], f"{node.name}.hardsigmoid"
            made.append(Node(gate, "hardsigmoid", (x,), node.shape))
            made.append(Node(node.name, "mul", (x, gate), node.shape))
        else:
            made.append(replace(node, inputs=reads))
        current[node.name] = source
        if node.name in points:
            quantize(node.name, source)
    outputs = (replace(one, value=one.value if one.value in exact else current[one.value]) for one in graph.outputs)
    return replace(graph, nodes=tuple(made), outputs=tuple(outputs))


def _clips(found: ActivationRange, node: Node) -> bool:
    """Whether a quantizer of this range does what the ReLU or clip before it does."""
    return found.zero_point == 0 and found.high <= node.attrs.get("max", float("inf")) * (1 + 1e-6)
