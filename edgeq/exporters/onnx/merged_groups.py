"""Grouped convolutions of few channels a group, with several groups in one: the same sums, in a form that is fast.

The int8 kernel of ONNX Runtime multiplies every group by itself, sixteen output channels at a time. With eight in a
group, half of its work is thrown away, with two nearly all. Two groups of eight as one of sixteen, whose weights are 0
where an output does not read a channel, take less time, eight groups of two a fraction (`benchmarks/grouped.py`). The
file keeps the weights as they are; the zeros are put between them when it is loaded (`edgeq.exporters.onnx.weights`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor, nn

from edgeq.ir.graph import Graph
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.packed.modules import PackedConv2d

_STORING: Final = frozenset({"quantize", "to_codes"})  # ops before which runtimes compute a layer in integers
_READING: Final = frozenset({"quantize", "dequantize", "read_pixels", "regroup_columns"})  # and behind which
_TOGETHER: Final = 16  # output channels that the kernel makes at once
_MOST: Final = 32  # output channels of a group, above which zeros cost more than they save


class MergedGroups(nn.Module):
    """A packed convolution that runtimes compute in fewer groups.

    Args:
        layer: the convolution of single groups; it keeps the packed weights.
        count: groups that are one in the file.
    """

    def __init__(self, layer: PackedConv2d, count: int) -> None:
        super().__init__()
        self.layer, self.count = layer, count

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: what is added in the file are products with 0."""
        y: Tensor = self.layer(x)
        return y


def integer_layers(graph: Graph) -> frozenset[str]:
    """The names of layers that runtimes can compute in integers, in a graph that is to be translated."""
    if not graph.quantized:
        return frozenset()
    readers = [node for node in graph.nodes if node.op in _STORING or OPS[node.op].clipping]
    stored = {name for node in readers for name in node.inputs}
    read = {node.name for node in graph.nodes if node.op in _READING}
    return frozenset(node.name for node in graph.layers if node.name in stored and node.inputs[0] in read)


def with_merged_groups(network: Network) -> Network:
    """Let convolutions of few channels a group be computed in larger groups where that is faster.

    Args:
        network: packed, after all other passes.

    Returns:
        A network whose values have the names, shapes and numbers that they had.
    """
    graph = network.graph
    counts = {name: _count(network, name) for name in integer_layers(graph)}
    layers = {node.name: network.layer(node.name) for node in graph.nodes if OPS[node.op].has_module}
    for name, count in counts.items():
        layer = layers[name]
        if count > 1 and isinstance(layer, PackedConv2d):
            layers[name] = MergedGroups(layer, count)
    return Network(replace(graph, nodes=tuple(_merged(node, counts.get(node.name, 1)) for node in graph.nodes)), layers)


def _merged(node: Node, count: int) -> Node:
    return node if count == 1 else replace(node, attrs={**node.attrs, "groups": node.attrs["groups"] // count})


def _count(network: Network, name: str) -> int:
    """How many groups of a layer become one: the fewest that fill the kernel, or all of them."""
    layer = network.layer(name)
    if not isinstance(layer, PackedConv2d):
        return 1
    groups: int = layer.geometry[-1]
    outputs, depth = layer.shape[0] // groups, layer.shape[1]
    if outputs == depth == 1:  # for which there is a kernel of its own
        return 1
    counts = [count for count in range(1, groups + 1) if groups % count == 0]
    count = next((count for count in counts if count * outputs >= _TOGETHER), groups)
    return count if count * outputs <= _MOST else 1
