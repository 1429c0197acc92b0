"""A ReLU or clip behind another becomes one clip."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from edgeq.ir.graph import Graph
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS


def merged_clips(graph: Graph) -> Graph:
    """Merge a ReLU or clip with the one that it reads: the same network, with the lower of both bounds.

    Where something else reads the first of both, it stays, and the second goes only if its bound is no lower.
    """
    uses, kept = graph.uses(), dict[str, Node]()
    alias: dict[str, str] = {}
    for node in graph.nodes:
        inputs = tuple(alias.get(name, name) for name in node.inputs)
        made, before = replace(node, inputs=inputs), kept.get(inputs[0])
        if before is not None and OPS[before.op].clipping and OPS[node.op].clipping:
            lower = min(before, made, key=_bound)
            if uses[before.name] == 1:
                made = replace(lower, name=node.name, inputs=before.inputs)
                del kept[before.name]
            elif lower is before and node.name not in graph.returned:
                alias[node.name] = before.name
                uses[before.name] += uses[node.name] - 1
                continue
        kept[node.name] = made
    return replace(graph, nodes=tuple(kept.values()))


def _bound(node: Node) -> float:
    """The largest value that a ReLU or clip lets through."""
    return float(node.attrs.get("max", inf))
