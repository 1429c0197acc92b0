"""What edgeq knows of an operator: one entry, from the ATen call that becomes it to its ONNX form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.ir.node import Node


class Writer(Protocol):
    """What writes an ONNX graph, as far as an op needs it; ONNX values are known by their names."""

    def node(
        self, op: str, inputs: Sequence[str], output: str | None = None, *, outputs: int = 1, **attributes: Any
    ) -> str:
        """Append an ONNX node and return the name of its first output; without `output`, a new name.

        Its other outputs are that name with `.1`, `.2` behind it.
        """

    def constant(self, name: str, array: NDArray[Any], shared: bool = True) -> str:
        """The name of an initializer of these values: a new one, or if shared an equal one that is there already."""

    def shared(self, name: str, write: Callable[[], None]) -> str:
        """The name of a value that several layers read: `write` appends what makes it, unless it is there."""

    def value(self, name: str) -> str:
        """The ONNX name of what a node of the graph computes."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of what a node of the graph computes, without the batch dimension."""

    def call(self, op: str, node: Node, *extra: str, **attributes: Any) -> None:
        """Append the one ONNX node that a node of the graph becomes; it reads the node's inputs, then `extra`."""

    def write(self, node: Node, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Append the ONNX node that makes the value of a node of the graph."""

    def prefix(self, node: Node) -> str:
        """What the constants of a node are named after; of one that a pass added, the node that it is a part of."""

    @property
    def count(self) -> int:
        """Nodes so far."""

    def parameters(self, node: Node) -> tuple[str, str]:
        """The names of a layer's weight, in float32, and of its bias."""


Run = Callable[[Sequence[Tensor], Mapping[str, Any]], Tensor]
"""Computes the output of a node from its inputs `[batch, ...]` and its attributes."""

FromCall = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""The attributes of the node that an ATen call becomes, from the arguments of the call by name; None if the call
becomes something else. Parameters and constants of the network are float32 tensors; the computed value is `input`."""

ToOnnx = Callable[[Writer, Node], object]
"""Writes a node of the graph as ONNX nodes."""


@dataclass(frozen=True)
class Op:
    """One operator of the graphs.

    Attributes:
        name: as nodes and files have it.
        run: how PyTorch computes it; None if a module of the network does (`edgeq.ir.network.Network.layer`).
        module: makes that module, in float, for a node and a weight, both of whose values are set afterwards; None
            where it is made in another way.
        aten: the ATen calls that become this op as they are, see `FromCall`; if several ops name a call, at most one
            takes it. Calls that need more than one node or more than their arguments have a rule in
            `edgeq.frontends.torch_export`.
        onnx: the name of the ONNX operator that computes the same without attributes, or a function that writes it;
            None where a rule of `edgeq.exporters.onnx` needs to know more than the node, or files never have the op.
        opset: of ONNX that has this form.
        weighted: its weights are quantized.
        same_scale: it moves values and computes no new ones but zeros, so its output shares the quantization of its
            inputs.
        clipping: an activation that an unsigned quantizer with zero point 0 performs by itself.
        pointwise: every value of the output comes from the same one of the one input, and `[n, channels]` is computed
            as `[n, channels, 1, 1]` is.
        averaging: the output has values between those of the input.
        in_islands: computed in float where everything around is, without quantizers in between.
        in_float: why runtimes compute it in float where everything around is in integers; None if they do not.
    """

    name: str
    run: Run | None = None
    module: Callable[[Node, Tensor], nn.Module] | None = None
    aten: Mapping[str, FromCall] = field(default_factory=dict)
    onnx: str | ToOnnx | None = None
    opset: int = 17
    weighted: bool = False
    same_scale: bool = False
    clipping: bool = False
    pointwise: bool = False
    averaging: bool = False
    in_islands: bool = False
    in_float: str | None = None

    @property
    def has_module(self) -> bool:
        """Whether a module of the network computes it."""
        return self.run is None


def as_it_is(_: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call that always becomes an op without attributes."""
    return {}
