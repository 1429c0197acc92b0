from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import MODULES, SHAPE, float_network, images, quantized, randomized
from numpy.typing import NDArray
from torch import nn

from edgeq import rounding
from edgeq.calibrate import calibrate
from edgeq.checkpoint import Checkpoint
from edgeq.errors import ArtifactError, DataError
from edgeq.graph import Node
from edgeq.modules import PackedConv2d, packed_network
from edgeq.network import Network
from edgeq.ops import dequantize
from edgeq.plan import plan
from edgeq.quantize import BitWidth, QuantLayer, stored_bias
from edgeq.rounding import quantize
from edgeq.trace import trace


@pytest.mark.parametrize("name", MODULES)
def test_codes_scales_and_biases_lie_on_their_grids(name: str) -> None:
    found = quantized(name, "adaptive")
    assert list(found.layers) == [node.name for node in found.network.graph.layers]
    for node in found.network.graph.layers:
        layer, bits = found.layers[node.name], found.plan.bits[node.name]
        width = BitWidth(bits)
        assert layer.weight.width == width
        assert layer.weight.codes.shape == tuple(found.network.weight_and_bias(node.name)[0].shape)
        assert layer.weight.codes.min() >= width.qmin
        assert layer.weight.codes.max() <= width.qmax
        assert layer.weight.scale.all()
        np.testing.assert_array_equal(layer.weight.scale, layer.weight.scale.astype(np.float16).astype(np.float32))
        step = layer.weight.scale.astype(np.float64) * found.record.activations[node.inputs[0]].scale
        np.testing.assert_array_equal(layer.bias, layer.bias.astype(np.float16).astype(np.float32))
        # A level of the grid in which kernels add biases, but for the rounding to half precision.
        off = np.abs(layer.bias - np.rint(layer.bias / step) * step)
        assert (off <= np.abs(layer.bias) * 2.0**-11 + 1e-7).all()


def test_biases_are_free_with_float_activations() -> None:
    found = quantized("residual", "4bit", 32)
    layer = found.layers["head.0"]
    step = layer.weight.scale * found.record.activations["add"].scale
    assert np.abs(layer.bias / step - np.rint(layer.bias / step)).max() > 0.05


def test_float_plan_quantizes_nothing() -> None:
    found = quantized("flat", "8bit")
    assert quantize(found.network, found.record, plan(found.record, "fp32"), found.batches) == {}


def sqnr(found: Network, network: Network) -> float:
    """Signal-to-quantization-noise ratio of the logits, in dB."""
    x = torch.from_numpy(images(64, 9))
    with torch.inference_mode():
        expected, noise = network(x), network(x) - found(x)
    return float(10 * torch.log10(expected.square().sum() / noise.square().sum()))


@pytest.mark.parametrize("name", MODULES)
def test_more_bits_come_closer(name: str) -> None:
    ratios = [sqnr(quantized(name, scheme, 32).packed, float_network(name)) for scheme in ("2bit", "4bit", "8bit")]
    assert ratios[0] + 6 < ratios[1]
    assert ratios[1] + 12 < ratios[2]
    assert ratios[2] > 35


@pytest.mark.parametrize("scheme", ["4bit", "2bit"])
def test_better_than_rounding_each_weight_to_the_nearest(scheme: str) -> None:
    found = quantized("residual", scheme, 32)
    plain = {}
    for node in found.network.graph.layers:
        weight, bias = found.network.weight_and_bias(node.name)
        made = found.layers[node.name].weight
        codes = np.rint(weight.numpy() / made.scale.reshape(-1, 1, 1, 1)).clip(made.width.qmin, made.width.qmax)
        tensor = type(made)(codes.astype(np.int8), made.scale, made.width)
        plain[node.name] = QuantLayer(tensor, bias.numpy())
    rounded = packed_network(found.network, plain, found.record, found.plan)
    assert sqnr(found.packed, found.network) > sqnr(rounded, found.network) + 1


def quantize_alone(
    module: nn.Module, batches: list[NDArray[np.float32]], scheme: str = "4bit"
) -> tuple[Network, Network]:
    """A network before and after all stages."""
    network = trace(module.eval(), SHAPE)
    record = calibrate(network, batches)
    chosen = plan(record, scheme)
    return network, packed_network(network, quantize(network, record, chosen, batches), record, chosen)


def test_all_zero_channel() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    randomized(module)
    with torch.no_grad():
        module.get_parameter("0.weight")[1] = 0
    network, packed = quantize_alone(module, [images(16, 1)])
    layer = packed.layer("0")
    assert isinstance(layer, PackedConv2d)
    weight = dequantize(layer.packed, layer.scale, layer.shape, layer.bits)
    assert weight.flatten(1).any(dim=1).tolist() == [True, False, True, True]
    assert sqnr(packed, network) > 10


