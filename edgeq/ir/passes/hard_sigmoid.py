"""Hard sigmoids without leaving uint8, and with them hard swishes, `x * hard_sigmoid(x)`.

A hard sigmoid is `clip(x + 3, 0, 6) / 6`. If the lowest level of `x` is -3, a code `c` stands for `scale * c - 3`, and
its hard sigmoid is `scale / 6 * min(c, 6 / scale)`: the same bytes, clipped, with another scale. For that, 3 has to be
a whole number of steps. Nothing is lost: both functions are 0 for all that is below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeq.ir.analysis import float_outputs, quantizer_groups
from edgeq.ir.graph import Graph
from edgeq.ir.node import Node
from edgeq.numerics.activations import ActivationRange


def fitted(graph: Graph, ranges: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
    """Move the lowest level of what is read by a hard sigmoid or hard swish alone to -3.

    The levels of such a hard sigmoid are then those of its input, a sixth as far apart.

    Args:
        graph: of the float network.
        ranges: of every value that gets a quantizer.
    """
    alone, uses, found = _alone(graph) - {*graph.input_values}, graph.uses(), dict(ranges)
    floats = float_outputs(graph)
    for node in graph.nodes:
        if node.op not in ("hardsigmoid", "hardswish") or node.name in floats:
            continue
        if (source := node.inputs[0]) in alone and uses[source] == 1:
            high = ranges[source].high if node.op == "hardswish" else min(ranges[source].high, 3.0)
            if steps := int(255 * 3 / (3 + high)):
                found[source] = _range(3 / steps, steps)
                if node.op == "hardsigmoid" and node.name in alone:
                    found[node.name] = _range(found[source].scale / 6, 0)
    return found


def from_minus_three(found: ActivationRange) -> bool:
    """Whether the lowest level of a range is -3."""
    return _is_three(found.scale, found.zero_point)


def on_levels(graph: Graph, ranges: Mapping[str, ActivationRange]) -> set[str]:
    """The hard sigmoids of a float network that need no quantizer, because their values are levels as they are."""
    alone = _alone(graph)
    gates = [node for node in graph.nodes if node.op == "hardsigmoid" and node.name in alone]
    return {node.name for node in gates if from_minus_three(ranges[node.inputs[0]])}


def clipping(graph: Graph) -> dict[str, Node]:
    """The hard sigmoids of a quantized network that clip bytes: by name, the quantizer whose lowest level is -3."""
    quantizers = {
        node.name: node
        for node in graph.nodes
        if node.op == "quantize" and _is_three(node.attrs["scale"], node.attrs["zero_point"])
    }
    gates = [node for node in graph.nodes if node.op == "hardsigmoid"]
    return {gate.name: quantizers[gate.inputs[0]] for gate in gates if gate.inputs[0] in quantizers}


def on_codes(graph: Graph) -> Graph:
    """Compute the hard sigmoids of a quantized network on codes, where they can be (`clipping`).

    Returns:
        A graph in which each quantizer NAME that they read is `NAME.codes` in uint8, read as floats under its own name
        only where other nodes need those; and each such hard sigmoid is these codes, clipped, with another scale.
    """
    gates = clipping(graph)
    sources = {source.name for source in gates.values()}
    in_float = {name for node in graph.nodes if node.name not in gates for name in node.inputs}
    made: list[Node] = []
    for node in graph.nodes:
        if node.name in sources:
            made.append(replace(node, name=f"{node.name}.codes", op="to_codes"))
            if node.name in in_float:
                made.append(replace(node, op="dequantize", inputs=(f"{node.name}.codes",)))
        elif node.name in gates:
            made += _of_codes(node, gates[node.name])
        else:
            made.append(node)
    return replace(graph, nodes=tuple(made))


def _of_codes(gate: Node, source: Node) -> list[Node]:
    """A hard sigmoid of the codes of a quantizer whose lowest level is -3."""
    codes, highest = f"{source.name}.codes", 2 * source.attrs["zero_point"]
    clip = [Node(f"{gate.name}.clipped", "clip_codes", (codes,), gate.shape, {"max": highest})] if highest < 255 else []
    read = {"scale": source.attrs["scale"] / 6, "zero_point": 0}
    return [*clip, Node(gate.name, "dequantize", (clip[0].name if clip else codes,), gate.shape, read)]


def _range(scale: float, zero_point: int) -> ActivationRange:
    """All that uint8 covers with these, the scale rounded to float32."""
    scale = float(np.float32(scale))
    return ActivationRange(-zero_point * scale, (255 - zero_point) * scale, scale, zero_point)


def _alone(graph: Graph) -> set[str]:
    """The values that share their quantizer with no other."""
    return {group[0] for group in quantizer_groups(graph) if len(group) == 1}


def _is_three(scale: float, steps: int) -> bool:
    return abs(scale * steps - 3) < 1e-5
