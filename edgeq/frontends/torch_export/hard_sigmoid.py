"""Hard sigmoids and hard swishes that a network writes out, as `x * relu6(x + 3) / 6`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from math import isclose
from typing import NamedTuple

from torch import Tensor

from edgeq.frontends.torch_export.fold import Traced
from edgeq.ir.node import Node


class Line(NamedTuple):
    """`factor * x + shift` of a value `x`, the same for all channels."""

    factor: float
    shift: float
    x: str


def hard_sigmoids(traced: Traced) -> Traced:
    """Make one node of a product, a sum and a clip that are `clip(x / 6 + 1 / 2, 0, 1)`, and of `x` times that.

    A clip of `x / 6 + 1 / 2` by itself stays one where nothing else reads `x`: the layer before computes it.

    Returns:
        A network that computes the same; what makes a hard sigmoid is named after it.
    """
    found = _Pattern(traced.nodes, traced.affines)
    uses = Counter(name for node in traced.nodes for name in node.inputs)
    uses.update(output.value for output in traced.outputs)
    made: list[Node] = []
    names: dict[str, str] = {}
    for node in traced.nodes:
        op, x = found.gate(node)
        if op and (node.op == "affine" or uses[x] > 1):
            path = node.name.rpartition(":")[0] or node.name
            path = path.removesuffix(path.rpartition(".")[2]) + op
            taken = {n.name for n in (*traced.nodes, *made)}
            names[node.name] = next(n for n in chain([path], (f"{path}:{i}" for i in count(2))) if n not in taken)
            made.append(replace(node, name=names[node.name], op=op, inputs=(names.get(x, x),), attrs={}))
        else:
            made.append(replace(node, inputs=tuple(names.get(name, name) for name in node.inputs)))
    outputs = tuple(replace(one, value=names.get(one.value, one.value)) for one in traced.outputs)
    return replace(traced, nodes=_needed(made, {one.value for one in outputs}), outputs=outputs)


class _Pattern:
    """Looks for hard sigmoids among nodes."""

    def __init__(self, nodes: Sequence[Node], affines: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self.nodes, self.affines = {node.name: node for node in nodes}, affines

    def gate(self, node: Node) -> tuple[str, str]:
        """The op that a node is the end of, and its input; two empty names if it is none."""
        if node.op == "clip":
            return self._of_clip(node.name, 1.0)
        line = self._line(node.name)
        source = self.nodes.get(line.x)
        if node.op != "affine" or line.shift != 0 or source is None:
            return "", ""
        if source.op == "mul":
            for name, x in (source.inputs, source.inputs[::-1]):
                if self._of_clip(name, line.factor) == ("hardsigmoid", x):
                    return "hardswish", x
        return self._of_clip(line.x, line.factor)

    def _of_clip(self, name: str, scale: float) -> tuple[str, str]:
        """Whether `scale` times a node is a hard sigmoid, and of what."""
        node = self.nodes.get(name)
        if node is None or node.op != "clip":
            return "", ""
        line = self._line(node.inputs[0])
        numbers = zip((line.factor, line.shift, node.attrs["max"]), (1 / 6, 1 / 2, 1.0), strict=True)
        same = all(isclose(scale * number, wanted, rel_tol=1e-5) for number, wanted in numbers)
        return ("hardsigmoid", line.x) if same else ("", "")

    def _line(self, name: str) -> Line:
        """A value as a multiple of the first one behind which there are only affine nodes, and a number."""
        factor, shift = 1.0, 0.0
        while name in self.nodes and self.nodes[name].op == "affine":
            factors, shifts = self.affines[name]
            if not ((factors == factors[0]).all() and (shifts == shifts[0]).all()):
                break
            shift += factor * float(shifts[0])
            factor *= float(factors[0])
            (name,) = self.nodes[name].inputs
        return Line(factor, shift, name)


def _needed(nodes: Sequence[Node], outputs: set[str]) -> tuple[Node, ...]:
    needed = set(outputs)
    for node in reversed(nodes):
        needed |= {*node.inputs} if node.name in needed else set()
    return tuple(node for node in nodes if node.name in needed)