@pytest.mark.parametrize("value", [0.0, 1.0, 100.0, -3e4])
def test_constant_input(value: float) -> None:
    """Nothing varies, so the bias alone must make the output right, whatever the weights are rounded to."""
    module = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)))
    x = np.full((4, *SHAPE), value, np.float32)
    network, packed = quantize_alone(module, [x, x])
    with torch.inference_mode():
        expected, found = network(torch.from_numpy(x)), packed(torch.from_numpy(x))
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_refused() -> None:
    found, other = quantized("flat", "4bit"), quantized("fire", "4bit")
    with pytest.raises(
        ArtifactError, match=r"^the plan is of another network: its layers are not those of this one; plan"
    ):
        quantize(found.network, found.record, other.plan, found.batches)
    with pytest.raises(DataError, match=r"^no calibration images; expected at least one$"):
        quantize(found.network, found.record, found.plan, [])
    with pytest.raises(DataError, match=r"^expected batches of images \[3, 16, 16\], found \[3, 8, 8\]$"):
        quantize(found.network, found.record, found.plan, [np.zeros((1, 3, 8, 8), np.float32)])
    with pytest.raises(DataError, match=r"^a batch of images holds NaN or infinite values; expected finite ones$"):
        quantize(found.network, found.record, found.plan, [np.full((1, *SHAPE), np.nan, np.float32)])


def test_seed_chooses_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantized("residual", "2bit")
    for name in ("_MIN_ROWS", "_ROWS_PER_INPUT"):  # so that not all positions of the small maps are taken
        monkeypatch.setattr(f"edgeq.rounding.{name}", 1)

    def codes(seed: int) -> list[bytes]:
        layers = quantize(found.network, found.record, found.plan, found.batches, seed)
        return [layer.weight.codes.tobytes() + layer.bias.tobytes() for layer in layers.values()]

    assert codes(0) == codes(0)
    assert codes(0) != codes(1)


def test_progress_names_every_layer() -> None:
    found, names = quantized("flat", "4bit"), list[str]()
    quantize(found.network, found.record, found.plan, found.batches, progress=names.append)
    assert names == ["conv", "hidden", "last"]


@pytest.mark.parametrize("kept", [1, 3])
def test_resumed_after_some_layers(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that were finished are taken as they are; of those to come each byte is the same."""
    found, path = quantized("residual", "2bit"), tmp_path / "net.unfinished"
    for constant in ("_MIN_ROWS", "_ROWS_PER_INPUT"):  # so that not all positions of the small maps are taken
        monkeypatch.setattr(rounding, constant, 1)
    whole = quantize(found.network, found.record, found.plan, found.batches)
    names = [node.name for node in found.network.graph.layers]

    def interrupt(name: str) -> None:
        if name == names[kept - 1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(found.network, found.record, found.plan, found.batches, 0, interrupt, Checkpoint(path, "work"))
    computed, compute = list[str](), rounding._quantize_layer

    def counted(network: Network, node: Node, *args: Any) -> QuantLayer:
        computed.append(node.name)
        return compute(network, node, *args)

    monkeypatch.setattr(rounding, "_quantize_layer", counted)
    seen = list[str]()
    layers = quantize(found.network, found.record, found.plan, found.batches, 0, seen.append, Checkpoint(path, "work"))
    assert computed == names[kept:]
    assert seen == list(layers) == names
    assert {name: as_bytes(layer) for name, layer in layers.items()} == {
        name: as_bytes(layer) for name, layer in whole.items()
    }


def as_bytes(layer: QuantLayer) -> tuple[bytes, bytes, bytes]:
    return layer.weight.codes.tobytes(), layer.weight.scale.tobytes(), layer.bias.tobytes()


def test_stored_bias_by_hand() -> None:
    """Units of 0.1 * 0.5 = 0.05 and, of the mirrored grid, -0.1 * 0.5; then float16: 0.15 is 0.1500244140625 there."""
    bias, scale = np.array([0.16, 0.16, -0.04], np.float32), np.array([0.1, -0.1, 0.1], np.float32)
    found = stored_bias(bias, scale, 0.5)
    assert found.dtype == np.float32
    assert found.tolist() == [0.1500244140625, 0.1500244140625, -0.04998779296875]
    assert stored_bias(bias, scale, None).tolist() == [0.1600341796875, 0.1600341796875, -0.040008544921875]
