"""Batch norms and other scales and shifts of channels become part of the layers around them.

Where tracing has put an `affine` node, `factor * x + shift` for each channel, one of these takes its place:

- nothing, where it changes nothing;
- the layer before it, if nothing else reads that: its weights and its bias are multiplied, and the shift added; what
  makes pixels of channels may come between them, or takes a part of a map;
- the layer behind it, if nothing else comes between them but pooling and flattening, which exchange with it. A shift
  would not be there in the zeros that a convolution pads with, so with padding only a scale can go that way;
- a layer of its own, a depthwise convolution of 1x1; behind an operator in float, a product and a sum in float.

A selection of channels (`gather`) that one layer reads goes into its weights, too: what reads channel `i` of the
selection reads the channel that it comes from. Another order of the channels that become pixels goes into the weights
of the layer that makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final, cast

import torch
from torch import Tensor, nn

from edgeq.errors import WeightsError
from edgeq.ir.graph import Graph, Input, Output
from edgeq.ir.network import POINT, Moments, Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.ir.ops.registry import OPS

_VIEWS: Final = ("reshape", "flatten")
_MOVES: Final = (*_VIEWS, "permute", "slice", "gather")
_UNEVEN: Final = 8.0  # times, by which the channels of an input differ in range
_NOTHING: Final = 1e-6  # what a factor may differ from 1 by rounding


@dataclass(frozen=True)
class Traced:
    """A network as it was traced.

    Attributes:
        inputs: of the network.
        nodes: in order of execution; some are of the op `affine`, which networks do not have.
        outputs: of the network.
        layers: of the nodes with weights.
        affines: factor and shift of every `affine` node, both float32 `[channels]`.
        trained: what those of them that are batch norms say of their values.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    layers: Mapping[str, nn.Module]
    affines: Mapping[str, tuple[Tensor, Tensor]]
    trained: Mapping[str, Moments]


def assembled(traced: Traced) -> Network:
    """Make a network of what was traced."""
    folding = _Folding(traced)
    for node in traced.nodes:
        if node.op == "affine":
            folding.back(folding.nodes[node.name])
        elif node.op == "gather" and node.attrs["dim"] == 1:
            folding.reorder(folding.nodes[node.name])
    for node in reversed(list(folding.nodes.values())):
        if node.op == "affine" or (node.op == "gather" and node.attrs["dim"] == 1):
            folding.forward(node)
    return folding.network()


def _check_finite(name: str, layer: str, finite: Tensor) -> None:
    """Refuse a scale and shift that makes weights or a bias of a layer too large, by channel `[out]`."""
    if not finite.all():
        raise WeightsError(
            f"layer {name}: its scale and shift make the weights of {layer} infinite at channel "
            f"{int(finite.logical_not().nonzero()[0])}; expected results within float32"
        )


