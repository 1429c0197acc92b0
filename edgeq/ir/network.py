"""A graph that runs: one PyTorch function per op, one module per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.errors import ArtifactError
from edgeq.ir.graph import INPUT, KEPT_FLOAT, WEIGHTED, Graph, Node
from edgeq.numerics.weights import QuantLayer
from edgeq.tasks import TASKS
from edgeq.tasks.task import Task

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def with_gradients(stage: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Make a stage work where its caller has switched gradients off, as `torch.no_grad` or inference mode do."""

    @wraps(stage)
    def run(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        with torch.inference_mode(False), torch.enable_grad():
            return stage(*args, **kwargs)

    return run


def as_tensor(array: NDArray[Any]) -> Tensor:
    """An array as a tensor that shares its memory; a copy if it is read-only, which no tensor is."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _padded(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Put zeros before the last dimensions, and after them: `pads` are first all of the one, then all of the other."""
    count = len(pads) // 2
    return F.pad(x, [pads[i + side] for i in reversed(range(count)) for side in (0, count)])


def _bordered(x: Tensor, pads: Sequence[int], values: Sequence[float]) -> Tensor:
    """Put rows and columns on top, left, bottom and right of a map, of one value a channel."""
    top, left, bottom, right = pads
    rows, columns = x.shape[2:]
    colour = torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]
    whole = colour.expand(*x.shape[:2], top + rows + bottom, left + columns + right).contiguous()
    whole[:, :, top : top + rows, left : left + columns] = x
    return whole


