"""The expected value of a distribution is computed in float.

Detectors predict how far a side of a box is as a distribution over distances (distribution focal loss,
arXiv:2006.04388): a softmax, then a convolution of 1x1 to one channel, whose weights are the distances 0, 1, 2... An
age or a place is a product of a softmax with such a vector: such a convolution, over one pixel. That is decoding, and
no layer: its few weights are exact, and quantization ends before its softmax.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.ir.ops.registry import OPS


def float_expectations(network: Network) -> Network:
    """Replace the layers from a softmax to one channel by a product and a sum in float."""
    nodes = {node.name: node for node in network.graph.nodes}
    layers: dict[str, nn.Module] = {}
    made: list[Node] = []
    for node in network.graph.nodes:
        if _is_expectation(node, nodes, network):
            made += _in_float(node, nodes[node.inputs[0]], network, layers)
        else:
            made.append(node)
            if OPS[node.op].has_module:
                layers[node.name] = network.layer(node.name)
    if len(made) == len(nodes):
        return network
    return Network(replace(network.graph, nodes=tuple(made)), layers, network.trained)


def _is_expectation(node: Node, nodes: dict[str, Node], network: Network) -> bool:
    if node.op != "conv2d" or node.inputs[0] not in nodes:
        return False
    weight, _ = network.weight_and_bias(node.name)
    if len(weight) > 1 or weight.shape[1] == 1:
        return False
    source = nodes[node.inputs[0]]
    while OPS[source.op].same_scale and len(source.inputs) == 1 and source.inputs[0] in nodes:
        source = nodes[source.inputs[0]]
    softmax = source.op == "float" and source.attrs["operator"] == "softmax.int"
    return softmax and weight.shape[2:] == (1, 1) and node.attrs["stride"] == [1, 1]


def _in_float(node: Node, source: Node, network: Network, layers: dict[str, nn.Module]) -> list[Node]:
    weight, bias = network.weight_and_bias(node.name)
    steps: list[tuple[str, dict[str, Any], dict[str, Tensor], tuple[int, ...]]] = [
        ("mul.Tensor", {}, {"other": weight[0]}, source.shape),
        ("sum.dim_IntList", {"dim": [1], "keepdim": True}, {}, node.shape),
    ]
    if bias.any():
        steps.append(("add.Tensor", {}, {"other": bias[:, None, None]}, node.shape))
    made: list[Node] = []
    for i, (operator, arguments, tensors, shape) in enumerate(steps):
        name = node.name if i == len(steps) - 1 else f"{node.name}.{operator[:3]}"
        module = layers[name] = FloatOperator(operator, ["self"], arguments, tensors)
        made.append(Node(name, "float", (made[-1].name if made else source.name,), shape, module.attrs))
    return made
