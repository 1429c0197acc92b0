"""Scales and codes: hand-computed levels, brute force over a fine grid, and properties of ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError
from edgeq.quantize import (
    WIDTHS,
    ActivationRange,
    BitWidth,
    as_stored,
    half_precision,
    mse_scales,
    quantize_weights,
)

BY_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in WIDTHS]
LOW_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in WIDTHS if width.bits < 8]


def squared_errors(weight: NDArray[np.float32], scale: NDArray[np.float32], width: BitWidth) -> NDArray[np.float64]:
    """Of each output channel, float64 `[out]`."""
    error = quantize_weights(weight, scale, width).dequantize().astype(np.float64) - weight
    return np.asarray((error**2).reshape(len(weight), -1).sum(axis=1))


# --- widths -------------------------------------------------------------------------------------------------------


def test_widths() -> None:
    assert [(w.bits, w.qmin, w.qmax, w.levels, w.per_byte) for w in WIDTHS] == [
        (8, -127, 127, 255, 1), (4, -8, 7, 16, 2), (3, -3, 2, 6, 3), (2, -2, 1, 4, 4),
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [0, 1, 5, 16, 32, -8])
def test_other_widths(bits: int) -> None:
    with pytest.raises(UnsupportedError, match=f"^expected a width of 8, 4, 3 or 2 bits, found {bits}$"):
        BitWidth(bits)


# --- codes --------------------------------------------------------------------------------------------------------


def test_codes_by_hand() -> None:
    """Halves go to the even level, what is outside is clipped, and each output channel has its own scale."""
    weight = np.array([[0.5, 1.5, 2.5, -0.5], [30.0, 20.0, -30.0, 1.0]], np.float32)
    found = quantize_weights(weight, np.array([1.0, 2.5], np.float32), BitWidth(4))
    assert found.codes.dtype == np.int8
    assert found.codes.tolist() == [[0, 2, 2, 0], [7, 7, -8, 0]]
    assert found.dequantize().tolist() == [[0.0, 2.0, 2.0, 0.0], [17.5, 17.5, -20.0, 0.0]]


def test_a_negative_scale_turns_the_grid_round() -> None:
    """-2..1 times -0.5 reaches from -0.5 to 1."""
    weight = np.array([[-0.6, 0.1, 0.5, 1.2]], np.float32)
    found = quantize_weights(weight, np.array([-0.5], np.float32), BitWidth(2))
    assert found.codes.tolist() == [[1, 0, -1, -2]]
    assert found.dequantize().tolist() == [[-0.5, 0.0, 0.5, 1.0]]


def test_8_bits_never_use_the_lowest_code() -> None:
    found = quantize_weights(np.array([[-1000.0, 1000.0]], np.float32), np.ones(1, np.float32), BitWidth(8))
    assert found.codes.tolist() == [[-127, 127]]


@given(st.data(), st.sampled_from(WIDTHS))
def test_within_the_grid_no_error_is_above_half_a_step(data: st.DataObject, width: BitWidth) -> None:
    shape = data.draw(array_shapes(min_dims=2, max_dims=4, max_side=4))
    weight = data.draw(arrays(np.float32, shape, elements=st.floats(width.qmin, width.qmax, width=32)))
    found = quantize_weights(weight, np.ones(shape[0], np.float32), width)
    assert np.abs(found.dequantize() - weight).max() <= 0.5


# --- scales -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", LOW_BITS)
@pytest.mark.parametrize("law", ["normal", "laplace", "uniform"])
@pytest.mark.parametrize(
    ("shape", "tolerance"),
    # In filters of a few weights, fine grids find lucky scales that no coarse search does.
    [((48, 3, 3, 3), 1.03), ((24, 64), 1.01), ((16, 384, 1, 1), 1.01)],
    ids=["stem", "linear", "1x1"],
)
def test_scales_are_as_good_as_brute_force(width: BitWidth, law: str, shape: tuple[int, ...], tolerance: float) -> None:
    rng = np.random.default_rng(0)
    laws = {"normal": rng.normal(size=shape), "laplace": rng.laplace(size=shape), "uniform": rng.random(shape) - 0.5}
    weight = laws[law].astype(np.float32)
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    shares = np.linspace(0.02, 1.2, 1200)
    grid = [(largest * share).astype(np.float32) for share in [*shares, *-shares]]
    brute = np.min([squared_errors(weight, scale, width) for scale in grid], axis=0)
    found = squared_errors(weight, mse_scales(weight, width), width)
    assert found.sum() <= tolerance * brute.sum()


@given(st.data(), st.sampled_from(WIDTHS))
def test_scales_are_no_worse_than_covering_the_largest_weight(data: st.DataObject, width: BitWidth) -> None:
    shape = data.draw(array_shapes(min_dims=2, max_dims=4, max_side=5))
    weight = data.draw(arrays(np.float32, shape, elements=st.floats(-10, 10, width=32)))
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    covering = np.maximum(rows.max(axis=1) / width.qmax, rows.min(axis=1) / width.qmin)
    assume((covering > 1e-6).all())
    scale = mse_scales(weight, width)
    assert scale.dtype == np.float32
    assert scale.shape == shape[:1]
    assert (scale != 0).all()
    bound = squared_errors(weight, covering.astype(np.float16).astype(np.float32), width)
    assert (squared_errors(weight, scale, width) <= bound * 1.0001 + 1e-9).all()


@pytest.mark.parametrize("width", LOW_BITS)
def test_the_sign_of_the_scale_is_chosen_for_each_channel(width: BitWidth) -> None:
    """Weights on the levels 0.25 x grid, and the same turned round: nothing else stores both without an error."""
    levels = 0.25 * np.arange(width.qmin, width.qmax + 1, dtype=np.float32)
    weight = np.stack([levels, -levels])
    scale = mse_scales(weight, width)
    assert scale.tolist() == [0.25, -0.25]
    np.testing.assert_array_equal(quantize_weights(weight, scale, width).dequantize(), weight)


def test_8_bit_scales_stay_positive() -> None:
    weight = np.random.default_rng(0).exponential(size=(40, 9)).astype(np.float32)
    assert (mse_scales(weight, BitWidth(8)) > 0).all()
    assert (mse_scales(-weight, BitWidth(8)) > 0).all()


@given(st.data(), st.sampled_from(WIDTHS), st.integers(-60, 60))
def test_scales_are_float16_numbers_and_not_zero(data: st.DataObject, width: BitWidth, exponent: int) -> None:
    """Also where weights are beyond the range of float16, where the end of that range is the best there is."""
    weight = data.draw(arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32))) * np.float32(2.0**exponent)
    scale = mse_scales(weight, width)
    np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
    assert np.isfinite(scale).all()
    assert (scale != 0).all()


def test_the_error_is_that_of_the_scale_in_half_precision() -> None:
    """At 8 bits 0.1 / 127 is not a float16 number; the nearest, 0.00078726, stores 0.1 as 127 of it."""
    scale = mse_scales(np.array([[0.1, -0.1]], np.float32), BitWidth(8))
    assert scale[0] == np.float32(np.float16(0.1 / 127))


@given(st.data(), st.sampled_from(WIDTHS), st.integers(-10, 10))
def test_weights_on_a_grid_are_kept_exactly(data: st.DataObject, width: BitWidth, exponent: int) -> None:
    """Grids that are in use up to one of their ends, with a scale that float32 can hold exactly."""
    levels = st.integers(width.qmin, width.qmax)
    codes = data.draw(st.lists(levels, min_size=1, max_size=40))
    codes[0] = data.draw(st.sampled_from([width.qmin, width.qmax]))
    weight = (np.array([codes]) * 2.0**exponent).astype(np.float32)
    scale = mse_scales(weight, width)
    np.testing.assert_array_equal(quantize_weights(weight, scale, width).dequantize(), weight)


@pytest.mark.parametrize("width", BY_BITS)
def test_a_channel_of_zeros_gets_scale_1_and_disturbs_no_other(width: BitWidth) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 4, 3, 3)).astype(np.float32)
    weight[1] = 0
    scale = mse_scales(weight, width)
    assert scale[1] == 1
    np.testing.assert_array_equal(scale[[0, 2]], mse_scales(weight[[0, 2]], width))
    assert not quantize_weights(weight, scale, width).dequantize()[1].any()


@pytest.mark.parametrize("width", BY_BITS)
@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_one_sign_and_a_single_weight(width: BitWidth, sign: int) -> None:
    weight = np.array([[sign * 0.7]], np.float32)
    found = quantize_weights(weight, mse_scales(weight, width), width).dequantize()
    np.testing.assert_allclose(found, weight, rtol=2.0**-11)  # half a step of float16


@pytest.mark.parametrize("width", BY_BITS)
def test_scales_follow_the_scale_of_the_weights(width: BitWidth) -> None:
    weight = np.random.default_rng(1).normal(size=(5, 50)).astype(np.float32)
    np.testing.assert_array_equal(mse_scales(weight * np.float32(8), width), mse_scales(weight, width) * 8)


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
