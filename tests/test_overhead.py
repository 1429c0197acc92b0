"""The size of a file that is not written yet, against files that are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from nets import MODULES, float_network

import edgeq
from edgeq.cost import file_bytes
from edgeq.modules import packed_network
from edgeq.network import Network
from edgeq.onnx_export import to_onnx
from edgeq.overhead import overhead
from edgeq.plan import plan
from edgeq.quantize import ActivationRange, BitWidth, QuantLayer, half_precision, mse_scales, quantize_weights
from edgeq.record import CalibrationRecord, LayerInfo
from edgeq.sensitivity import Widths

BITS = (8, 4, 3, 2)


def prepared(network: Network) -> tuple[Widths, CalibrationRecord]:
    """All layers rounded to nearest at every width, and a record with what an export needs."""
    generator = np.random.default_rng(0)
    widths, infos = {}, []
    for i, node in enumerate(network.graph.layers):
        weight, bias = (part.numpy() for part in network.weight_and_bias(node.name))
        own = half_precision(bias + generator.normal(0, 0.01, bias.shape).astype(np.float32))
        made: dict[int, QuantLayer] = {}
        for bits in BITS:
            width = BitWidth(bits)
            made[bits] = QuantLayer(quantize_weights(weight, mse_scales(weight, width), width), own)
        widths[node.name] = made
        infos.append(LayerInfo(node.name, "conv", i, weight.shape, 0, {}, {}))
    names = [name for group in network.graph.quantizer_groups() for name in group]
    ranges = {name: ActivationRange.covering(-generator.random(), generator.random()) for name in names}
    record = CalibrationRecord({}, {}, {}, "mse", tuple(infos), ranges, 0, 0, ((0.0, 0.0),))
    graph_bytes, packed_layer_bytes = overhead(network, widths, record)
    return widths, replace(record, graph_bytes=graph_bytes, packed_layer_bytes=packed_layer_bytes)


def mixes(record: CalibrationRecord, count: int) -> Iterator[dict[str, int]]:
    """All layers at 8, 4, 3 and 2 bits, and random mixes."""
    names = [info.name for info in record.layers]
    yield from (dict.fromkeys(names, bits) for bits in BITS)
    generator = np.random.default_rng(1)
    for _ in range(count):
        drawn = generator.choice(BITS, len(names), p=generator.dirichlet([0.5] * len(BITS)))
        yield dict(zip(names, map(int, drawn), strict=True))


def written(network: Network, widths: Widths, record: CalibrationRecord, bits: dict[str, int]) -> int:
    layers = {name: widths[name][width] for name, width in bits.items()}
    return len(to_onnx(packed_network(network, layers, record, plan(record, "8bit"))).SerializeToString())


@pytest.mark.parametrize("name", MODULES)
def test_no_file_of_a_small_network_is_larger_than_predicted(name: str) -> None:
    network = float_network(name)
    widths, record = prepared(network)
    for bits in mixes(record, 40):
        surplus = file_bytes(record, bits) - written(network, widths, record, bits)
        assert 0 <= surplus < 200 + 100 * len(record.layers), bits


@pytest.fixture(scope="module")
def embedded() -> Network:
    return edgeq.load().network


def test_the_file_of_a_real_network_is_predicted_to_half_a_percent(embedded: Network) -> None:
    widths, record = prepared(embedded)
    for bits in mixes(record, 8):
        size = written(embedded, widths, record, bits)
        assert size <= file_bytes(record, bits) <= 1.005 * size, bits
