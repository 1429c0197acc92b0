"""The size of a file that is not written yet, against files that are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from nets import MODULES, SHAPE, float_network, randomized
from torch import nn

import edgeq
from edgeq.artifacts.record import CalibrationRecord, LayerInfo
from edgeq.calibration.sensitivity import Widths
from edgeq.exporters.onnx.model import to_onnx
from edgeq.exporters.onnx.size import overhead
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.analysis import quantizer_groups
from edgeq.ir.network import Network
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import (
    WIDTHS,
    BitWidth,
    QuantLayer,
    QuantTensor,
    half_precision,
    packed_shape,
    starting_scales,
)
from edgeq.packed.pack import pack
from edgeq.planning.cost import file_bytes
from edgeq.planning.plan import plan

BITS = tuple(width.bits for width in WIDTHS)


def prepared(network: Network) -> tuple[Widths, CalibrationRecord]:
    """All layers at every width, of random bytes, and a record with what an export needs.

    Calibration finds biases that fit no half precision; those of exports do.
    """
    generator = np.random.default_rng(0)
    widths, infos = {}, []
    for i, node in enumerate(network.graph.layers):
        weight, bias = (part.numpy() for part in network.weight_and_bias(node.name))
        shape = tuple(weight.shape)
        own = half_precision(bias + generator.normal(0, 0.01, bias.shape).astype(np.float32))
        made: dict[float, QuantLayer] = {}
        for bits in BITS:
            width = BitWidth(bits)
            data = generator.integers(0, 256, packed_shape(shape, width), np.uint8)
            made[bits] = QuantLayer(QuantTensor(data, shape, starting_scales(weight, width), width), own)
        widths[node.name] = made
        infos.append(LayerInfo(node.name, "conv", i, shape, 0, {}, {}, node.name))
    names = [name for group in quantizer_groups(network.graph) for name in group]
    ranges = {name: ActivationRange.covering(-generator.random(), generator.random()) for name in names}
    record = CalibrationRecord({}, {}, {}, "mse", tuple(infos), ranges, (), {}, 0, 0, 0, ((0.0, 0.0),))
    found = {
        name: {bits: replace(layer, bias=layer.bias + np.float32(1e-6)) for bits, layer in made.items()}
        for name, made in widths.items()
    }
    graph, packed_layer, cut_layer = overhead(network, found, record)
    return widths, replace(record, graph_bytes=graph, packed_layer_bytes=packed_layer, cut_layer_bytes=cut_layer)


def mixes(record: CalibrationRecord, count: int) -> Iterator[dict[str, float]]:
    """All layers at each width, and random mixes."""
    names = [info.name for info in record.layers]
    yield from (dict.fromkeys(names, bits) for bits in BITS)
    generator = np.random.default_rng(1)
    for _ in range(count):
        drawn = generator.choice(BITS, len(names), p=generator.dirichlet([0.5] * len(BITS)))
        yield dict(zip(names, drawn.tolist(), strict=True))


def written(network: Network, widths: Widths, record: CalibrationRecord, bits: dict[str, float]) -> int:
    layers = {name: widths[name][width] for name, width in bits.items()}
    return len(to_onnx(pack(network, layers, record, plan(record, "8bit"))).SerializeToString())


def assert_predicted(network: Network) -> None:
    """No file is larger than predicted, nor much smaller."""
    widths, record = prepared(network)
    for bits in mixes(record, 40):
        surplus = file_bytes(record, bits) - written(network, widths, record, bits)
        assert 0 <= surplus < 1000 + 120 * len(record.layers), bits


@pytest.mark.parametrize("name", MODULES)
def test_no_file_of_a_small_network_is_larger_than_predicted(name: str) -> None:
    assert_predicted(float_network(name))


def in_sequence(**layers: nn.Module) -> Network:
    """Traced, with these module names."""
    return trace(randomized(nn.Sequential(OrderedDict(layers))), SHAPE)


def test_where_no_layer_fills_its_last_row_of_bytes() -> None:
    """5, 7, 11 and 13 outputs are multiples of no K, but for one: layers cut something off, at every width."""
    network = in_sequence(
        first=nn.Conv2d(3, 5, 3, 2), relu=nn.ReLU(), second=nn.Conv2d(5, 7, 1), third=nn.Conv2d(7, 11, 3),
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), last=nn.Linear(11, 13),
    )  # fmt: skip
    assert_predicted(network)


def test_layers_that_are_called_tables_are_weighed_too() -> None:
    network = in_sequence(trellis4=nn.Conv2d(3, 24, 3, 2), decoder4=nn.Conv2d(24, 36, 1), flatten=nn.Flatten())
    assert_predicted(network)


@pytest.fixture(scope="module")
def embedded() -> Network:
    return edgeq.load().network


def test_the_file_of_a_real_network_is_predicted_to_two_percent(embedded: Network) -> None:
    """Most of that is room for cutting outputs off at 3 bits, which most numbers of channels need."""
    widths, record = prepared(embedded)
    for bits in mixes(record, 8):
        size = written(embedded, widths, record, bits)
        assert size <= file_bytes(record, bits) <= 1.02 * size, bits