FUNCTIONS: dict[str, Callable[[Sequence[Tensor], Mapping[str, Any]], Tensor]] = {
    "relu": lambda x, a: F.relu(x[0]),
    "clip": lambda x, a: x[0].clamp(0.0, a["max"]),
    "add": lambda x, a: x[0] + x[1],
    "mul": lambda x, a: x[0] * x[1],
    "cat": lambda x, a: torch.cat(list(x), dim=a["dim"]),
    "flatten": lambda x, a: x[0].flatten(1),
    "max_pool2d": lambda x, a: F.max_pool2d(x[0], a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil"]),
    "avg_pool2d": lambda x, a: F.avg_pool2d(
        x[0], a["kernel"], a["stride"], a["padding"], a["ceil"], a["count_padding"]
    ),
    "global_avg_pool": lambda x, a: x[0].mean(dim=(2, 3), keepdim=True),
    "slice": lambda x, a: x[0].narrow(a["dim"], a["start"], a["end"] - a["start"]),
    "gather": lambda x, a: x[0].index_select(a["dim"], torch.tensor(a["indices"], device=x[0].device)),
    "reshape": lambda x, a: x[0].reshape(len(x[0]), *a["sizes"]),
    "permute": lambda x, a: x[0].permute(a["dims"]),
    "pad": lambda x, a: _padded(x[0], a["pads"]),
    "border": lambda x, a: _bordered(x[0], a["pads"], a["values"]),
    "sigmoid": lambda x, a: torch.sigmoid(x[0]),
    "hardsigmoid": lambda x, a: F.hardsigmoid(x[0]),
    "hardswish": lambda x, a: F.hardswish(x[0]),
    "gelu": lambda x, a: F.gelu(x[0]),
    "leaky_relu": lambda x, a: F.leaky_relu(x[0], a["slope"]),
    "tanh": lambda x, a: torch.tanh(x[0]),
}
"""The ops without parameters: `FUNCTIONS[op](inputs, attrs)`."""


WITH_MODULE = WEIGHTED | KEPT_FLOAT | {"float", "quantize"}
"""The ops that a module of the network performs."""

POINT: Final = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
"""Attributes of a convolution that only mixes channels."""


class Network(nn.Module):
    """Runs a `Graph` on `[batch, *graph.input_shape]`, float32 in and out.

    The same class runs the float network (layers are `nn.Conv2d` and `nn.Linear`) and the packed one (layers are
    those of `edgeq.packed`).

    Args:
        graph: what to run.
        layers: the module of every node whose op is in `WITH_MODULE`, by the node's name.

    Raises:
        ArtifactError: a node lacks its module.
    """

    def __init__(self, graph: Graph, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        names = [node.name for node in graph.nodes if node.op in WITH_MODULE]
        if missing := [name for name in names if name not in layers]:
            raise ArtifactError(f"layer {missing[0]}: its weights are missing")
        self.graph = graph
        # Module names may not hold dots; a layer is registered under the number of its node.
        self._keys = {node.name: str(i) for i, node in enumerate(graph.nodes)}
        self.layers = nn.ModuleDict({self._keys[name]: layers[name] for name in names})
        last_use = {name: node.name for node in graph.nodes for name in node.inputs}
        self._frees: dict[str, list[str]] = {}
        for value, user in last_use.items():
            self._frees.setdefault(user, []).append(value)

    def last_reads(self, node: Node) -> Sequence[str]:
        """The values that no node after this one reads."""
        return self._frees.get(node.name, ())

    def layer(self, name: str) -> nn.Module:
        """The module of one node."""
        return self.layers[self._keys[name]]

    def with_graph(self, graph: Graph) -> Network:
        """A network of the same layers."""
        return Network(graph, {node.name: self.layer(node.name) for node in graph.nodes if node.op in WITH_MODULE})

    def weight_and_bias(self, name: str) -> tuple[Tensor, Tensor]:
        """Float weight and bias of one layer of a float network."""
        layer = cast(nn.Conv2d | nn.Linear, self.layer(name))
        return layer.weight.detach(), cast(Tensor, layer.bias).detach()

    def run(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Compute one node from the values of its inputs."""
        if node.op in WITH_MODULE:
            return cast(Tensor, self.layer(node.name)(*inputs))
        return FUNCTIONS[node.op](inputs, node.attrs)

    def forward(self, x: Tensor) -> Tensor:
        """Run all nodes; a value is dropped as soon as nothing needs it any more."""
        return self._value(x, self.graph.output)

    @property
    def task(self) -> Task:
        """What the output means."""
        (output,) = self.graph.outputs
        return TASKS[output.task]

    def answers(self, x: Tensor) -> Tensor:
        """Run as far as the logits, and give them the form that the task takes."""
        return self.task.answers(self._value(x, self.graph.logits))

    def answer_shape(self) -> tuple[int, ...]:
        """The shape of `answers` for one image, without the batch dimension."""
        return self.task.shape(self.graph.shapes()[self.graph.logits])

    def _value(self, x: Tensor, wanted: str) -> Tensor:
        values = {INPUT: x}
        for node in self.graph.nodes:
            if wanted in values:
                break
            values[node.name] = self.run(node, [values[name] for name in node.inputs])
            for name in self.last_reads(node):
                del values[name]
        return values[wanted]


class ChannelNorm(nn.Module):
    """Normalizes the channels of every position of a map `[n, channels, height, width]`, as `nn.LayerNorm` does rows.

    Args:
        channels: of the map.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale and shift."""
        last = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


def float_layer(node: Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The `nn.Conv2d`, `nn.ConvTranspose2d`, `nn.Linear` or `ChannelNorm` of a node; a missing bias becomes zeros.

    Args:
        node: gives the geometry.
        weight: float32, `[out, in / groups, height, width]`, `[in, out / groups, height, width]`, `[out, in]` or
            `[channels]`.
        bias: float32 `[out]`.
    """
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear | ChannelNorm
    if node.op == "layer_norm":
        layer = ChannelNorm(len(weight), node.attrs["eps"])
    elif node.op == "linear":
        layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    else:
        # Convolutions over channels-last maps run several times faster on CPUs.
        weight = weight.contiguous(memory_format=torch.channels_last)
        first, second, rows, columns = weight.shape
        groups: int = node.attrs["groups"]
        if node.op == "conv_transpose2d":
            layer = nn.ConvTranspose2d(first, second * groups, (rows, columns), **node.attrs, device="meta")
        else:
            layer = nn.Conv2d(second * groups, first, (rows, columns), **node.attrs, device="meta")
    outputs = len(weight) if node.op == "linear" else node.shape[0]
    bias = torch.zeros(outputs, dtype=torch.float32) if bias is None else bias
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer


def rounded_layer(node: Node, layer: QuantLayer) -> nn.Module:
    """The float layer that computes with rounded weights."""
    return float_layer(node, torch.from_numpy(layer.weight.dequantize()), as_tensor(layer.bias))
