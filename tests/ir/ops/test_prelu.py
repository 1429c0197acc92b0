from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from nets import SHAPE, images, randomized
from onnx import numpy_helper
from torch import nn

import edgeq
from edgeq.exporters.onnx.model import to_onnx
from edgeq.ir.analysis import cuts, float_outputs, quantizer_groups
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.passes.insert_quantizers import with_quantizers
from edgeq.numerics.activations import ActivationRange

SLOPES = [0.1, -2.0, 0.0]


def prelu(slopes: list[float]) -> Network:
    return Network(Graph.of_image((3, 1, 2), (Node("act", "prelu", (INPUT,), (3, 1, 2), {"slopes": slopes}),)), {})


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [
        ([0.5, -1.0, 0.0], [[[-1.0, 3.0]], [[2.0, 3.0]], [[0.0, 3.0]]]),
        ([0.5], [[[-1.0, 3.0]]] * 3),
    ],
    ids=["of each channel", "of all"],
)
def test_prelu_multiplies_what_is_negative(slopes: list[float], expected: list[list[list[float]]]) -> None:
    x = torch.tensor([-2.0, 3.0]).expand(1, 3, 1, 2)
    assert prelu(slopes)(x)[0].tolist() == expected


def test_slopes_lose_nothing_on_their_way_through_json() -> None:
    weight = torch.randn(50, generator=torch.Generator().manual_seed(0))
    module = nn.PReLU(50)
    module.weight.data.copy_(weight)
    graph = edgeq.trace(nn.Sequential(nn.Conv2d(3, 50, 1), module), SHAPE).graph
    read = Graph.from_dict(json.loads(json.dumps(graph.to_dict())))
    assert torch.equal(torch.tensor(read.nodes[-1].attrs["slopes"]), weight)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5)])
def test_prelu_of_any_rank_has_a_slope_for_each_channel_in_onnx(shape: tuple[int, ...]) -> None:
    node = Node("act", "prelu", (INPUT,), shape, {"slopes": SLOPES})
    model = to_onnx(Network(Graph.of_image(shape, (node,)), {}))
    held = {one.name: numpy_helper.to_array(one).shape for one in model.graph.initializer}
    assert held == {"act.slopes": (3, *[1] * (len(shape) - 1)), "zero": ()}
    assert [node.op_type for node in model.graph.node] == ["Min", "Mul", "Relu", "Add"]  # faster than PRelu


def test_prelu_is_quantized_as_a_leaky_relu_is() -> None:
    """In uint8 before and behind, with the same sharing."""

    def graph(act: Node) -> Graph:
        conv = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
        pooled = Node("pool", "max_pool2d", ("act",), (3, 4, 4))
        last = Node("last", "conv2d", ("pool",), (3, 4, 4), conv)
        return Graph.of_image((3, 8, 8), (Node("conv", "conv2d", (INPUT,), (3, 8, 8), conv), act, pooled, last))

    prelus = graph(Node("act", "prelu", ("conv",), (3, 8, 8), {"slopes": SLOPES}))
    leaky = graph(Node("act", "leaky_relu", ("conv",), (3, 8, 8), {"slope": 0.1}))
    assert quantizer_groups(prelus) == quantizer_groups(leaky) == ((INPUT,), ("conv",), ("act", "pool"), ("last",))
    assert (cuts(prelus), float_outputs(prelus)) == (cuts(leaky), float_outputs(leaky))
    ranges = dict.fromkeys([INPUT, "conv", "act", "pool", "last"], ActivationRange.covering(-1, 1))
    quantized = [[node.name for node in with_quantizers(each, ranges).nodes] for each in (prelus, leaky)]
    assert quantized[0] == quantized[1]
    assert {"conv.q", "act.q"} <= {*quantized[0]}


def test_a_network_of_prelus_end_to_end(tmp_path: Path) -> None:
    """The packed file computes the same, OpenVINO too, and the manifest says what stays in float."""
    openvino = pytest.importorskip("openvino")
    act = nn.PReLU(6)
    act.weight.data.copy_(torch.linspace(-0.5, 1.5, 6))
    module = randomized(nn.Sequential(nn.Conv2d(3, 6, 3), act, nn.Conv2d(6, 4, 3), nn.PReLU(), nn.Flatten()))
    network, batches = edgeq.trace(module, SHAPE), [images(8, 1)]
    assert [node.op for node in network.graph.nodes] == ["conv2d", "prelu", "conv2d", "leaky_relu", "flatten"]
    record = edgeq.calibrate(network, batches)
    plan = edgeq.plan(record, edgeq.Recipe("8bit", reduce_range=True))
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    manifest = edgeq.export(packed, tmp_path / "net.onnx", record, plan, batches)
    assert manifest["in_float"] == {
        "1.prelu": "a function that runtimes compute in float, from 8 bits and to 8 bits",
        "3.leaky_relu": "computes an output from those of the last layers",
    }
    x = images(3, 2)
    with torch.inference_mode():
        ours = packed(torch.from_numpy(x))
        assert torch.equal(edgeq.load_packed(tmp_path / "net.safetensors")(torch.from_numpy(x)), ours)
    compiled = openvino.Core().compile_model(openvino.Core().read_model(tmp_path / "net.onnx"), "CPU")
    assert np.abs(compiled(x)[0] - ours.numpy()).max() <= 8.01 * manifest["parity"]["outputs"]["logits"]["step"]
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 17
