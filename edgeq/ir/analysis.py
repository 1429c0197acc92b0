"""Analysis of a graph: blocks, residual inputs, quantizer groups, float outputs."""

from __future__ import annotations

from collections.abc import Container, Iterable
from math import inf, prod

from edgeq.errors import ArtifactError
from edgeq.ir.graph import Graph, Output
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS


def cuts(graph: Graph) -> tuple[str, ...]:
    """The values that every path passes through: the outputs of the blocks that the network is made of.

    The answers and what is made of them are no cuts. Neither is a value that an activation or a grouped convolution
    reads, because its block goes on.
    """
    left, alive, found = graph.uses(), {*graph.input_values}, list[str]()
    for node in graph.nodes:
        for name in node.inputs:
            left[name] -= 1
            if not left[name]:
                alive.discard(name)
        alive.add(node.name)
        if len(alive) == 1:
            found.append(node.name)
    inside = {
        name
        for node in graph.nodes
        if OPS[node.op].pointwise or node.attrs.get("groups", 1) > 1
        for name in node.inputs
    }
    outside = {*graph.answers, *(node.name for node in graph.behind_answers())}
    return tuple(name for name in found if name not in inside | outside)


def residual_inputs(graph: Graph) -> dict[str, str]:
    """The residual input of each layer whose output only an addition reads: the summand that is computed before."""
    uses, done = graph.uses(), {one.value: one.shape for one in graph.inputs}
    found = {}
    added = {node.inputs: node.shape for node in graph.nodes if node.op == "add"}
    for node in graph.nodes:
        if OPS[node.op].weighted and uses[node.name] == 1:
            for inputs, shape in added.items():
                others = [name for name in inputs if name != node.name and done.get(name) == shape]
                if node.name in inputs and others and node.shape == shape:
                    found[node.name] = others[0]
        done[node.name] = node.shape
    return found


def clipped_layers(graph: Graph) -> dict[str, float]:
    """The layers whose output only an activation such as ReLU6 reads, or an addition before one, with its maximum."""
    uses = graph.uses()
    readers = {name: node for node in graph.nodes for name in node.inputs if uses[name] == 1}
    found = {}
    for layer in graph.layers:
        reader = readers.get(layer.name)
        if reader and reader.op == "add":
            reader = readers.get(reader.name)
        if reader and OPS[reader.op].clipping:
            found[layer.name] = float(reader.attrs.get("max", inf))
    return found


