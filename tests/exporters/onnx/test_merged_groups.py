"""Convolutions of few channels a group run in larger groups, whose weights are theirs and zeros."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import images, merged, randomized
from onnx import numpy_helper
from torch import nn

import edgeq
from edgeq.exporters.onnx.model import to_onnx
from edgeq.ir.network import Network
from edgeq.packed.kernels import dequantize
from edgeq.packed.modules import PackedConv2d


def packed(inputs: int, outputs: int, groups: int, recipe: edgeq.Recipe) -> Network:
    """A grouped convolution between two others."""
    torch.manual_seed(0)
    grouped = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
    layers = nn.Conv2d(3, inputs, 1), nn.ReLU(), grouped, nn.ReLU(), nn.Conv2d(outputs, 4, 1)
    network = edgeq.trace(randomized(nn.Sequential(*layers)), (3, 8, 8))
    batches = [images(4, 0, (3, 8, 8))]
    record = edgeq.calibrate(network, batches)
    plan = edgeq.plan(record, recipe)
    return edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)


def grouped(model: onnx.ModelProto) -> tuple[int, str]:
    """The groups of the convolution, and the name of its weight."""
    node = next(node for node in model.graph.node if node.name == "2")
    return next(a.i for a in node.attribute if a.name == "group"), node.input[1]


@pytest.mark.parametrize(
    "inputs, outputs, groups, wanted",
    [
        (64, 64, 32, 4),  # groups of 2 become 16
        (64, 64, 8, 4),
        (64, 64, 4, 4),  # 16 already
        (16, 16, 16, 16),  # depthwise
        (16, 64, 8, 4),  # 2 inputs and 8 outputs
        (24, 24, 2, 1),  # 12 become 24
        (14, 14, 7, 1),  # all are fewer than 16
        (56, 56, 7, 7),  # all would be 56
        (40, 40, 10, 2),  # 4 become 20, as 10 is not a multiple of 4
    ],
)
def test_how_many_groups_become_one(inputs: int, outputs: int, groups: int, wanted: int) -> None:
    assert grouped(to_onnx(packed(inputs, outputs, groups, edgeq.Recipe("8bit"))))[0] == wanted


def test_float_kernels_take_any_groups() -> None:
    assert grouped(to_onnx(packed(64, 64, 32, edgeq.Recipe("4bit", act_bits=32))))[0] == 32


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit"])
def test_weights_of_other_groups_are_zero(scheme: str) -> None:
    network = packed(16, 48, 8, edgeq.Recipe(scheme))
    model = to_onnx(network)
    _, name = grouped(model)
    model.graph.output.add().name = name
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([name], {"image": images(1, 0, (3, 8, 8))})
    layer = network.layer("2")
    assert isinstance(layer, PackedConv2d)
    weight = dequantize(layer.packed, layer.scale, layer.shape, layer.bits)
    assert np.array_equal(found, merged(weight.numpy(), 8, 4))


def test_what_zeros_are_made_by_is_the_identity() -> None:
    model = to_onnx(packed(16, 48, 8, edgeq.Recipe("8bit")))
    (own,) = [tensor for tensor in model.graph.initializer if tensor.name.startswith("own")]
    assert numpy_helper.to_array(own)[:, 0, :, 0].tolist() == np.eye(4).tolist()
