"""Zeros around a map become padding of the convolution behind.

ONNX Runtime puts zeros around a map in float, and takes longer than for many convolutions. A convolution pads by
itself, but on both sides alike: where the zeros before and behind differ, as those of TensorFlow do, it is padded with
more of them, and the outputs that read these are left out, which costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Final

from torch import nn

from edgeq.ir.graph import Graph
from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS

_MOST: Final = 1.5  # times as many outputs as are wanted


def merged_pads(network: Network) -> Network:
    """Merge each padding with zeros and the convolution that alone reads it: the same network."""
    graph, uses, shapes = network.graph, network.graph.uses(), network.graph.shapes()
    pads = {node.name: node for node in graph.nodes if node.op == "pad" and uses[node.name] == 1}
    layers: dict[str, nn.Module] = {}
    nodes: dict[str, Node] = {}
    now: dict[str, str] = {}  # what the value of a convolution is called
    for node in graph.nodes:
        made = [node]
        if OPS[node.op].has_module:
            layers[node.name] = network.layer(node.name)
        if node.op == "conv2d" and node.inputs[0] in pads:
            pad, (weight, bias) = pads[node.inputs[0]], network.weight_and_bias(node.name)
            made = _padding_itself(node, pad, shapes[pad.inputs[0]], weight.shape[2:])
        if made[0].inputs != node.inputs:
            del nodes[node.inputs[0]]
            layers[node.name] = float_layer(made[0], weight, bias)
        nodes |= {one.name: replace(one, inputs=tuple(now.get(i, i) for i in one.inputs)) for one in made}
        if made[-1] is not node:
            now[node.name] = made[-1].name
    outputs = tuple(replace(output, value=now.get(output.value, output.value)) for output in graph.outputs)
    return Network(Graph(graph.inputs, tuple(nodes.values()), outputs), layers, network.trained)


def _padding_itself(node: Node, pad: Node, shape: Sequence[int], kernel: Sequence[int]) -> list[Node]:
    """A convolution that pads in place of a node, and the slices behind it; itself if it would make too many outputs.

    Args:
        node: the convolution.
        pad: what it reads.
        shape: of what that reads.
        kernel: rows and columns of its kernel.
    """
    before = pad.attrs["pads"][: len(pad.attrs["pads"]) // 2]
    if len(shape) != 3 or pad.shape[0] != shape[0]:
        return [node]
    padding, sizes, starts = [], [], []
    for axis, (size, out) in enumerate(zip(shape[1:], node.shape[1:], strict=True)):
        stride, length = node.attrs["stride"][axis], node.attrs["dilation"][axis] * (kernel[axis] - 1) + 1
        front = before[axis - 2] + node.attrs["padding"][axis]
        behind = (out - 1) * stride + length - front - size
        starts.append(max(-((front - behind) // stride), 0))  # outputs too many, each a stride earlier
        padding.append(front + starts[-1] * stride)
        sizes.append((size + 2 * padding[-1] - length) // stride + 1)
    if prod(sizes) > _MOST * prod(node.shape[1:]):
        return [node]
    made = [replace(node, inputs=pad.inputs, shape=(node.shape[0], *sizes), attrs={**node.attrs, "padding": padding})]
    for dim, (start, size, out) in enumerate(zip(starts, sizes, node.shape[1:], strict=True), 2):
        if size != out:
            taken = (*made[-1].shape[: dim - 1], out, *made[-1].shape[dim:])
            attrs = {"dim": dim, "start": start, "end": start + out}
            made.append(
                Node(f"{node.name}.{'rows' if dim == 2 else 'columns'}", "slice", (made[-1].name,), taken, attrs)
            )
    return made
