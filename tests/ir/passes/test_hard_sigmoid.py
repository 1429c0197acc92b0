"""Hard sigmoids and hard swishes in uint8: the same function, on levels, with no float kernel in the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import SHAPE, images, randomized
from torch import Tensor, nn

import edgeq
from edgeq.calibration.ranges import RangeChoice
from edgeq.exporters.onnx.model import to_onnx
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.passes.hard_sigmoid import clipping, fitted, on_codes
from edgeq.numerics.activations import ActivationRange
from edgeq.packed.activations import ActivationQuantizer
from edgeq.runtimes.onnxruntime import onnx_runner, session_of

MAP = (4, 8, 8)
CONV = Node("conv", "conv2d", (INPUT,), MAP)
GATE = Node("gate", "hardsigmoid", ("conv",), MAP)
SWISH = Node("swish", "hardswish", ("conv",), MAP)


def found(high: float, *nodes: Node, source: str = "conv", made: str = "") -> ActivationRange:
    """What becomes of a range `[-8, high]` of what the hard sigmoid reads, or of what it makes, before a layer."""
    layer = Node("layer", "conv2d", (nodes[-1].name,), MAP)
    ranges = dict.fromkeys([INPUT, *(node.name for node in nodes)], ActivationRange.covering(-8, 1))
    graph = Graph.of_image((3, 8, 8), (*nodes, layer))
    return fitted(graph, ranges | {source: ActivationRange.covering(-8, high)})[made or source]


@given(st.floats(0, 700))
def test_the_lowest_level_is_minus_three(high: float) -> None:
    made = found(high, CONV, SWISH)
    assert made.scale * made.zero_point == pytest.approx(3, rel=1e-6)
    assert made.scale == np.float32(made.scale)
    assert (made.low, made.high) == (-made.zero_point * made.scale, (255 - made.zero_point) * made.scale)
    widest = ActivationRange.covering(-8, high).high
    assert widest * (1 - 1e-6) <= made.high  # nothing more is clipped
    assert 3 / (made.zero_point + 1) < (3 + widest) / 255 * (1 + 1e-6)  # and another step would be too many


def test_known_range_of_a_hard_swish() -> None:
    """13 / 255 is a 58.8th of 3: 58 steps of 3 / 58."""
    made = found(10, CONV, SWISH)
    assert (made.zero_point, made.scale) == (58, float(np.float32(3 / 58)))
    assert made.high == pytest.approx(197 * 3 / 58)


def test_of_a_hard_sigmoid_alone_nothing_counts_beyond_three() -> None:
    made = found(10, CONV, GATE)
    assert (made.zero_point, made.scale) == (127, float(np.float32(3 / 127)))


def test_a_hard_sigmoid_has_the_levels_of_its_input() -> None:
    """So nothing is rounded where it is rounded to them, as quantization does."""
    x, gate = found(10, CONV, GATE), found(10, CONV, GATE, made="gate")
    assert (gate.scale, gate.zero_point) == (float(np.float32(x.scale / 6)), 0)
    values = nn.functional.hardsigmoid(x.scale * (torch.arange(256) - x.zero_point))
    torch.testing.assert_close(ActivationQuantizer(gate.scale, 0)(values), values, rtol=1e-6, atol=1e-7)


def test_two_hard_swishes_in_a_row() -> None:
    nodes = CONV, SWISH, Node("again", "hardswish", ("swish",), MAP)
    assert found(10, *nodes).zero_point == found(10, *nodes, source="swish").zero_point == 58


@pytest.mark.parametrize(
    "nodes",
    [
        (CONV, GATE, Node("mul", "mul", ("conv", "gate"), MAP)),
        (CONV, Node("next", "conv2d", ("conv",), MAP), SWISH),
        (Node("first", "conv2d", (INPUT,), MAP), Node("conv", "max_pool2d", ("first",), MAP), SWISH),
    ],
    ids=["a factor", "read by a layer", "shared scale"],
)
def test_what_others_need_below_minus_three_stays(nodes: tuple[Node, ...]) -> None:
    assert found(10, *nodes) == ActivationRange.covering(-8, 10)


def test_pixels_keep_their_scale() -> None:
    gate = Node("gate", "hardsigmoid", (INPUT,), (3, 8, 8))
    assert found(1, gate, source=INPUT) == ActivationRange.covering(-8, 1)


def test_a_range_of_which_a_step_is_more_than_three_stays() -> None:
    assert found(762, CONV, SWISH).zero_point == 1
    assert found(770, CONV, SWISH) == ActivationRange.covering(-8, 770)


LEVELS_FROM_MINUS_THREE = {"scale": float(np.float32(3 / 58)), "zero_point": 58}
STORED = Node("conv.q", "quantize", (INPUT,), MAP, LEVELS_FROM_MINUS_THREE)
ON_CODES = Node("gate", "hardsigmoid", ("conv.q",), MAP)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ((STORED, ON_CODES), ["conv.q.codes to_codes", "gate.clipped clip_codes", "gate dequantize"]),
        (
            (STORED, ON_CODES, Node("mul", "mul", ("conv.q", "gate"), MAP)),
            [
                "conv.q.codes to_codes", "conv.q dequantize", "gate.clipped clip_codes", "gate dequantize", "mul mul",
            ],
        ),
        (
            (replace(STORED, attrs={"scale": 3 / 128, "zero_point": 128}), ON_CODES),  # no code is above twice 128
            ["conv.q.codes to_codes", "gate dequantize"],
        ),
        (
            (replace(STORED, attrs={"scale": 3 / 58, "zero_point": 59}), ON_CODES),  # whose lowest level is not -3
            ["conv.q quantize", "gate hardsigmoid"],
        ),
    ],
    ids=["codes alone", "floats as well", "nothing to clip", "another range"],
)  # fmt: skip
def test_graphs_on_codes(nodes: tuple[Node, ...], expected: list[str]) -> None:
    assert [f"{node.name} {node.op}" for node in on_codes(Graph.of_image(MAP, nodes)).nodes] == expected


@given(st.integers(1, 255), st.integers(0, 99))
def test_on_codes_the_values_are_the_same(steps: int, seed: int) -> None:
    """Of whatever scale, up to the rounding of floats: products with the input as well."""
    scale = float(np.float32(3 / steps))
    stored = replace(STORED, attrs={"scale": scale, "zero_point": steps})
    graph = Graph.of_image(MAP, (stored, ON_CODES, Node("mul", "mul", ("conv.q", "gate"), MAP)))
    network = Network(graph, {"conv.q": ActivationQuantizer(scale, steps)})
    x = 4 * torch.randn(2, *MAP, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(network.with_graph(on_codes(graph))(x), network(x), rtol=1e-5, atol=1e-6)


class Gates(nn.Module):
    """A hard swish behind the convolution of the image, and channels scaled by a squeeze, as in MobileNetV3."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.stem, self.squeeze, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.spread * self.stem(x))
        x = x * nn.functional.hardsigmoid(self.squeeze(x.mean([2, 3], keepdim=True)))
        found: Tensor = self.last(x).mean([2, 3])
        return found


