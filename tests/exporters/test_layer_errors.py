"""Errors of layers' outputs: decibels of networks that are off by known factors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import images, quantized
from torch import nn

from edgeq.exporters.export import export
from edgeq.exporters.layer_errors import layer_sqnr
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.batches import Images
from edgeq.ir.network import Network, float_layer


def scaled(network: Network, factors: Mapping[str, float]) -> Network:
    """A network whose layers are multiplied by factors, made of this one."""
    layers = {
        node.name: float_layer(node, factors[node.name] * network.weight_and_bias(node.name)[0], None)
        for node in network.graph.layers
    }
    return Network(network.graph, layers, original=network)


def two_layers() -> Network:
    return trace(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)), (3, 4, 4))


def test_a_tenth_off_is_20_db_and_errors_add_up() -> None:
    network = two_layers()
    found = layer_sqnr(
        scaled(network, {"0": 0.9, "1": 0.9}), {"0": "0", "1": "1"}, Images((images(5, shape=(3, 4, 4)),))
    )
    assert found["0"] == pytest.approx(20.0, abs=1e-3)
    assert found["1"] == pytest.approx(10 * np.log10(1 / 0.19**2), abs=1e-3)


def test_no_noise_and_no_signal_have_none() -> None:
    network = two_layers()
    same = layer_sqnr(scaled(network, {"0": 1.0, "1": 1.0}), {"0": "0"}, Images((images(2, shape=(3, 4, 4)),)))
    zero = layer_sqnr(scaled(network, {"0": 0.5, "1": 1.0}), {"0": "0"}, Images((np.zeros((2, 3, 4, 4), np.float32),)))
    assert same == zero == {"0": None}


def test_without_the_float_network_nothing_is_known() -> None:
    network = two_layers()
    assert network.original is None
    assert layer_sqnr(network, {"0": "0"}, Images((images(1, shape=(3, 4, 4)),))) == {}


def test_the_float_network_is_no_part_of_the_packed_one() -> None:
    made = quantized("residual", "4bit")
    assert made.packed.original is made.network
    assert not any(name.startswith("_original") for name, _ in made.packed.named_modules())


def test_the_manifest_has_what_is_stored_after_the_activation(tmp_path: Path) -> None:
    made = quantized("residual", "4bit")
    manifest = export(made.packed, tmp_path / "m.onnx", made.record, made.plan, made.batches)
    found = manifest["layer_sqnr_db"]
    assert list(found) == [layer.name for layer in made.record.layers]
    stored = {layer.name: layer.output for layer in made.record.layers}
    assert stored["stem.0"] == "stem.2.clip"
    x = torch.from_numpy(made.batches[0])
    with torch.inference_mode():
        expected = made.network.values([x], ["stem.2.clip"])["stem.2.clip"].double()
        noise = expected - made.packed.values([x], ["stem.2.clip.q"])["stem.2.clip.q"].double()
    assert found["stem.0"] == pytest.approx(
        10 * float(torch.log10(expected.square().sum() / noise.square().sum())), abs=1e-3
    )
