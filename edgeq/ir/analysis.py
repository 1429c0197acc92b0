"""Analysis of a graph: blocks, residual inputs, quantizer groups, float outputs."""

from __future__ import annotations

from collections.abc import Container, Iterable

from edgeq.errors import ArtifactError
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.ops.registry import OPS


def cuts(graph: Graph) -> tuple[str, ...]:
    """The values that every path passes through: the outputs of the blocks that the network is made of.

    The logits and what is made of them are no cuts. Neither is a value that an activation or a grouped convolution
    reads, because its block goes on.
    """
    left, alive, found = graph.uses(), {INPUT}, []
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
    outside = {graph.logits, *(node.name for node in graph.tail())}
    return tuple(name for name in found if name not in inside | outside)


def residual_inputs(graph: Graph) -> dict[str, str]:
    """The residual input of each layer whose output only an addition reads: the summand that is computed before."""
    uses, done = graph.uses(), {INPUT: graph.input_shape}
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


def quantizer_groups(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Return the values that get an activation quantizer, grouped by those that must share one scale.

    Every value is quantized except those that only one ReLU reads, pixels that get a border, which are bytes
    already, and what passes between operators in float. What a ReLU makes or is only moved is quantized even then.
    A max pooling or a concatenation computes nothing new, so it shares the scale of its inputs: the runtime then
    moves bytes instead of requantizing them. But if only some inputs of a concatenation come from a ReLU, these
    have a scale of their own, because a quantizer with levels for negative values does not clip as a ReLU does.
    """
    uses = graph.uses()
    absorbed = {node.inputs[0] for node in graph.nodes if OPS[node.op].clipping and uses[node.inputs[0]] == 1}
    absorbed -= {node.name for node in graph.nodes if OPS[node.op].same_scale or OPS[node.op].clipping} | {INPUT}
    absorbed |= {name for node in graph.nodes if node.op == "border" for name in node.inputs}
    absorbed |= _within_islands(graph)
    leader = {name: name for name in (INPUT, *(node.name for node in graph.nodes)) if name not in absorbed}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    clipped: set[str] = set()
    for node in graph.nodes:
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
    """The float outputs: what stays float because the network returns it.

    These are the nodes behind the logits, a float operator that makes the output, and what moves or averages values
    on the way to the logits. An average over a map lies between the levels of the map; in uint8, many averages
    would be equal.
    """
    nodes, uses = {node.name: node for node in graph.nodes}, graph.uses()
    found = {node.name for node in graph.tail()} | {node.name for node in graph.nodes[-1:] if node.op == "float"}
    if graph.logits not in nodes:
        return frozenset(found)
    node = nodes[graph.logits]
    while uses[node.name] == 1 and (OPS[node.op].same_scale or OPS[node.op].averaging):
        found.add(node.name)
        if node.op != "flatten" or node.inputs[0] not in nodes:
            break
        node = nodes[node.inputs[0]]
    return frozenset(found)


def _within_islands(graph: Graph) -> set[str]:
    """The values that only pass from nodes computed in float to nodes computed in float."""
    readers: dict[str, set[str]] = {node.name: set() for node in graph.nodes}
    for node in graph.nodes:
        for name in {*node.inputs} - {INPUT}:
            readers[name].add(node.name)
    fixed = {node.name for node in graph.nodes if node.op == "float"} | {node.name for node in graph.tail()}
    island = fixed | {node.name for node in graph.nodes if OPS[node.op].in_islands}
    while leaving := {
        node.name
        for node in graph.nodes
        if node.name in island - fixed and not (island.issuperset(node.inputs) and readers[node.name] <= island)
    }:
        island -= leaving
    return {name for name in island if readers[name] and readers[name] <= island and name != graph.output}
