"""Bytes and scales: known values, brute force, and properties of ranges."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.native.encoder import Encoder
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import (
    WIDTHS,
    BitWidth,
    QuantTensor,
    as_stored,
    half_precision,
    packed_bytes,
    packed_shape,
    starting_scales,
    storable,
)

LOW_WIDTHS = tuple(width for width in WIDTHS if width.bits < 8)
BY_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in WIDTHS]
LOW_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in LOW_WIDTHS]
EIGHT = BitWidth(8)
HIGHEST_REDUCED = BitWidth(8, reduce_range=True)
KNOWN = [[-13, -16], [3, 4], [26, 4]]
"""Levels of the bytes 0 and 100, and of 255 and 0, at 4 bits."""


# --- widths -------------------------------------------------------------------------------------------------------


def test_widths() -> None:
    assert [(width.bits, width.per_byte) for width in WIDTHS] == [
        (8, 1), (4, 2), (3, 3), (2, 4), (1.6, 5), (1.33, 6), (1, 8),
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [0, 1.3, 5, 16, 32, -8])
def test_other_widths(bits: float) -> None:
    with pytest.raises(UnsupportedError, match=f"^expected a width of 8, 4, 3, 2, 1.6, 1.33 or 1 bits, found {bits}$"):
        BitWidth(bits)


@pytest.mark.parametrize(
    ("shape", "rows", "fan_in"),
    [
        ((12, 5), (12, 6, 4, 3, 3, 2, 2), 5),
        ((5, 2, 3, 1), (5, 3, 2, 2, 1, 1, 1), 6),
        ((1, 1), (1, 1, 1, 1, 1, 1, 1), 1),
        ((4, 1, 3, 3), (4, 2, 2, 1, 1, 1, 1), 9),
        ((130, 3), (130, 66, 44, 34, 26, 22, 17), 3),
    ],
    ids=str,
)
def test_packed_shape_by_hand(shape: tuple[int, ...], rows: tuple[int, ...], fan_in: int) -> None:
    """The outputs are shared out by K, a rest takes one more row; more than 31 rows become equal sequences:
    65 become 3 of 22, 44 are 2 of 22, and 33 become 2 of 17."""
    assert [packed_shape(shape, width) for width in WIDTHS] == [(count, fan_in) for count in rows]
    assert [packed_bytes(shape, width) for width in WIDTHS] == [count * fan_in for count in rows]


# --- bytes --------------------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> QuantTensor:
    """Bytes of any width and of a shape whose outputs need not fill the last row."""
    width = draw(st.sampled_from(WIDTHS))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    data = draw(arrays(np.uint8, packed_shape(shape, width)))
    return QuantTensor(data, shape, np.arange(1, shape[0] + 1, dtype=np.float32), width)


def test_known_bytes_at_8_bits() -> None:
    data = np.array([[0, 1, 127], [255, 129, 128]], np.uint8)
    found = QuantTensor(data, (2, 3), np.array([1, 0.5], np.float32), EIGHT)
    assert found.levels().tolist() == [[0, 1, 127], [-1, -127, -128]]
    assert found.dequantize().tolist() == [[0, 1, 127], [-0.5, -63.5, -64]]


def test_known_bytes_at_4_bits() -> None:
    """Three outputs by two inputs, two bytes for each input, of which each comes behind the other."""
    data = np.array([[0, 255], [100, 0]], np.uint8)
    found = QuantTensor(data, (3, 2), np.array([1, 2, 0.5], np.float32), BitWidth(4))
    expected = np.array(KNOWN)
    assert found.levels().dtype == np.int8
    assert found.levels().tolist() == expected.tolist()
    assert found.dequantize().dtype == np.float32
    assert found.dequantize().tolist() == (expected * [[1], [2], [0.5]]).tolist()


@pytest.mark.parametrize("width", LOW_BITS)
def test_a_byte_holds_neighbouring_outputs_of_one_input(width: BitWidth) -> None:
    """40 rows are two sequences of 20, each of which goes on at its end with its start."""
    size, decoder = width.per_byte, width.trellis.decoder
    data = np.random.default_rng(0).integers(0, 256, (40, 2), np.uint8)
    levels = QuantTensor(data, (40 * size, 2, 1, 1), np.ones(40 * size, np.float32), width).levels()
    assert levels.shape == (40 * size, 2, 1, 1)
    for row, column in np.ndindex(40, 2):
        before = {0: 19, 20: 39}.get(row, row - 1)
        pair = 224 * int(data[before, column]) + int(data[row, column])
        np.testing.assert_array_equal(levels[row * size : (row + 1) * size, column, 0, 0], decoder[pair])


@given(tensors())
def test_dequantized_weights_are_levels_times_scales(tensor: QuantTensor) -> None:
    levels = tensor.levels()
    assert (levels.dtype, levels.shape) == (np.dtype(np.int8), tensor.shape)
    rows = levels.reshape(tensor.shape[0], -1)
    np.testing.assert_array_equal(tensor.dequantize().reshape(rows.shape), rows * tensor.scale[:, None])


@given(tensors())
def test_bytes_in_any_memory_layout(tensor: QuantTensor) -> None:
    turned = QuantTensor(np.asfortranarray(tensor.data), tensor.shape, tensor.scale, tensor.width)
    np.testing.assert_array_equal(turned.levels(), tensor.levels())


@pytest.mark.parametrize(
    ("data", "scales", "message"),
    [
        (np.zeros((2, 2), np.uint8), 3, "expected uint8[2, 4] for [3, 2, 2] at 4 bits, found uint8[2, 2]"),
        (np.zeros((3, 4), np.uint8), 3, "expected uint8[2, 4] for [3, 2, 2] at 4 bits, found uint8[3, 4]"),
        (np.zeros(8, np.uint8), 3, "expected uint8[2, 4] for [3, 2, 2] at 4 bits, found uint8[8]"),
        (np.zeros((2, 4), np.int8), 3, "expected uint8[2, 4] for [3, 2, 2] at 4 bits, found int8[2, 4]"),
        (np.zeros((2, 4), np.uint8), 4, "expected 3 scales, found [4]"),
    ],
    ids=["too few bytes", "too many bytes", "one dimension", "signed", "scales"],
)
def test_tensors_that_do_not_fit_together(data: NDArray[np.uint8], scales: int, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        QuantTensor(data, (3, 2, 2), np.ones(scales, np.float32), BitWidth(4))


# --- scales -------------------------------------------------------------------------------------------------------


def rounded(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights `[out, ...]` at the nearest of the levels -127..127, times the scale."""
    steps = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.asarray(np.clip(np.rint(weight / steps), -127, 127) * steps, np.float32)