def quantizer_groups(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Return the values that get an activation quantizer, grouped by those that must share one scale.

    Every value is quantized except those that only one ReLU reads, pixels that get a border, which are bytes
    already, what passes between operators in float, and the float outputs. What a ReLU makes or is only moved is
    quantized even then.
    A max pooling or a concatenation computes nothing new, so it shares the scale of its inputs: the runtime then
    moves bytes instead of requantizing them. But if only some inputs of a concatenation come from a ReLU, these
    have a scale of their own, because a quantizer with levels for negative values does not clip as a ReLU does.
    """
    uses, floats = graph.uses(), float_outputs(graph)
    clips = [node for node in graph.nodes if OPS[node.op].clipping and node.name not in floats]
    absorbed = {node.inputs[0] for node in clips if uses[node.inputs[0]] == 1}
    absorbed -= {node.name for node in graph.nodes if OPS[node.op].same_scale or OPS[node.op].clipping}
    absorbed -= {*graph.input_values}
    absorbed |= {name for node in graph.nodes if node.op == "border" for name in node.inputs}
    absorbed |= _within_islands(graph) | floats
    apart = returned_joins(graph)
    leader = {name: name for name in graph.shapes() if name not in absorbed}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    clipped: set[str] = set()
    for node in graph.nodes:
        op = OPS[node.op]
        if op.clipping or (op.same_scale and clipped.issuperset(node.inputs)):
            clipped.add(node.name)
        if op.same_scale and node.name not in apart:
            own = clipped if node.name not in clipped else set()
            together = [name for name in (*node.inputs, node.name) if name in leader and name not in own]
            for name in together:
                leader[find(name)] = find(together[0])
    groups: dict[str, list[str]] = {}
    for name in leader:
        groups.setdefault(find(name), []).append(name)
    return tuple(tuple(members) for members in groups.values())


def returned_joins(graph: Graph) -> frozenset[str]:
    """The concatenations that layers read and that are returned as well, or that float outputs are computed from.

    Their parts keep scales of their own, so what is returned is no coarser than each part is.
    """
    floats = float_outputs(graph)
    read = graph.returned | {name for node in graph.nodes if node.name in floats for name in node.inputs}
    return frozenset(n.name for n in graph.nodes if n.op == "cat" and n.name in read and n.name not in floats)


def require_ranges(names: Iterable[str], ranges: Container[str]) -> None:
    """Check that a record has the range of every one of these values.

    Raises:
        ArtifactError: it lacks one, so it is of another network.
    """
    if missing := [name for name in names if name not in ranges]:
        raise ArtifactError(f"the record has no range for {min(missing)}; calibrate this network again")


def stored_as(graph: Graph, name: str, ranges: Container[str]) -> str:
    """The value whose range a value is stored in: itself, or the activation that alone reads it.

    Args:
        name: of the value.
        ranges: the names of the values that have a range, see `quantizer_groups`.
    """
    while name not in ranges:
        name = next(node.name for node in graph.nodes if name in node.inputs)
    return name


def float_outputs(graph: Graph) -> frozenset[str]:
    """The float outputs: what stays float because no layer comes behind it, only what the network returns.

    Quantization ends with the last layers: the decoding of boxes, sums with an image, resizing, softmax and the like
    are computed in float from their outputs, and parts that differ in range never share a scale. So is an average over
    a map, whose values lie between the levels of the map; in uint8, many averages would be equal.
    """
    uses, layers = graph.uses(), {node.name for node in graph.layers}
    before = graph.sources(name for node in graph.layers for name in node.inputs)

    def performed(node: Node) -> bool:
        """Whether the quantizer of a layer performs it."""
        return OPS[node.op].clipping and node.inputs[0] in layers and uses[node.inputs[0]] == 1

    return frozenset(node.name for node in graph.nodes if node.name not in before | layers and not performed(node))


def regressed(graph: Graph) -> frozenset[str]:
    """The values of layers, after their activation, that outputs of the task regression are computed from in float.

    Class scores are not among them: what one scale cannot tell apart there, a softmax cannot either.
    """
    outputs = {one.value for one in graph.outputs if one.task == "regression"}
    floats, layers = float_outputs(graph), {node.name for node in graph.layers}
    read = {name for node in graph.nodes if node.name in floats & graph.sources(outputs) for name in node.inputs}
    clips = {node.name for node in graph.nodes if OPS[node.op].clipping and node.inputs[0] in layers}
    return frozenset((outputs | read) & (layers | clips) - floats)


def never_clipped(graph: Graph) -> frozenset[str]:
    """The answers, the outputs and what these are only moved from: their largest values are what counts."""
    found = {*graph.answers, *graph.returned}
    for node in reversed(graph.nodes):
        if node.name in found and OPS[node.op].same_scale:
            found |= {*node.inputs}
    return frozenset(found)


def usual_task(graph: Graph, output: Output) -> str:
    """The task of an output whose caller does not name one.

    Class scores are what ends in a softmax or an argmax, whose dimension is that of the classes of every position, or
    in the sigmoid of one channel, and the only output of a network if it is a vector. All else is regression, which
    assumes nothing.
    """
    shapes = graph.shapes()
    end, logits, shape = graph.ending(output.value), graph.logits(output.value), shapes[output.value]
    if end is None:
        return "classification" if len(graph.outputs) == 1 == len(shape) and shape[0] > 1 else "regression"
    channels, positions = shapes[logits][:1], shapes[logits][1:]
    by_class = channels and (channels == (1,) or prod(positions) == 1 or end.op == "float")
    return "classification" if by_class and graph.class_axis(output.value) >= 0 else "regression"


def _within_islands(graph: Graph) -> set[str]:
    """The values that only pass from nodes computed in float to nodes computed in float."""
    readers: dict[str, set[str]] = {name: set() for name in graph.shapes()}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].add(node.name)
    fixed = {node.name for node in graph.nodes if node.op == "float"} | float_outputs(graph)
    island = fixed | {node.name for node in graph.nodes if OPS[node.op].in_islands}
    while leaving := {
        node.name
        for node in graph.nodes
        if node.name in island - fixed and not (island.issuperset(node.inputs) and readers[node.name] <= island)
    }:
        island -= leaving
    inputs = {name for name in graph.input_values if readers[name] and readers[name] <= fixed}
    return inputs | {name for name in island - graph.returned if readers[name] and readers[name] <= island}