def kernels(path: Path, folder: Path) -> Counter[str]:
    """How many kernels of each name the runtime chooses."""
    made = folder / "optimized.onnx"
    session_of(str(path), threads=1, settings={"optimized_model_filepath": str(made)})
    return Counter(node.op_type for node in onnx.load(made).graph.node)


@pytest.mark.parametrize("observer", ["damage", "minmax"])
@pytest.mark.parametrize("spread", [0.2, 1.0, 4.0])
def test_no_float_kernel_is_left(spread: float, observer: RangeChoice, tmp_path: Path) -> None:
    network, batches = edgeq.trace(randomized(Gates(spread)), SHAPE), [images(16, 1)]
    record = edgeq.calibrate(network, batches, observer)
    plan = edgeq.plan(record, "8bit")
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    gates = [node for node in packed.graph.nodes if node.op == "hardsigmoid"]
    assert len(gates) == 2
    assert {name: source.name for name, source in clipping(packed.graph).items()} == {
        node.name: node.inputs[0] for node in gates
    }
    manifest = edgeq.export(packed, tmp_path / "m.onnx", record, plan, batches)
    assert manifest["in_float"] == {"global_avg_pool:2": "computes an output from those of the last layers"}
    assert manifest["parity"]["outputs"]["logits"]["within_one_step"] == 1
    found = kernels(tmp_path / "m.onnx", tmp_path)
    assert not {*found} & {"HardSigmoid", "HardSwish", "Mul"}
    assert found["DequantizeLinear"] == 1  # of what the answers are averages of; nobody else reads floats


def test_known_codes(tmp_path: Path) -> None:
    """Of scale 3 / 4 and zero point 4, codes 0 to 8 and above are eighths."""
    nodes = (
        Node("q", "quantize", (INPUT,), (1, 1, 12), {"scale": 0.75, "zero_point": 4}),
        Node("gate", "hardsigmoid", ("q",), (1, 1, 12)),
    )
    network = Network(Graph.of_image((1, 1, 12), nodes), {"q": ActivationQuantizer(0.75, 4)})
    x = 0.75 * (torch.arange(12, dtype=torch.float32) - 4).reshape(1, 1, 1, 12)
    expected = np.minimum(np.arange(12), 8).reshape(1, 1, 1, 12) / 8
    np.testing.assert_allclose(network(x).numpy(), expected, atol=1e-7)
    (tmp_path / "m.onnx").write_bytes(to_onnx(network).SerializeToString())
    np.testing.assert_array_equal(onnx_runner(tmp_path / "m.onnx", optimize=False)(x.numpy()), expected)
