"""The network that reads pixels: what normalizes an image moves into the convolution that reads it.

`(x - mean) / std` is linear in the pixels `x`, so the first convolution can do it: its weights are divided by `std`,
and its bias takes up what the mean makes of them. Where the network takes B, G, R, its weights change places too. Then
the uint8 image of a camera, R, G, B, is the quantized input itself.

Where that convolution pads with zeros, the zeros stand for the mean colour, which for pixels is not 0. So the image
gets a border of the mean colour first, and the convolution pads no more. A border can only have whole levels of a
pixel: it is half a level off at most, as any pixel is from what the camera saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from edgeq.artifacts.record import CalibrationRecord
from edgeq.data.preprocess import Preprocess
from edgeq.errors import UnsupportedError
from edgeq.ir.graph import INPUT, Graph, Node
from edgeq.ir.network import WITH_MODULE, Network, float_layer
from edgeq.numerics.activations import LEVELS, ActivationRange


def reading_pixels(network: Network, record: CalibrationRecord) -> tuple[Network, CalibrationRecord]:
    """Move the normalization of images into a float network.

    Args:
        network: whose input went through the mean and std of the record's preprocessing.
        record: its calibration record.

    Returns:
        A network whose input is pixels in 0..1, R, G, B, and which computes the same, but for the rounding of the
        border to levels of pixels; and its record.

    Raises:
        UnsupportedError: anything but one convolution reads the image, or one in groups an image of B, G, R.
    """
    graph, preprocess = network.graph, Preprocess.from_dict(record.preprocess)
    readers = [node for node in graph.nodes if INPUT in node.inputs]
    if len(readers) != 1 or readers[0].op != "conv2d":
        found = ", ".join(f"{node.name} ({node.op})" for node in readers)
        raise UnsupportedError(f"expected one convolution to read the image, found {found}; leave out --input uint8")
    stem = readers[0]
    if stem.attrs["groups"] > 1 and preprocess.channel_order != "rgb":
        raise UnsupportedError(
            f"expected a convolution without groups to read the image, whose channels are {preprocess.channel_order}, "
            f"found {stem.name} with {stem.attrs['groups']}; leave out --input uint8"
        )
    kernel = network.weight_and_bias(stem.name)[0].shape[2:]
    first = _first_nodes(stem, kernel, graph.input_shape, [preprocess.mean[i] for i in preprocess.order])
    layers = {node.name: network.layer(node.name) for node in graph.nodes if node.op in WITH_MODULE}
    layers[stem.name] = _reading(network, first[-1], preprocess)
    nodes = [made for node in graph.nodes for made in (first if node is stem else [node])]
    pixels = dict.fromkeys([INPUT, *(node.name for node in first[:-1])], ActivationRange.covering(0.0, 1.0))
    changed = replace(record, preprocess=preprocess.to_pixels().to_dict(), activations={**record.activations, **pixels})
    return Network(Graph(graph.input_shape, tuple(nodes)), layers).eval(), changed


def _first_nodes(stem: Node, kernel: Sequence[int], shape: Sequence[int], mean: Sequence[float]) -> list[Node]:
    """The border that the padding becomes, if there is padding, and the convolution that pads no more."""
    pads = stem.attrs["padding"]
    if not any(pads):
        return [stem]
    channels, *size = shape
    a = stem.attrs
    reach = [(n - 1) * a["stride"][i] + a["dilation"][i] * (kernel[i] - 1) + 1 for i, n in enumerate(stem.shape[1:])]
    ends = [max(reach[i] - pad - size[i], 0) for i, pad in enumerate(pads)]  # what a stride skips is not needed
    sizes = (pads[i] + n + ends[i] for i, n in enumerate(size))
    values = [round(value * LEVELS) / LEVELS for value in mean]
    attrs = {"pads": [*pads, *ends], "values": values}
    border = Node(f"{INPUT}.border", "border", (INPUT,), (channels, *sizes), attrs)
    return [border, replace(stem, inputs=(border.name,), attrs={**stem.attrs, "padding": [0, 0]})]


def _reading(network: Network, stem: Node, preprocess: Preprocess) -> nn.Module:
    """The convolution with the normalization in its weights and its bias."""
    weight, bias = network.weight_and_bias(stem.name)
    out, depth = weight.shape[:2]
    groups = stem.attrs["groups"]
    # Channel `i` of the weights of an output reads channel `group * depth + i` of the image.
    channel = (torch.arange(out) // (out // groups) * depth)[:, None] + torch.arange(depth)
    mean, std = (torch.tensor(values, dtype=torch.float64)[channel] for values in (preprocess.mean, preprocess.std))
    scaled = weight.double() / std[:, :, None, None]
    shift = (scaled.sum((2, 3)) * mean).sum(1)
    if groups == 1:
        scaled = scaled[:, preprocess.order]
    return float_layer(stem, scaled.float(), (bias.double() - shift).float())
