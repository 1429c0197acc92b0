"""Costs: layers counted by hand, and the published totals of MobileNetV2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import records
from records import record_of

from edgeq.artifacts.record import LayerInfo
from edgeq.planning.cost import (
    bitops,
    bitops_with_accumulator,
    file_bytes,
    layer_bytes,
    macs,
    stored_bytes,
    trellis_bytes,
    weight_bytes,
)


def counted(layer: LayerInfo, weight_bits: int, activation_bits: int) -> int:
    return bitops(layer.macs, weight_bits, activation_bits)


def layer(weight_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> LayerInfo:
    return LayerInfo("layer", "conv", 0, weight_shape, macs(weight_shape, output_shape), {}, {}, "layer")


def mobilenet_v2() -> Iterator[LayerInfo]:
    """MobileNetV2 1.0 for 224 x 224 pixels, from table 2 of arXiv:1801.04381."""
    yield layer((32, 3, 3, 3), (32, 112, 112))
    channels, side = 32, 112
    blocks = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, out, repeats, first_stride in blocks:
        for stride in (first_stride, *[1] * (repeats - 1)):
            hidden = channels * expansion
            if expansion > 1:
                yield layer((hidden, channels, 1, 1), (hidden, side, side))
            side //= stride
            yield layer((hidden, 1, 3, 3), (hidden, side, side))
            yield layer((out, hidden, 1, 1), (out, side, side))
            channels = out
    yield layer((1280, 320, 1, 1), (1280, 7, 7))
    yield layer((1000, 1280, 1, 1), (1000, 1, 1))


MOBILENET_V2 = tuple(mobilenet_v2())


@pytest.mark.parametrize(
    ("weight_shape", "output_shape", "expected"),
    [
        # Every output value is a sum over kernel height x kernel width x input channels of its group.
        ((4, 3, 5, 7), (4, 10, 20), 10 * 20 * 4 * 3 * 5 * 7),
        ((8, 1, 3, 3), (8, 6, 6), 6 * 6 * 8 * 9),
        ((8, 2, 1, 1), (8, 6, 6), 6 * 6 * 8 * 2),
        ((10, 20, 1, 1), (10, 1, 1), 200),
    ],
    ids=["conv", "depthwise", "grouped", "one pixel"],
)
def test_macs_by_hand(weight_shape: tuple[int, ...], output_shape: tuple[int, ...], expected: int) -> None:
    assert macs(weight_shape, output_shape) == expected


def test_bitops_by_hand() -> None:
    """A 3x3 convolution of 16 channels, so that log2(n k^2) of UNIQ's formula is log2(144)."""
    conv = layer((16, 16, 3, 3), (16, 4, 4))
    assert conv.macs == 36864
    assert bitops(conv.macs, 4, 8) == 36864 * 32
    assert bitops(conv.macs, 3, 8) == 36864 * 24
    assert [bitops(1000, bits, 8) for bits in (2, 1.6, 1.33, 1)] == [16000, 16000, 16000, 8000]
    assert bitops_with_accumulator(conv, 4, 8) == pytest.approx(36864 * (32 + 4 + 8 + 7.169925001442312))


def test_bytes_by_hand() -> None:
    """Nine inputs, and five outputs that take 5, 3, 2, 2, 1, 1 and 1 rows of bytes."""
    ragged = layer((5, 1, 3, 3), (5, 1, 1))
    assert [weight_bytes(ragged, bits) for bits in (32, 8, 4, 3, 2, 1.6, 1.33, 1)] == [180, 45, 27, 18, 18, 9, 9, 9]
    # For each of 5 channels a float32 bias, or a scale and a bias in float16.
    assert [layer_bytes(ragged, bits) for bits in (32, 8, 4, 3, 2, 1)] == [200, 65, 47, 38, 38, 29]


def test_a_table_for_each_packed_width_and_a_matrix_for_each_length() -> None:
    """40 outputs are 20 bytes at 4 bits, 14 at 3 and 10 at 2; 80 are 2 sequences of 20, 27 bytes, and 20 bytes."""
    layers = [layer((40, 9, 1, 1), (40, 1, 1)), layer((80, 9, 1, 1), (80, 1, 1))]
    assert trellis_bytes(layers, [8, 8]) == trellis_bytes(layers, [32]) == 0
    decoder, head = trellis_bytes([], [4]) - 255, 32
    assert 0 < decoder < 700
    assert trellis_bytes(layers, [4]) == 255 + decoder + (400 + head)
    matrices = (14 * 14 + head) + (27 * 27 + head) + (10 * 10 + head) + (20 * 20 + head)
    assert trellis_bytes(layers, [2, 2, 3, 8]) == 2 * 127 + 2 * 255 + 2 * decoder + matrices


def test_file_bytes_by_hand() -> None:
    record = record_of([records.layer(i) for i in range(3)], graph_bytes=5000)
    # 64 weights and 4 channels a layer; the two below 8 bits take 30 bytes each for their decode.
    layers = (64 + 16) + (32 + 16 + 30) + (16 + 16 + 30)
    assert file_bytes(record, {"layer0": 8, "layer1": 4, "layer2": 2}) == 5000 + layers + trellis_bytes(
        record.layers, [4, 2]
    )
    assert file_bytes(record, dict.fromkeys(["layer0", "layer1", "layer2"], 32)) == 5000 + 3 * (256 + 16)


def test_a_layer_whose_outputs_do_not_fill_its_bytes_is_cut() -> None:
    """Four outputs fill one byte at 2 bits and two at 4, but not one of three weights."""
    record = replace(record_of([records.layer()]), cut_layer_bytes=70)
    layer = record.layers[0]
    decoded = [stored_bytes(record, layer, bits) - layer_bytes(layer, bits) for bits in (8, 4, 3, 2, 1)]
    assert decoded == [0, 30, 100, 30, 100]


def test_mobilenet_v2_counts() -> None:
    assert len(MOBILENET_V2) == 53
    assert sum(item.macs for item in MOBILENET_V2) == 300_774_272
    assert sum(item.weights for item in MOBILENET_V2) == 3_469_760
    assert sum(weight_bytes(item, 32) for item in MOBILENET_V2) == 13_879_040


@pytest.mark.parametrize(
    ("formula", "weight_bits", "activation_bits", "expected"),
    [
        (counted, 32, 32, 308.0),
        (counted, 8, 8, 19.25),
        (counted, 4, 8, 9.62),
        (counted, 2, 8, 4.81),
        (bitops_with_accumulator, 8, 8, 26.1),
        (bitops_with_accumulator, 4, 8, 15.3),
        (bitops_with_accumulator, 2, 8, 9.86),
    ],
)
def test_mobilenet_v2_bitops(
    formula: Callable[[LayerInfo, int, int], float], weight_bits: int, activation_bits: int, expected: float
) -> None:
    total = sum(formula(item, weight_bits, activation_bits) for item in MOBILENET_V2)
    assert total / 1e9 == pytest.approx(expected, rel=0.003)
