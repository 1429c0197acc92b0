"""A depthwise convolution with several outputs for each channel reads copies of the channel.

Runtimes have a fast integer kernel for convolutions of as many groups as inputs and outputs. With more outputs than
inputs, ONNX Runtime takes another one, which is several times slower than float. The copies are rows of bytes that are
moved; weights and results are the same. One that reads the image stays as it is, since pixels are read in another way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS


def copied_channels(network: Network) -> Network:
    """Let depthwise convolutions with several outputs a channel read each channel as often: the same network."""
    graph, shapes = network.graph, network.graph.shapes()
    layers: dict[str, nn.Module] = {}
    made: list[Node] = []
    for node in graph.nodes:
        if OPS[node.op].has_module:
            layers[node.name] = network.layer(node.name)
        if _has_several(node, shapes) and node.inputs[0] not in graph.input_values:
            made += _on_copies(node, shapes[node.inputs[0]])
            layers[node.name] = float_layer(made[-1], *network.weight_and_bias(node.name))
        else:
            made.append(node)
    return Network(replace(graph, nodes=tuple(made)), layers, network.trained)


def _has_several(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return node.op == "conv2d" and node.shape[0] > shapes[node.inputs[0]][0] == node.attrs["groups"] > 1


def _on_copies(node: Node, shape: tuple[int, ...]) -> list[Node]:
    """A convolution, of which every group has one output, and the copies that it reads."""
    (inputs, *size), outputs = shape, node.shape[0]
    indices = [place * inputs // outputs for place in range(outputs)]
    attrs = {"dim": 1, "indices": indices}
    copies = Node(f"{node.name}.copies", "gather", node.inputs, (outputs, *size), attrs)
    return [copies, replace(node, inputs=(copies.name,), attrs={**node.attrs, "groups": outputs})]
