"""A convolution over groups of pixels makes the sums of the original one, and the values behind it are the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import MODULES, SHAPE, images, laid_out, quantized, randomized, values
from torch import Tensor, nn

from edgeq.calibration.calibrate import calibrate
from edgeq.exporters.onnx.model import to_onnx
from edgeq.exporters.onnx.space_to_depth import SpaceToDepthConv2d, over_pixel_groups, pixel_groups
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.codes import channels_first, channels_last
from edgeq.ir.passes.hard_sigmoid import on_codes
from edgeq.ir.passes.uint8_input import with_uint8_input
from edgeq.numerics.weights import BitWidth, QuantTensor
from edgeq.packed.activations import ActivationQuantizer
from edgeq.packed.modules import PackedConv2d
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.quantization.quantize import quantize
from edgeq.runtimes.onnxruntime import onnx_runner


def conv(
    kernel: int, stride: int, padding: int, image: tuple[int, int, int], dilation: int = 1, groups: int = 1
) -> Node:
    """A convolution of 5 outputs with a square kernel."""
    reach = dilation * (kernel - 1) + 1
    size = ((side + 2 * padding - reach) // stride + 1 for side in image[1:])
    attrs = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [dilation] * 2, "groups": groups}
    return Node("conv", "conv2d", ("input.q",), (5, *size), attrs)


def test_taps_of_a_usual_stem() -> None:
    """Kernel 3, stride 2, padding 1: the outputs of columns 0..3 read -1..1 and 1..3, so one group more on the left."""
    found = pixel_groups(conv(3, 2, 1, (3, 8, 8)), 3, (3, 8, 8), False)
    assert found is not None
    assert (found.size, found.outputs, found.span, found.pads, found.missing) == (4, 2, 2, (1, 0), 0)
    assert found.taps.tolist() == [[[-1, -1, -1, 0], [1, 2, -1, -1]], [[-1, -1, -1, -1], [-1, 0, 1, 2]]]


def test_a_bordered_image_gets_the_columns_that_its_last_group_lacks() -> None:
    """The same with a border of one column, 9 in all: 4 r + 0..2 and 4 r + 2..4."""
    node = conv(3, 2, 0, (3, 9, 9))
    found = pixel_groups(node, 3, (3, 9, 9), True)
    assert found is not None
    assert (found.size, found.outputs, found.span, found.pads, found.missing) == (4, 2, 2, (0, 0), 3)
    assert found.taps.tolist() == [[[0, 1, 2, -1], [-1, -1, -1, -1]], [[-1, -1, 0, 1], [2, -1, -1, -1]]]
    assert pixel_groups(node, 3, (3, 9, 9), False) is None


@pytest.mark.parametrize(
    "node, image",
    [
        (conv(3, 2, 1, (4, 8, 8)), (4, 8, 8)),  # four channels need no help
        (conv(3, 2, 1, (3, 8, 8), groups=3), (3, 8, 8)),
        (conv(3, 1, 2, (3, 8, 8), dilation=2), (3, 8, 8)),
        (conv(3, 2, 1, (3, 10, 10)), (3, 10, 10)),  # 10 columns are not groups of 4
        (conv(3, 2, 0, (3, 8, 8)), (3, 8, 8)),  # 3 outputs are not groups of 2
    ],
)
def test_what_does_not_come_out_even_is_left_alone(node: Node, image: tuple[int, int, int]) -> None:
    assert pixel_groups(node, 3, image, False) is None


def fitting() -> list[tuple[Node, int, tuple[int, int, int], bool]]:
    """All convolutions of some kernels, strides, paddings, channels and widths that can read groups."""
    cases = product(range(1, 8), range(1, 5), range(4), range(1, 4), range(8, 41), (False, True))
    found = []
    for kernel, stride, padding, channels, width, bordered in cases:
        image = (channels, 9, width)
        node = conv(kernel, stride, padding, image)
        if pixel_groups(node, kernel, image, bordered):
            found.append((node, kernel, image, bordered))
    return found


def levels(scale: float, zero_point: int) -> dict[str, float]:
    return {"scale": scale, "zero_point": zero_point}


def stem(node: Node, kernel: int, image: tuple[int, int, int], bordered: bool, seed: int) -> Network:
    """A quantized convolution of random weights that reads an image, or pixels in uint8 inside a border."""
    channels, rows, columns = image
    weight = np.random.default_rng(seed).integers(-128, 128, (5, channels, kernel, kernel))
    data = weight.astype(np.int8).view(np.uint8).reshape(5, -1)
    packed = QuantTensor(data, weight.shape, np.ones(5, np.float32), BitWidth(8))
    layer = PackedConv2d(packed, torch.arange(5, dtype=torch.float32), **node.attrs)
    step, after = (1 / 255 if bordered else 1.0, 0), (float(kernel**2), 128)
    nodes = [
        Node("input.q", "quantize", ("border" if bordered else INPUT,), image, levels(*step)),
        replace(node, inputs=("input.q",)),
        Node("conv.q", "quantize", ("conv",), node.shape, levels(*after)),
        Node("twice", "add", ("conv.q", "conv.q"), node.shape),
    ]
    layers = {"conv": layer, "input.q": ActivationQuantizer(*step), "conv.q": ActivationQuantizer(*after)}
    if not bordered:
        return Network(Graph.of_image(image, tuple(nodes)), layers)
    colour = {"pads": [1, 2, 1, 1], "values": [level / 255 for level in range(channels)]}
    border = Node("border", "border", (INPUT,), image, colour)
    network = Network(Graph.of_image((channels, rows - 2, columns - 3), (border, *nodes)), layers)
    return network.with_graph(with_uint8_input(network.graph))


@given(case=st.sampled_from(fitting()), seed=st.integers(0, 9))
def test_the_same_sums(case: tuple[Node, int, tuple[int, int, int], bool], seed: int) -> None:
    """Exactly, where pixels are whole numbers; with a border they are 255ths, whose sums round in the last bits."""
    network = stem(*case, seed)
    lowered = over_pixel_groups(network)
    assert isinstance(lowered.layer("conv"), SpaceToDepthConv2d)
    x = torch.randint(0, 256, (2, *network.graph.image.shape), generator=torch.Generator().manual_seed(seed))
    image = x.to(torch.uint8) if case[3] else x.float()
    expected, found = values(network, image), values(lowered, image)
    sums = channels_first(channels_last(found["conv"]), [*case[0].shape[1:], case[0].shape[0]])
    largest = float(expected["conv"].abs().max())
    torch.testing.assert_close(sums, expected["conv"], rtol=0, atol=1e-6 * largest if case[3] else 0)
    steps = (found["conv.q"] - expected["conv.q"]) / case[1] ** 2
    assert float(steps.abs().max()) <= (1 if case[3] else 0)
    torch.testing.assert_close(found["twice"], 2 * found["conv.q"], rtol=0, atol=0)


@given(case=st.sampled_from(fitting()))
def test_weights_are_laid_out_one_by_one(case: tuple[Node, int, tuple[int, int, int], bool]) -> None:
    layer = over_pixel_groups(stem(*case, 0)).layer("conv")
    assert isinstance(layer, SpaceToDepthConv2d)
    weight = torch.arange(prod(layer.layer.shape), dtype=torch.float32).reshape(layer.layer.shape) + 1
    np.testing.assert_array_equal(layer.spread(weight).numpy(), laid_out(weight.numpy(), layer.groups))


def test_known_graphs() -> None:
    """Of a float image, what is stored and what is viewed are two nodes; pixels are viewed as they are read."""
    node = conv(3, 2, 1, (3, 8, 8))
    floats = over_pixel_groups(stem(node, 3, (3, 8, 8), False, 0))
    assert [(n.name, n.op, n.shape) for n in floats.graph.nodes] == [
        ("input.q.floats", "quantize", (3, 8, 8)),
        ("input.q", "regroup_columns", (12, 8, 2)),
        ("conv", "conv2d", (10, 4, 2)),
        ("conv.q.floats", "quantize", (10, 4, 2)),
        ("conv.q", "regroup_columns", (5, 4, 4)),
        ("twice", "add", (5, 4, 4)),
    ]
    assert (floats.graph.nodes[2].attrs["stride"], floats.graph.nodes[2].attrs["padding"]) == ([2, 1], [1, 1, 1, 0])
    node = conv(3, 2, 0, (3, 9, 9))
    pixels = over_pixel_groups(stem(node, 3, (3, 9, 9), True, 0))
    assert [(n.name, n.op, n.shape) for n in pixels.graph.nodes] == [
        ("border", "pixel_border", (9, 12, 3)),  # 3 columns more than the convolution reads
        ("input.q", "read_pixels", (12, 9, 3)),
        ("conv", "conv2d", (10, 4, 2)),
        ("conv.q.floats", "quantize", (10, 4, 2)),
        ("conv.q", "regroup_columns", (5, 4, 4)),
        ("twice", "add", (5, 4, 4)),
    ]


def test_codes_behind_the_convolution_stay_over_groups() -> None:
    """A hard sigmoid on codes: both are clipped over groups, and floats are columns again."""
    network = stem(conv(3, 2, 1, (3, 8, 8)), 3, (3, 8, 8), False, 0)
    image, layer, stored, twice = network.graph.nodes
    stored = replace(stored, attrs={"scale": 3 / 58, "zero_point": 58})
    gate = Node("gate", "hardsigmoid", ("conv.q",), stored.shape)
    graph = Graph.of_image((3, 8, 8), (image, layer, stored, gate, replace(twice, inputs=("conv.q", "gate"))))
    layers = {"conv": network.layer("conv"), "input.q": network.layer("input.q")}
    gated = Network(graph, layers | {"conv.q": ActivationQuantizer(3 / 58, 58)})
    lowered = over_pixel_groups(gated.with_graph(on_codes(graph)))
    assert [(n.name, n.op, n.shape) for n in lowered.graph.nodes[3:]] == [
        ("conv.q.codes", "to_codes", (10, 4, 2)),
        ("conv.q.floats", "dequantize", (10, 4, 2)),
        ("conv.q", "regroup_columns", (5, 4, 4)),
        ("gate.clipped", "clip_codes", (10, 4, 2)),
        ("gate.floats", "dequantize", (10, 4, 2)),
        ("gate", "regroup_columns", (5, 4, 4)),
        ("twice", "add", (5, 4, 4)),
    ]
    x = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    torch.testing.assert_close(lowered(x), gated(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_on_integer_kernels_the_answers_stay_what_they_were(name: str, tmp_path: Path) -> None:
    packed, x = quantized(name, "4bit").packed, images(5, 3)
    assert over_pixel_groups(packed) is not packed
    with mock.patch("edgeq.exporters.onnx.model.over_pixel_groups", lambda network: network):
        onnx.save(to_onnx(packed), tmp_path / "plain.onnx")
    onnx.save(to_onnx(packed), tmp_path / "grouped.onnx")
    plain, found = (onnx_runner(tmp_path / f"{which}.onnx")(x) for which in ("plain", "grouped"))
    np.testing.assert_array_equal(found, plain)


class Twice(nn.Module):
    """Two convolutions read the image."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x) + self.right(x)
        return y


def test_an_image_that_two_convolutions_read_stays_as_it_is() -> None:
    network, batches = trace(randomized(Twice()), SHAPE), [images(4)]
    record = calibrate(network, batches)
    chosen = plan(record, "8bit")
    packed = pack(network, quantize(network, record, chosen, batches), record, chosen)
    assert over_pixel_groups(packed) is packed
    assert over_pixel_groups(network) is network
    assert not {"Reshape", "Pad"} & {node.op_type for node in to_onnx(packed).graph.node}