class _Folding:
    """The nodes that are left, in order, with their layers, and factor and shift of those that are affine."""

    def __init__(self, traced: Traced) -> None:
        self.inputs, self.outputs = traced.inputs, traced.outputs
        self.nodes = {node.name: node for node in traced.nodes}
        self.layers, self.affines, self.trained = dict(traced.layers), dict(traced.affines), dict(traced.trained)

    def returned(self, name: str) -> bool:
        return any(output.value == name for output in self.outputs)

    def shape(self, name: str) -> tuple[int, ...]:
        inputs = {one.value: one.shape for one in self.inputs}
        return inputs[name] if name in inputs else self.nodes[name].shape

    def readers(self, name: str) -> list[Node]:
        return [node for node in self.nodes.values() if name in node.inputs]

    def alone(self, name: str) -> bool:
        """Whether a value is read once, and by a node."""
        return len(self.readers(name)) == 1 and not self.returned(name)

    def drop(self, node: Node) -> None:
        """Remove a node of one input: its readers read that input instead."""
        (source,) = node.inputs
        for reader in self.readers(node.name):
            inputs = tuple(source if name == node.name else name for name in reader.inputs)
            self.nodes[reader.name] = replace(reader, inputs=inputs)
        del self.nodes[node.name]
        self.outputs = tuple(replace(o, value=source) if o.value == node.name else o for o in self.outputs)

    def back(self, node: Node) -> None:
        """Fold an affine node into the layer or affine node that it reads, if it can; drop it if it is a no-op."""
        (factor, shift), (source,) = self.affines[node.name], node.inputs
        made = self._maker(source)
        layer = self.layers.get(made)
        if self.alone(made) and isinstance(layer, nn.Conv2d):
            # Depth-to-space takes the channels of each pixel of a block in turn.
            factor, shift = (part.repeat(len(layer.weight) // len(part)) for part in (factor, shift))
            weight = layer.weight * factor.reshape(-1, 1, 1, 1)
            bias = cast(Tensor, layer.bias) * factor + shift
            _check_finite(node.name, made, weight.flatten(1).isfinite().all(1) & bias.isfinite())
            layer.load_state_dict({"weight": weight, "bias": bias})
            self._become(made, node)
        elif self.alone(source) and source in self.affines:
            first, added = self.affines[source]
            self.affines[source] = first * factor, added * factor + shift
            self._become(source, node)
            self.back(self.nodes[source])
        elif bool((factor - 1).abs().max() < _NOTHING) and not shift.any() and source in self.nodes:
            self.drop(node)

    def _become(self, made: str, node: Node) -> None:
        """Drop an affine node that another one computes, whose value is another one now."""
        self.trained.pop(made, None)
        if node.inputs == (made,) and node.name in self.trained:
            self.trained[made] = self.trained[node.name]
        self.drop(node)

    def reorder(self, node: Node) -> None:
        """Fold another order of channels that become pixels into the layer that makes them, if it can."""
        (made,), order = node.inputs, node.attrs["indices"]
        if [reader.op for reader in self.readers(node.name)] != ["depth_to_space"]:
            return
        while self.alone(made) and made in self.nodes and OPS[self.nodes[made].op].clipping:
            (made,) = self.nodes[made].inputs
        layer = self.layers.get(made)
        whole = sorted(order) == [*range(node.shape[0])]
        if self.alone(made) and whole and isinstance(layer, nn.Conv2d) and layer.groups == 1:
            layer.load_state_dict({"weight": layer.weight[order], "bias": cast(Tensor, layer.bias)[order]})
            self.trained.pop(made, None)
            self.drop(node)

    def _maker(self, name: str) -> str:
        """What makes the pixels of a map, each channel by itself, if nothing else reads them on the way."""
        while self.alone(name) and name in self.nodes and self._by_channel(self.nodes[name]):
            (name,) = self.nodes[name].inputs
        return name

    def _by_channel(self, node: Node) -> bool:
        """Whether a node takes pixels from channels, or makes them of channels; or is a view of the only pixel."""
        if node.op in _VIEWS:
            return node.shape[0] == prod(node.shape) == self.shape(node.inputs[0])[0]
        return node.op == "depth_to_space" or (node.op == "slice" and node.attrs["dim"] > 1 and len(node.shape) == 3)

    def forward(self, node: Node) -> None:
        """Fold an affine node or a gather of channels into the layer that reads it, if it can."""
        found = self._layer_behind(node.name)
        if found is None or self._evens_an_input(node):
            return
        reader, repeats = found
        layer = cast(nn.Conv2d, self.layers[reader.name])
        groups = reader.attrs["groups"]
        weight, bias = layer.weight, cast(Tensor, layer.bias)
        if node.op == "gather":
            if groups > 1:
                return
            channels = self.shape(node.inputs[0])[0]
            spread = weight.reshape(len(weight), -1, repeats, *weight.shape[2:])
            whole = spread.new_zeros(len(weight), channels, *spread.shape[2:])
            whole.index_add_(1, torch.tensor(node.attrs["indices"]), spread)
            weight = whole.flatten(1, 2)
        else:
            factor, shift = (part.repeat_interleave(repeats) for part in self.affines[node.name])
            if shift.any() and any(reader.attrs["padding"]):
                return
            # Input `i` of an output of group `g` is channel `g * depth + i`.
            out, depth = weight.shape[:2]
            channel = (torch.arange(out) // (out // groups) * depth)[:, None] + torch.arange(depth)
            bias = bias + (weight.reshape(out, depth, -1).sum(2) * shift[channel]).sum(1)
            weight = weight * factor[channel].reshape(out, depth, 1, 1)
        _check_finite(node.name, reader.name, weight.flatten(1).isfinite().all(1) & bias.isfinite())
        self.layers[reader.name] = float_layer(reader, weight, bias)
        self.drop(node)

    def _layer_behind(self, name: str) -> tuple[Node, int] | None:
        """The layer that alone reads a value, which may be averaged or flattened before it; None if there is none.

        With it comes the number of inputs of the layer that belong to one channel of the value.
        """
        repeats = 1
        while self.alone(name):
            (reader,) = self.readers(name)
            if reader.op == "affine":
                return None
            if OPS[reader.op].weighted:
                return reader, repeats
            if reader.op in _VIEWS and prod(reader.shape) == reader.shape[0]:
                repeats *= reader.shape[0] // self.nodes[name].shape[0]
            elif not OPS[reader.op].averaging or any(reader.attrs.get("padding", ())) or reader.attrs.get("ceil"):
                return None
            name = reader.name
        return None

    def network(self) -> Network:
        """The network that is left; affine nodes that could not be folded become layers of their own."""
        made: list[Node] = []
        now: dict[str, str] = {}  # what the value of a node is called
        before = self._before_layers()
        for node in self.nodes.values():
            made.append(replace(node, inputs=tuple(now.get(name, name) for name in node.inputs)))
            if node.op == "affine":
                alone = node.name not in before or self._read_in_float(node.name)
                in_float = alone or self._is_float(node.inputs[0]) or self._evens_an_input(node)
                made[-1:] = self._in_float(made[-1]) if in_float else self._depthwise(made[-1])
                now[node.name] = made[-1].name
        layers = {node.name: self.layers[node.name] for node in made if node.name in self.layers}
        outputs = tuple(replace(output, value=now.get(output.value, output.value)) for output in self.outputs)
        return Network(Graph(self.inputs, tuple(made), outputs), layers, self.trained)

    def _before_layers(self) -> set[str]:
        """The values that layers depend on; all others are computed in float (`edgeq.ir.analysis.float_outputs`)."""
        found: set[str] = set()
        for node in reversed(self.nodes.values()):
            if node.name in found or (node.op in OPS and OPS[node.op].weighted):
                found |= {*node.inputs}
        return found

    def _evens_an_input(self, node: Node) -> bool:
        """Whether it brings the channels of an input, which differ much in range, to the range of each other.

        One scale would not do for the input, nor one scale a row for weights that this were part of.
        """
        if node.op != "affine":
            return False
        factors, (name,) = self.affines[node.name][0].abs(), node.inputs
        while name in self.nodes and self.nodes[name].op in _MOVES:
            (name,) = self.nodes[name].inputs
        varying = factors[factors > 0]
        return name not in self.nodes and len(varying) > 0 and bool(varying.max() > _UNEVEN * varying.min())

    def _is_float(self, name: str) -> bool:
        """Whether an operator in float makes a value, which may have been moved since."""
        while name in self.nodes and self.nodes[name].op in _MOVES:
            (name,) = self.nodes[name].inputs
        return name in self.nodes and self.nodes[name].op == "float"

    def _read_in_float(self, name: str) -> bool:
        """Whether only operators in float read a value, which may be moved before."""
        readers = self.readers(name)
        return bool(readers) and all(
            node.op == "float" or (node.op in _MOVES and self._read_in_float(node.name)) for node in readers
        )

    def _in_float(self, node: Node) -> list[Node]:
        """An affine node behind a float operator: a float product and sum, so that nothing is rounded in between."""
        made: list[Node] = []
        operators = zip(("mul.Tensor", "add.Tensor"), self.affines[node.name], (1, 0), strict=True)
        for operator, values, nothing in operators:
            if not (values == nothing).all():
                other = values.reshape(-1, *[1] * (len(node.shape) - 1))
                layer = FloatOperator(operator, ["self"], {}, {"other": other})
                inputs = (made[-1].name,) if made else node.inputs
                made.append(Node(f"{node.name}.{operator[:3]}", "float", inputs, node.shape, layer.attrs))
                self.layers[made[-1].name] = layer
        return made

    def _depthwise(self, node: Node) -> list[Node]:
        """An affine node as a depthwise 1x1 convolution; flat values are reshaped to a map around it."""
        factor, shift = self.affines[node.name]
        shape = (len(factor), *node.shape[1:]) if len(node.shape) == 3 else (len(factor), 1, 1)
        conv = replace(node, op="conv2d", shape=shape, attrs=POINT | {"groups": len(factor)})
        _check_finite(node.name, node.name, factor.isfinite() & shift.isfinite())
        self.layers[node.name] = float_layer(conv, factor.reshape(-1, 1, 1, 1), shift)
        if shape == node.shape:
            return [conv]
        seen = Node(f"{node.name}.map", "reshape", node.inputs, shape, {"sizes": list(shape)})
        flat = Node(f"{node.name}.flatten", "flatten", (conv.name,), node.shape)
        return [seen, replace(conv, inputs=(seen.name,)), flat]
