"""Fold the normalization of images into the convolution that reads them, so that the network takes plain pixels.

`(x - mean) / std` is linear in the pixels `x`, so the first convolution can do it: its weights are divided by `std`,
and its bias takes up what they make of the mean. The weights of a network that takes B, G, R are reordered as well. So
the uint8 image of a camera, R, G, B, is the quantized input itself.

Where the convolution pads with zeros, the zeros stand for the mean colour, which is not 0 in pixels. So a border of the
mean colour is put around the image instead. A border can only hold whole levels of a pixel: it is half a level off at
most, as any pixel is from what the camera saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from edgeq.errors import UnsupportedError
from edgeq.ir.graph import Graph, Input
from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.numerics.activations import LEVELS


def fold_normalization(network: Network, mean: Sequence[float], std: Sequence[float], order: Sequence[int]) -> Network:
    """Make a float network read pixels.

    Args:
        network: takes `(x - mean) / std`, x being pixels in 0..1 with their channels in its `order`.
        mean: of each channel of the network.
        std: the same.
        order: which channel of the image, R, G, B, each channel of the network is; `[2, 1, 0]` for B, G, R.

    Returns:
        A network whose input is pixels in 0..1, R, G, B, and which computes the same, but for the rounding of the
        border to levels of pixels.

    Raises:
        UnsupportedError: anything but one convolution reads the image, or a grouped one in another order of channels.
    """
    graph = network.graph
    stem = _stem(graph, order)
    by_colour = [mean[order.index(channel)] for channel in range(len(order))]
    first = _first_nodes(stem, network.weight_and_bias(stem.name)[0].shape[2:], graph.image, by_colour)
    layers = {node.name: network.layer(node.name) for node in graph.nodes if OPS[node.op].has_module}
    layers[stem.name] = _folded(network, first[-1], mean, std, order)
    nodes = [made for node in graph.nodes for made in (first if node is stem else [node])]
    return Network(replace(graph, nodes=tuple(nodes)), layers).eval()


def _stem(graph: Graph, order: Sequence[int]) -> Node:
    """The convolution that reads the image."""
    readers = [node for node in graph.nodes if graph.image.value in node.inputs]
    if len(readers) != 1 or readers[0].op != "conv2d":
        found = ", ".join(f"{node.name} ({node.op})" for node in readers)
        raise UnsupportedError(f"expected one convolution to read the image, found {found}; leave out --input uint8")
    stem = readers[0]
    if stem.attrs["groups"] > 1 and list(order) != sorted(order):
        raise UnsupportedError(
            "expected a convolution without groups to read the image, whose channels are "
            f"{''.join('rgb'[channel] for channel in order)}, found {stem.name} with {stem.attrs['groups']}; "
            "leave out --input uint8"
        )
    return stem


def _first_nodes(stem: Node, kernel: Sequence[int], image: Input, mean: Sequence[float]) -> list[Node]:
    """The border that the padding becomes, if there is padding, and the convolution that no longer pads."""
    pads = stem.attrs["padding"]
    if not any(pads):
        return [stem]
    channels, *size = image.shape
    a = stem.attrs
    reach = [(n - 1) * a["stride"][i] + a["dilation"][i] * (kernel[i] - 1) + 1 for i, n in enumerate(stem.shape[1:])]
    ends = [max(reach[i] - pad - size[i], 0) for i, pad in enumerate(pads)]  # what a stride skips is not needed
    sizes = (pads[i] + n + ends[i] for i, n in enumerate(size))
    values = [round(value * LEVELS) / LEVELS for value in mean]
    attrs = {"pads": [*pads, *ends], "values": values}
    border = Node(f"{image.value}.border", "border", (image.value,), (channels, *sizes), attrs)
    return [border, replace(stem, inputs=(border.name,), attrs={**stem.attrs, "padding": [0, 0]})]


def _folded(
    network: Network, stem: Node, mean: Sequence[float], std: Sequence[float], order: Sequence[int]
) -> nn.Module:
    """The convolution with the normalization in its weights and its bias."""
    weight, bias = network.weight_and_bias(stem.name)
    out, depth = weight.shape[:2]
    groups = stem.attrs["groups"]
    # Channel `i` of the weights of an output reads channel `group * depth + i` of the image.
    channel = (torch.arange(out) // (out // groups) * depth)[:, None] + torch.arange(depth)
    means, deviations = (torch.tensor(values, dtype=torch.float64)[channel] for values in (mean, std))
    scaled = weight.double() / deviations[:, :, None, None]
    shift = (scaled.sum((2, 3)) * means).sum(1)
    if groups == 1:
        scaled = scaled[:, torch.tensor(order).argsort()]
    return float_layer(stem, scaled.float(), (bias.double() - shift).float())
