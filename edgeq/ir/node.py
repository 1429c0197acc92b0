"""One operation of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: unique; for a layer with weights the name of its module, such as `features.0.0`.
        op: the name of one of `edgeq.ir.ops.registry.OPS`.
        inputs: names of nodes, or `edgeq.ir.graph.INPUT`.
        shape: shape of the output without the batch dimension.
        attrs: the op's own parameters, such as `stride`; JSON values only.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the node as JSON values."""
        return {"name": self.name, "op": self.op, "inputs": list(self.inputs), "shape": list(self.shape), **self.attrs}

    @staticmethod
    def from_dict(body: Mapping[str, Any]) -> Node:
        """Inverse of `to_dict`."""
        attrs = {k: v for k, v in body.items() if k not in ("name", "op", "inputs", "shape")}
        return Node(body["name"], body["op"], tuple(body["inputs"]), tuple(body["shape"]), attrs)
