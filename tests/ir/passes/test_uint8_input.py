"""A network of pixels in 0..1 that takes them in uint8 computes the same, and its values keep their names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import pixels, values

from edgeq.data.preprocess import interleaved
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.passes.uint8_input import AS_FLOATS, with_uint8_input
from edgeq.packed.activations import ActivationQuantizer

SIZE = (3, 5, 4)


def network_of(pads: list[int] | None, quantized: bool) -> Network:
    """A convolution of kernel 1 behind a border, if there are pads, and a quantizer of pixels, if it is quantized."""
    channels, rows, columns = SIZE
    nodes = []
    last = INPUT
    if pads is not None:
        shape = (channels, rows + pads[0] + pads[2], columns + pads[1] + pads[3])
        attrs = {"pads": pads, "values": [124 / 255, 116 / 255, 0.0]}
        nodes.append(Node("input.border", "border", (last,), shape, attrs))
        last = "input.border"
    _, rows, columns = nodes[-1].shape if nodes else SIZE
    if quantized:
        attrs = {"scale": float(np.float32(1 / 255)), "zero_point": 0}
        nodes.append(Node(f"{last}.q", "quantize", (last,), (channels, rows, columns), attrs))
        last = f"{last}.q"
    geometry = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    conv = Node("conv", "conv2d", (last,), (2, rows, columns), geometry)
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3, 1, 1) - 2
    layers = {node.name: ActivationQuantizer(1 / 255, 0) for node in nodes if node.op == "quantize"}
    return Network(Graph.of_image(SIZE, (*nodes, conv)), {**layers, "conv": float_layer(conv, weight, torch.ones(2))})


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@given(pads=st.none() | st.lists(st.integers(0, 3), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_the_same_values_under_the_same_names(quantized: bool, pads: list[int] | None, seed: int) -> None:
    network, image = network_of(pads, quantized), pixels(2, seed, SIZE)
    expected = values(network, torch.from_numpy(image))
    lowered = network.with_graph(with_uint8_input(network.graph))
    found = values(lowered, torch.from_numpy(interleaved(image)))
    for name in expected.keys() & found.keys() - {INPUT}:
        made = found[name]
        if made.dtype == torch.uint8:
            made = made.permute(0, 3, 1, 2) / 255
        torch.testing.assert_close(made, expected[name], rtol=1e-6, atol=1e-6)
    assert expected.keys() <= found.keys()


@pytest.mark.parametrize(
    ("pads", "quantized", "nodes"),
    [
        (None, False, [(AS_FLOATS, "read_pixels", INPUT), ("conv", "conv2d", AS_FLOATS)]),
        (None, True, [("input.q", "read_pixels", INPUT), ("conv", "conv2d", "input.q")]),
        (
            [1, 1, 0, 0],
            False,
            [
                ("input.border.bytes", "pixel_border", INPUT),
                ("input.border", "read_pixels", "input.border.bytes"),
                ("conv", "conv2d", "input.border"),
            ],
        ),
        (
            [1, 1, 0, 0],
            True,
            [
                ("input.border", "pixel_border", INPUT),
                ("input.border.q", "read_pixels", "input.border"),
                ("conv", "conv2d", "input.border.q"),
            ],
        ),
    ],
    ids=["float", "quantized", "float with a border", "quantized with a border"],
)
def test_known_graphs(pads: list[int] | None, quantized: bool, nodes: list[tuple[str, str, str]]) -> None:
    graph = with_uint8_input(network_of(pads, quantized).graph)
    assert graph.image.shape == (5, 4, 3)
    assert [(node.name, node.op, *node.inputs) for node in graph.nodes] == nodes


def test_a_border_has_its_colour_in_levels() -> None:
    border = with_uint8_input(network_of([1, 0, 2, 3], True).graph).nodes[0]
    assert (border.shape, border.attrs["pads"], border.attrs["values"]) == ((8, 7, 3), [1, 0, 2, 3], [124, 116, 0])
