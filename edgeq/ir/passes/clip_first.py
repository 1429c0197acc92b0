"""A ReLU or clip of values that were only moved becomes one of the layer that made them.

A transposed convolution is a layer, and what makes pixels of its channels; one over rows of values is a layer between
two views. An activation behind these would be computed by itself, from values with levels below 0. Right behind the
layer, its quantizer does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from edgeq.ir.graph import Graph
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS

_MOVES: Final = frozenset({"depth_to_space", "slice", "gather", "permute", "reshape"})


def clips_first(graph: Graph) -> Graph:
    """Let ReLUs and clips exchange places with what only moves values for them: the same network."""
    uses, nodes = graph.uses(), {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        if OPS[node.op].clipping and node.name not in graph.returned:
            first, *moves = _moved(node.inputs[0], nodes, uses)
            if moves and OPS[nodes[first].op].weighted:
                nodes = _behind(first, node, moves, nodes)
    return replace(graph, nodes=tuple(nodes.values()))


def _moved(name: str, nodes: Mapping[str, Node], uses: Mapping[str, int]) -> list[str]:
    """A value that is computed, and what moves it, each read once, to make this value."""
    node = nodes.get(name)
    if node is None or node.op not in _MOVES or uses[name] != 1 or uses[node.inputs[0]] != 1:
        return [name]
    return [*_moved(node.inputs[0], nodes, uses), name]


def _behind(first: str, clip: Node, moves: Sequence[str], nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes, with a clip that reads `first`, and read by the moves; what has read it reads the last move."""
    found: dict[str, Node] = {}
    for name, node in nodes.items():
        if name == moves[0]:
            found[clip.name] = replace(clip, inputs=(first,), shape=nodes[first].shape)
            found[name] = replace(node, inputs=(clip.name,))
        elif name != clip.name:
            found[name] = replace(node, inputs=tuple(moves[-1] if i == clip.name else i for i in node.inputs))
    return found
