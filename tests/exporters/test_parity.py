from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import images, pixels, quantized, to_nearest
from onnx import numpy_helper

from edgeq.errors import ParityError
from edgeq.exporters import parity as parity_module
from edgeq.exporters.onnx.model import Translation, translate
from edgeq.exporters.parity import NodeParity, OutputParity, compare, compare_nodes
from edgeq.ir.batches import Images
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import BitWidth
from edgeq.packed.activations import ActivationQuantizer
from edgeq.packed.modules import PackedConv2d
from edgeq.packed.pack import packed_layer


def test_the_end_is_counted_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2000 logits, one is 2 steps off without optimizations; with them, 9 are 9 off, and one moves the top-1.

    The kernels of this CPU get 20 more of them 10 steps away from that.
    """
    x = np.zeros((2, 1000, 1, 1), np.float32)
    x[:, 7], x[:, 8] = 400.0, 399.75
    plain, fused = x.reshape(2, 1000).copy(), x.reshape(2, 1000).copy()
    plain[0, 0] = 1.0
    plain[0, 100:200] = 0.5
    fused[1, 9:18] = 4.5
    fused[1, 8] = 400.25
    here = fused.copy()
    here[0, 500:520] = 5.0

    def runner(made: Translation, path: Path, optimize: bool = True, exact: bool = False) -> Any:
        return lambda images: [fused if exact else here if optimize else plain]

    monkeypatch.setattr(parity_module, "runner", runner)
    monkeypatch.setattr(parity_module, "overflows", lambda network: True)
    monkeypatch.setattr(parity_module, "compare_nodes", lambda made, path, x: NodeParity(1.0, "", 0.5, "head"))
    # The image's pixels are the logits.
    network = Network(Graph.of_image((1000, 1, 1), (Node("flat", "flatten", (INPUT,), (1000,)),)), {})
    made, ranges = Translation(network, network, {}, onnx.ModelProto()), {"flat": ActivationRange.covering(0, 127.5)}
    parity = compare(made, Path("any"), ranges, [x])
    assert (parity.images, parity.nodes_within_one_step, parity.worst_channel) == (2, 1.0, 0.5)
    expected = OutputParity(0.5, 0.9995, 1.0, 1.0, 0.9955, 0.5, 0.01)
    assert asdict(parity.outputs["logits"]) == pytest.approx(asdict(expected))
    fused[:, 20:] = 9.5
    message = (
        "ONNX Runtime and PyTorch disagree at output logits: expected an error of at most 25% of its variance, found"
    )
    with pytest.raises(ParityError, match=f"^{message} 28%; no file was written"):
        compare(made, Path("any"), ranges, [x])


def test_a_network_that_amplifies_the_last_bits_may_differ_by_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(2, 3, (1, 4, 4))
    steep = FloatOperator("mul.Tensor", ["self"], {}, {"other": torch.tensor(4e6)})
    nodes = (
        Node("steep", "float", (INPUT,), (1, 4, 4), steep.attrs),
        Node("wave", "float", ("steep",), (1, 4, 4), FloatOperator("sin.default", ["self"], {}, {}).attrs),
        Node("flat", "flatten", ("wave",), (16,)),
    )
    layers = {"steep": steep, "wave": FloatOperator("sin.default", ["self"], {}, {})}
    network = Network(Graph.of_image((1, 4, 4), nodes), layers)
    other = np.sin(4e6 * x.astype(np.float64) * (1 + 2.0**-22)).reshape(2, 16).astype(np.float32)
    monkeypatch.setattr(parity_module, "runner", lambda *_, **__: lambda images: [other])
    monkeypatch.setattr(parity_module, "overflows", lambda network: False)
    monkeypatch.setattr(parity_module, "compare_nodes", lambda made, path, x: NodeParity())
    made = Translation(network, network, {}, onnx.ModelProto())
    assert compare(made, Path("any"), {}, [x]).outputs["logits"].within_eight_steps < 0.5
    monkeypatch.setattr(parity_module, "_LAST_BITS", 0.0)
    with pytest.raises(ParityError, match=r"^ONNX Runtime and PyTorch disagree at output logits: expected an error of"):
        compare(made, Path("any"), {}, [x])


def written(name: str, path: Path, act_bits: int = 8) -> Translation:
    made = translate(quantized(name, "4bit", act_bits).packed)
    path.write_bytes(made.model.SerializeToString())
    return made


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("name", ["residual", "flat", "fire"])
def test_every_node_agrees(name: str, act_bits: int, tmp_path: Path) -> None:
    made = written(name, tmp_path / "net.onnx", act_bits)
    found = compare_nodes(made, tmp_path / "net.onnx", Images((images(2, 5),)))
    assert (found.within_one_step, found.worst_node) == (1.0, "")
    assert found.worst_channel < 0.5


def test_a_wrong_layer_is_named(tmp_path: Path) -> None:
    """One bias in the file is moved by a fifth of its layer's range: that layer is found, not those behind it."""
    found, path = quantized("residual", "4bit"), tmp_path / "net.onnx"
    made = written("residual", path)
    layer = found.plan.layers[1].layer.name
    (tensor,) = [i for i in made.model.graph.initializer if i.name == f"{layer}.bias"]
    bias = numpy_helper.to_array(tensor).copy()
    bias += 50 * found.record.activations[layer].scale if layer in found.record.activations else 1.0
    tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    path.write_bytes(made.model.SerializeToString())
    nodes = compare_nodes(made, path, Images((images(2, 5),)))
    assert (nodes.within_one_step, nodes.worst_node) == (0.0, layer)
    with pytest.raises(ParityError, match=rf"^ONNX Runtime and PyTorch disagree at {layer}: .* found 0.00%; no file"):
        compare(made, path, {}, [images(2, 5)])


