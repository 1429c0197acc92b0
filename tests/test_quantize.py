"""Scales and codes: hand-computed levels, brute force over a fine grid, and properties of ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError
from edgeq.quantize import WIDTHS, ActivationRange, BitWidth, mse_scales, quantize_weights

BY_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in WIDTHS]
LOW_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in WIDTHS if width.bits < 8]


def squared_errors(weight: NDArray[np.float32], scale: NDArray[np.float32], width: BitWidth) -> NDArray[np.float64]:
    """Of each output channel, float64 `[out]`."""
    error = quantize_weights(weight, scale, width).dequantize().astype(np.float64) - weight
    return np.asarray((error**2).reshape(len(weight), -1).sum(axis=1))


# --- widths -------------------------------------------------------------------------------------------------------


def test_widths() -> None:
    assert [(w.bits, w.qmin, w.qmax, w.per_byte) for w in WIDTHS] == [(8, -127, 127, 1), (4, -8, 7, 2), (2, -2, 1, 4)]


@pytest.mark.parametrize("bits", [0, 1, 3, 16, 32, -8])
def test_other_widths(bits: int) -> None:
    with pytest.raises(UnsupportedError, match=f"^expected a width of 8, 4 or 2 bits, found {bits}$"):
        BitWidth(bits)


# --- codes --------------------------------------------------------------------------------------------------------


def test_codes_by_hand() -> None:
    """Halves go to the even level, what is outside is clipped, and each output channel has its own scale."""
    weight = np.array([[0.5, 1.5, 2.5, -0.5], [30.0, 20.0, -30.0, 1.0]], np.float32)
    found = quantize_weights(weight, np.array([1.0, 2.5], np.float32), BitWidth(4))
    assert found.codes.dtype == np.int8
    assert found.codes.tolist() == [[0, 2, 2, 0], [7, 7, -8, 0]]
    assert found.dequantize().tolist() == [[0.0, 2.0, 2.0, 0.0], [17.5, 17.5, -20.0, 0.0]]


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
    grid = [(largest * share).astype(np.float32) for share in np.linspace(0.02, 1.2, 1200)]
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
    assert (scale > 0).all()
    bound = squared_errors(weight, covering.astype(np.float32), width)
    assert (squared_errors(weight, scale, width) <= bound * 1.0001 + 1e-9).all()


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
    np.testing.assert_allclose(found, weight, rtol=1e-6)


@pytest.mark.parametrize("width", BY_BITS)
def test_scales_follow_the_scale_of_the_weights(width: BitWidth) -> None:
    weight = np.random.default_rng(1).normal(size=(5, 50)).astype(np.float32)
    np.testing.assert_array_equal(mse_scales(weight * np.float32(8), width), mse_scales(weight, width) * 8)


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