def squared_errors(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each output channel at 8 bits, float64 `[out]`."""
    error = rounded(weight, scale).astype(np.float64) - weight
    return np.asarray((error**2).reshape(len(weight), -1).sum(axis=1))


@pytest.mark.parametrize("law", ["normal", "laplace", "uniform"])
@pytest.mark.parametrize(
    ("shape", "tolerance"),
    # In filters of a few weights, fine searches find lucky scales that no coarse one does.
    [((48, 3, 3, 3), 1.35), ((24, 64, 1, 1), 1.2), ((16, 384, 1, 1), 1.07)],
    ids=["stem", "64 inputs", "384 inputs"],
)
def test_8_bit_scales_are_nearly_as_good_as_brute_force(law: str, shape: tuple[int, ...], tolerance: float) -> None:
    rng = np.random.default_rng(0)
    laws = {"normal": rng.normal(size=shape), "laplace": rng.laplace(size=shape), "uniform": rng.random(shape) - 0.5}
    weight = laws[law].astype(np.float32)
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
    grid = [(largest * share).astype(np.float32) for share in np.linspace(0.5, 1.2, 1500)]
    brute = np.min([squared_errors(weight, scale) for scale in grid], axis=0)
    found = squared_errors(weight, starting_scales(weight, EIGHT))
    assert found.sum() <= tolerance * brute.sum()


@given(st.data())
def test_8_bit_scales_are_no_worse_than_covering_the_largest_weight(data: st.DataObject) -> None:
    shape = data.draw(array_shapes(min_dims=2, max_dims=4, max_side=5))
    weight = data.draw(arrays(np.float32, shape, elements=st.floats(-10, 10, width=32)))
    covering = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
    assume((covering > 1e-6).all())
    scale = starting_scales(weight, EIGHT)
    assert scale.dtype == np.float32
    assert scale.shape == shape[:1]
    bound = squared_errors(weight, covering.astype(np.float16).astype(np.float32))
    assert (squared_errors(weight, scale) <= bound * 1.0001 + 1e-9).all()


@given(st.data(), st.integers(-10, 10))
def test_weights_on_the_8_bit_grid_are_kept_exactly(data: st.DataObject, exponent: int) -> None:
    """Grids that are in use up to one of their ends, with a scale that float32 can hold exactly."""
    levels = data.draw(st.lists(st.integers(-127, 127), min_size=1, max_size=40))
    levels[0] = data.draw(st.sampled_from([-127, 127]))
    weight = (np.array([levels]) * 2.0**exponent).astype(np.float32)
    np.testing.assert_array_equal(rounded(weight, starting_scales(weight, EIGHT)), weight)


def test_portable_scales_keep_what_is_on_a_grid_of_7_bits() -> None:
    """With the full range the steps would be half as large, and the largest levels beyond 63."""
    weight = (np.arange(-63, 64)[None] / 64).astype(np.float32)
    assert starting_scales(weight, HIGHEST_REDUCED).tolist() == [1 / 64]
    assert np.abs(weight / starting_scales(weight, EIGHT)).max() > 100


def test_the_error_is_that_of_the_scale_in_half_precision() -> None:
    """At 8 bits 0.1 / 127 is not a float16 number; the nearest, 0.00078726, stores 0.1 as 127 of it."""
    scale = starting_scales(np.array([[0.1, -0.1]], np.float32), EIGHT)
    assert scale[0] == np.float32(np.float16(0.1 / 127))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_single_weight_at_8_bits(sign: int) -> None:
    weight = np.array([[sign * 0.7]], np.float32)
    np.testing.assert_allclose(rounded(weight, starting_scales(weight, EIGHT)), weight, rtol=2.0**-11)


@pytest.mark.parametrize("width", LOW_BITS)
def test_below_8_bits_scales_suit_normal_weights(width: BitWidth) -> None:
    """No scale between half and twice as large leaves less noise by more than 0.05 dB."""
    values = np.random.default_rng(1).normal(size=(60, 20, width.per_byte)).astype(np.float32)
    scale, encoder = starting_scales(values.reshape(1, -1), width)[0], Encoder(width.trellis)

    def noise(factor: float) -> float:
        step = scale * np.float32(factor)
        found = width.trellis.decode(encoder.encode(values / step, np.ones_like(values)))
        return float(np.square(values - found * step).mean())

    assert noise(1.0) < 10**0.005 * min(noise(factor) for factor in 2 ** np.linspace(-1, 1, 21))


@pytest.mark.parametrize("width", LOW_BITS)
def test_below_8_bits_only_the_power_of_the_weights_counts(width: BitWidth) -> None:
    """Root mean squares of 2 and of sqrt((9 + 16) / 2) = 3.5355."""
    first, second = starting_scales(np.array([[2, -2], [3, -4]], np.float32), width)
    np.testing.assert_allclose(second / first, 3.5355339 / 2, rtol=2.0**-10)


@given(st.data(), st.sampled_from(WIDTHS), st.integers(-60, 60))
def test_scales_are_float16_numbers_where_these_are_close(data: st.DataObject, width: BitWidth, exponent: int) -> None:
    """Where weights are beyond the range of float16, so are their scales: the weights must not be clipped."""
    weight = data.draw(arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32))) * np.float32(2.0**exponent)
    scale = starting_scales(weight, width)
    assert (scale.dtype, scale.shape) == (np.dtype(np.float32), (3,))
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    common = scale[(scale >= 2.0**-22) & (scale <= 65504)]
    np.testing.assert_array_equal(common, common.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("factor", [1e-12, 1e-7, 1.0, 1e9, 1e20])
def test_weights_of_any_magnitude_keep_their_precision(factor: float) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32) * np.float32(factor)
    error = rounded(weight, starting_scales(weight, EIGHT)) - weight
    assert np.square(error / factor).sum() < 1e-4 * np.square(weight / factor).sum()


@pytest.mark.parametrize("width", BY_BITS)
def test_a_channel_of_zeros_comes_to_nothing_and_disturbs_no_other(width: BitWidth) -> None:
    """At 8 bits its levels are 0; below, they may be up to 63, and 63 x 2^-20 = 0.00006."""
    weight = np.random.default_rng(0).normal(size=(3, 4, 3, 3)).astype(np.float32)
    weight[1] = 0
    scale = starting_scales(weight, width)
    assert scale[1] == (1 if width.bits == 8 else 2.0**-20)
    np.testing.assert_array_equal(scale[[0, 2]], starting_scales(weight[[0, 2]], width))


@pytest.mark.parametrize("width", BY_BITS)
def test_scales_follow_the_scale_of_the_weights(width: BitWidth) -> None:
    weight = np.random.default_rng(1).normal(size=(5, 50)).astype(np.float32)
    np.testing.assert_array_equal(starting_scales(weight * np.float32(8), width), starting_scales(weight, width) * 8)


def test_storable_scales_by_hand() -> None:
    """0.1 is no number of float16, whose largest is 65504; below 2^-22 its steps of 2^-24 are too coarse."""
    found = storable(np.array([1.0, 0.1, 2.0**-22 + 2.0**-26, 0.0, 1e-12, 1e6], np.float32))
    assert found.dtype == np.float32
    expected = [1.0, 0.0999755859375, 2.0**-22, 2.0**-100, 1e-12, 1e6]
    assert found.tolist() == np.array(expected, np.float32).tolist()


# --- half precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1 + 2**-11, 0.1], [1.0, 0.0999755859375]),
        ([65504.0, -1e-9], [65504.0, 0.0]),
        ([65519.0, 1.0], [65504.0, 1.0]),
        ([65520.0, 1 + 2**-11], [65520.0, 1 + 2**-11]),
        ([-1e30, 1 + 2**-11], [-1e30, 1 + 2**-11]),
    ],
    ids=["rounded", "the largest, and none", "just below too large", "too large", "far too large"],
)
def test_half_precision(values: list[float], expected: list[float]) -> None:
    found = half_precision(np.array(values, np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == np.array(expected, np.float32).tolist()


def test_half_precision_within_a_tolerance() -> None:
    """Between 512 and 1024 float16 has steps of 0.5: 600.2 moves by 0.2."""
    values = np.array([0.1, 600.2], np.float32)
    assert half_precision(values, 0.25).tolist() == [0.0999755859375, 600.0]
    assert half_precision(values, 0.15).tolist() == values.tolist()


@given(arrays(np.float32, st.integers(0, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@example(np.array([0.5, -0.0], np.float32))
@example(np.array([0.5, 0.1], np.float32))
@example(np.array([65536.0, 0.5], np.float32))
def test_half_the_bytes_only_where_nothing_is_lost(values: NDArray[np.float32]) -> None:
    found = as_stored(values)
    assert found.astype(np.float32).tobytes() == values.tobytes()
    halves = all(abs(v) <= 65504 and np.float16(v) == v for v in values)
    assert found.dtype == (np.float16 if halves else np.float32)


# --- activation ranges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 2.55, (0.0, 2.55, 0.01, 0)),
        (-2.55, 0.0, (-2.55, 0.0, 0.01, 255)),
        (-1.0, 1.55, (-1.0, 1.55, 0.01, 100)),
        (1.0, 2.55, (0.0, 2.55, 0.01, 0)),
        (-2.55, -1.0, (-2.55, 0.0, 0.01, 255)),
        (0.0, 0.0, (0.0, 1.0, 1 / 255, 0)),
    ],
    ids=["positive", "negative", "both", "0 is taken in below", "0 is taken in above", "always zero"],
)
def test_range_by_hand(low: float, high: float, expected: tuple[float, ...]) -> None:
    found = ActivationRange.covering(low, high)
    assert (found.low, found.high, found.scale, found.zero_point) == pytest.approx(expected, rel=1e-6)


NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(NUMBERS, NUMBERS)
@example(0.0, 1e-45)  # a 255th of it is no float32 any more
def test_zero_is_a_level_and_no_end_moves_by_more_than_half_a_step(first: float, second: float) -> None:
    low, high = min(first, second), max(first, second)
    found = ActivationRange.covering(low, high)
    assert 0 <= found.zero_point <= 255
    assert 0 < found.scale < np.inf
    assert found.scale == np.float32(found.scale)
    assert (0 - found.zero_point) * found.scale == pytest.approx(found.low, rel=1e-6)
    assert (255 - found.zero_point) * found.scale == pytest.approx(found.high, rel=1e-6)
    assert found.low <= 0 <= found.high
    slack = found.scale * 0.501 if low < high or low else 1
    assert found.low <= min(low, 0) + slack
    assert found.high >= max(high, 0) - slack