STEM = {"stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
STEM_SHAPE = (4, 4, 4)


def gated() -> Network:
    """Pixels in a border, a convolution that reads them by groups, a hard sigmoid on its codes, and their product."""
    border = {"pads": [1, 1, 0, 0], "values": [124 / 255, 116 / 255, 104 / 255]}
    stored = {"scale": 3 / 58, "zero_point": 58}
    nodes = (
        Node("border", "border", (INPUT,), (3, 9, 9), border),
        Node("border.q", "quantize", ("border",), (3, 9, 9), {"scale": 1 / 255, "zero_point": 0}),
        Node("stem", "conv2d", ("border.q",), STEM_SHAPE, STEM),
        Node("stem.q", "quantize", ("stem",), STEM_SHAPE, stored),
        Node("gate", "hardsigmoid", ("stem.q",), STEM_SHAPE),
        Node("mul", "mul", ("stem.q", "gate"), STEM_SHAPE),
    )
    layer = float_layer(nodes[2], torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(4))
    weight = to_nearest(layer.get_parameter("weight"), BitWidth(8))
    layers = {
        "border.q": ActivationQuantizer(1 / 255, 0),
        "stem": packed_layer(nodes[2], weight, torch.zeros(4)),
        "stem.q": ActivationQuantizer(3 / 58, 58),
    }
    return Network(Graph.of_image((3, 8, 8), nodes), layers).eval()


def scaled(model: onnx.ModelProto, name: str, factor: float) -> None:
    """Multiply a constant of a model."""
    (tensor,) = [i for i in model.graph.initializer if i.name == name]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))


@pytest.mark.parametrize(
    ("constant", "factor", "node"),
    [
        ("border.colour", 0.5, "border"),
        ("pixel", 2, "border.q"),
        ("stem.taps", -1, "stem"),
        ("stem.q.scale", 4, "stem.q.codes"),
        ("code116", 0.5, "gate.clipped"),
        ("gate.scale", 2, "gate.floats"),
    ],
)
def test_what_passes_made_is_compared_node_by_node(constant: str, factor: float, node: str, tmp_path: Path) -> None:
    """In the file, one constant is another: the node that has it is found, with nothing wrong before."""
    path, made = tmp_path / "net.onnx", translate(gated(), pixels=True)
    path.write_bytes(made.model.SerializeToString())
    right = compare_nodes(made, path, Images((pixels(2, 5, (3, 8, 8)),)))
    assert (right.within_one_step, right.worst_node) == (1.0, "")
    scaled(made.model, constant, factor)
    path.write_bytes(made.model.SerializeToString())
    wrong = compare_nodes(made, path, Images((pixels(2, 5, (3, 8, 8)),)))
    assert wrong.within_one_step < 0.9
    assert wrong.worst_node == node


def test_a_bias_that_saturates_only_in_optimized_kernels_is_found(tmp_path: Path) -> None:
    """One channel of 12 has weights so small that its bias is beyond int32 at their scale: 0.5 becomes a fifth."""
    found, path = quantized("residual", "8bit"), tmp_path / "net.onnx"
    packed = copy.deepcopy(found.packed)
    (head,) = [item.layer.name for item in found.plan.layers if item.layer.name.startswith("head")]
    layer = packed.layer(head)
    assert isinstance(layer, PackedConv2d)
    step = found.record.activations[next(n for n in packed.graph.nodes if n.name == head).inputs[0][:-2]].scale
    with torch.no_grad():
        layer.scale[5] = 0.1 / (2**31 * step)
        layer.bias[5] = 0.5
    made = translate(packed)
    path.write_bytes(made.model.SerializeToString())
    message = r"^ONNX Runtime and PyTorch disagree at .*: expected .*, found .*; no file"
    with pytest.raises(ParityError, match=message):
        compare(made, path, {}, [images(2, 5)])


def test_one_value_may_be_rounded_twice() -> None:
    differences = np.zeros((2, 2, 11, 11), np.float32)
    differences[0, 1, 3, 4] = -2.0
    found = NodeParity().worse("small", differences)
    assert (found.within_one_step, found.not_chance) == (1 - 1 / 484, 1.0)
    differences[1, 1, 3, 4] = 2.0
    assert found.worse("small", differences).not_chance == 1 - 2 / 484


def test_a_single_wrong_channel_among_thousands_is_found() -> None:
    """Fewer values than a node may have more than a step off, but all of one channel."""
    differences = np.zeros((2, 4000, 3, 3), np.float32)
    differences[:, 1234] = 2.0
    found = NodeParity().worse("wide", differences)
    assert found == NodeParity(0.99975, "wide", 2.0, "wide", 0.99975, "wide")
    with pytest.raises(
        ParityError, match=r"at wide: expected no channel off by more than 1 step, found one off by 2\.0"
    ):
        parity_module._check_nodes(found)


def test_values_that_cancel_out_are_counted_in_what_float32_can_tell() -> None:
    """The mean of a map that was normalized is nothing but the noise of its sum."""
    x = np.array([1000.0, -1000.0, 1.0], np.float32)
    assert parity_module._step(np.array([255e-6], np.float32), [x]) == pytest.approx(1000 * 2.0**-20)
    assert parity_module._step(np.array([255.0], np.float32), [x]) == pytest.approx(1.0)
    assert parity_module._step(np.array([3], np.uint8), [x]) == 1.0
