"""A graph that runs: an op by its PyTorch function (`edgeq.ir.ops`), a layer by its module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.errors import ArtifactError, DataError
from edgeq.ir.graph import Graph
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.numerics.weights import QuantLayer
from edgeq.tasks import NO_CHANNELS, Channels
from edgeq.tasks.outputs import Tasks, tasks_of

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def with_gradients(stage: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Let a stage compute gradients even where its caller has switched them off (`torch.no_grad`, inference mode)."""

    @wraps(stage)
    def run(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        with torch.inference_mode(False), torch.enable_grad():
            return stage(*args, **kwargs)

    return run


def as_tensor(array: NDArray[Any]) -> Tensor:
    """An array as a tensor that shares its memory; a copy if it is read-only, which no tensor is."""
    return torch.from_numpy(np.require(array, requirements="W"))


def in_order(names: Sequence[str], inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The inputs of a call in the order of their names, whether they were given in order or by name.

    Raises:
        DataError: other inputs.
    """
    if len(inputs) + len(named) != len(names) or (named and {*named} != {*names}):
        given = ", ".join(named) or str(len(inputs))
        raise DataError(f"expected the inputs {', '.join(names)}, found {given}")
    return inputs or tuple(named[name] for name in names)


POINT: Final = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
"""Attributes of a convolution that only mixes channels."""


class Moments(NamedTuple):
    """What training has seen a value be: mean and standard deviation of every channel, both float32 `[channels]`."""

    mean: Tensor
    std: Tensor


class Network(nn.Module):
    """Runs a `Graph` on its inputs, `[batch, *shape]` each, float32 in and out; passes may make it take uint8.

    The same class runs the float network (layers are `nn.Conv2d`) and the packed one (layers are those of
    `edgeq.packed`).

    Args:
        graph: what to run.
        layers: the module of every node whose op is computed by one (`Op.has_module`), by the node's name.
        trained: what batch norms say of values, by the node's name; those of nodes that are not in the graph are left
            out. Files do not keep it.
        original: the float network that this one was made of, which its values are compared with; None if there is
            none, or it is unknown. Files do not keep it.

    Raises:
        ArtifactError: a node lacks its module.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Mapping[str, nn.Module],
        trained: Mapping[str, Moments] | None = None,
        original: Network | None = None,
    ) -> None:
        super().__init__()
        names = [node.name for node in graph.nodes if OPS[node.op].has_module]
        if missing := [name for name in names if name not in layers]:
            raise ArtifactError(f"layer {missing[0]}: its weights are missing")
        self.graph = graph
        # Module names may not hold dots; a layer is registered under the number of its node.
        self._keys = {node.name: str(i) for i, node in enumerate(graph.nodes)}
        self.layers = nn.ModuleDict({self._keys[name]: layers[name] for name in names})
        self.trained = {node.name: trained[node.name] for node in graph.nodes if trained and node.name in trained}
        self._original = (original,)  # in a tuple, as a module would become a part of this one
        last_use = {name: node.name for node in graph.nodes for name in node.inputs}
        self._frees: dict[str, list[str]] = {}
        for value, user in last_use.items():
            self._frees.setdefault(user, []).append(value)

    @property
    def original(self) -> Network | None:
        """The float network that this one was made of, if it is known."""
        return self._original[0]

    def last_reads(self, node: Node) -> Sequence[str]:
        """The values that no node after this one reads."""
        return self._frees.get(node.name, ())

    def layer(self, name: str) -> nn.Module:
        """The module of one node."""
        return self.layers[self._keys[name]]

    def convolution(self, name: str) -> nn.Conv2d:
        """The module of one layer of a float network."""
        return cast(nn.Conv2d, self.layer(name))

    def with_graph(self, graph: Graph) -> Network:
        """A network of the same layers."""
        return Network(graph, {n.name: self.layer(n.name) for n in graph.nodes if OPS[n.op].has_module}, self.trained)

    def weight_and_bias(self, name: str) -> tuple[Tensor, Tensor]:
        """Float weight and bias of one layer of a float network."""
        layer = self.convolution(name)
        return layer.weight.detach(), cast(Tensor, layer.bias).detach()

    def run(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Compute one node from the values of its inputs."""
        run = OPS[node.op].run
        return cast(Tensor, self.layer(node.name)(*inputs)) if run is None else run(inputs, node.attrs)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run all nodes; one output is returned as it is, several as a tuple.

        Args:
            inputs: in the order of the graph.
            named: instead, by their names.

        Raises:
            DataError: other inputs.
        """
        inputs = in_order([one.name for one in self.graph.inputs], inputs, named)
        wanted = [output.value for output in self.graph.outputs]
        values = self.values(inputs, wanted)
        found = tuple(values[name] for name in wanted)
        return found if len(found) > 1 else found[0]

    def answers(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The values by which each output is judged (`Graph.answers`)."""
        values = self.values(inputs, self.graph.answers)
        return tuple(values[name] for name in self.graph.answers)

    def tasks(self, channels: Mapping[str, Channels]) -> Tasks:
        """The tasks of the outputs, from the channels of those that are regression, by the name of the output."""
        graph, shapes = self.graph, self.graph.shapes()
        return tasks_of(
            [
                (one.task, shapes[answer], graph.class_axis(one.value), channels.get(one.name, NO_CHANNELS))
                for one, answer in zip(graph.outputs, graph.answers, strict=True)
            ]
        )

    def values(self, inputs: Sequence[Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
        """Run the nodes that some values need; any other value is dropped as soon as nothing needs it any more."""
        needed, values = self.graph.sources(wanted), dict(zip(self.graph.input_values, inputs, strict=True))
        for node in self.graph.nodes:
            if node.name in needed:
                values[node.name] = self.run(node, [values[name] for name in node.inputs])
            for name in self.last_reads(node):
                if name not in wanted:
                    values.pop(name, None)
        return values


def float_layer(node: Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The module that computes a node in float, such as an `nn.Conv2d`; a missing bias becomes zeros.

    Args:
        node: its op has a weight and a bias; it gives the geometry.
        weight: float32, `[out, in / groups, height, width]` or `[channels]`.
        bias: float32 `[out]`.

    Raises:
        ArtifactError: the op has none.
    """
    make = OPS[node.op].module
    if make is None:
        raise ArtifactError(f"node {node.name}: a {node.op} has no weight and bias")
    if weight.dim() == 4:
        # Convolutions over channels-last maps run several times faster on CPUs.
        weight = weight.contiguous(memory_format=torch.channels_last)
    layer = make(node, weight)
    bias = torch.zeros(node.shape[0], dtype=torch.float32) if bias is None else bias
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer


def rounded_layer(node: Node, layer: QuantLayer) -> nn.Module:
    """The float layer that computes with rounded weights."""
    return float_layer(node, torch.from_numpy(layer.weight.dequantize()), as_tensor(layer.bias))
