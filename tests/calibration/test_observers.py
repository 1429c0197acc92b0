"""Observers: histograms that add up whatever the split, and ranges of histograms made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from edgeq.calibration.observers import OBSERVERS, Histogram, Observer, choose_range
from edgeq.errors import UnsupportedError
from edgeq.numerics.activations import ActivationRange

VALUES = st.one_of(
    st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False),
    st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 1e-30, -1e-30]),
)


def histogram_of(*batches: list[float]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(torch.tensor([batch], dtype=torch.float32))
    return histogram


def merged(*parts: list[float]) -> Histogram:
    total = Histogram()
    for part in parts:
        total.merge(histogram_of(part))
    return total


def repeated(**counts: int) -> Histogram:
    """A histogram of values, each so many times: `repeated(**{"1.5": 10})`."""
    rows = [float(value) for value, count in counts.items() for _ in range(count)]
    histogram = Histogram()
    histogram.add(torch.tensor(rows).reshape(-1, 1))
    return histogram


# --- histograms ---------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(VALUES, min_size=1, max_size=12), min_size=1, max_size=6))
@example([[0.5], [1.0]])  # a value at the very end of the first range
@example([[0.0], [1e-30]])  # zeros alone need no reach at all
@example([[-1e-30], [1.0]])  # one that is lost when the reach is added to it
def test_any_split_of_a_stream_has_the_histogram_of_all(parts: list[list[float]]) -> None:
    whole = histogram_of([value for part in parts for value in part])
    for other in (histogram_of(*parts), merged(*parts), merged(*reversed(parts))):
        assert (other.low, other.high, other.exponent) == (whole.low, whole.high, whole.exponent)
        np.testing.assert_array_equal(other.counts, whole.counts)
    assert whole.counts.sum() == sum(map(len, parts))


def test_coarse_bins_are_those_of_the_values() -> None:
    bins = repeated(**{"0": 5, "0.75": 2, "-0.5": 1, "3.9": 4}).coarse()
    assert (bins.start, bins.width, len(bins.counts)) == (-0.5, 0.125, 36)
    places = {-0.5: 1, 0.0: 5, 0.75: 2, 3.875: 4}
    assert {bins.start + i * bins.width: count for i, count in enumerate(bins.counts) if count} == places


@given(st.lists(VALUES, min_size=1, max_size=40))
def test_coarse_bins_lose_no_value(rows: list[float]) -> None:
    histogram = histogram_of(rows)
    bins = histogram.coarse()
    assert sum(bins.counts) == len(rows)
    assert 1 <= len(bins.counts) <= 64
    assert bins.counts[0]
    assert bins.counts[-1]
    assert bins.start <= histogram.low
    assert histogram.high <= bins.start + bins.width * len(bins.counts)


def test_nothing_has_no_coarse_bins() -> None:
    assert Histogram().coarse().counts == ()


def test_growing_keeps_every_count_near_its_value() -> None:
    histogram = histogram_of([0.3, 0.3, -0.7], [100.0], [1e-6])
    centres, counts = histogram.bins()
    step = 2 * 128 / 8192
    assert counts.sum() == 5
    for value, count in ((-0.7, 1), (0.3, 2), (100.0, 1), (1e-6, 1)):
        assert counts[np.abs(centres - value) <= step].sum() == count


def test_extremes_are_exact() -> None:
    histogram = histogram_of([0.1, 0.2], [-3.3])
    assert (histogram.low, histogram.high) == (float(np.float32(-3.3)), float(np.float32(0.2)))
    centres, _ = histogram.bins()
    assert centres.min() >= histogram.low
    assert centres.max() <= histogram.high


def test_an_empty_part_changes_nothing() -> None:
    histogram = histogram_of([1.0, 2.5])
    before = histogram.counts.copy()
    histogram.merge(Histogram())
    np.testing.assert_array_equal(histogram.counts, before)
    assert (histogram.low, histogram.high) == (1.0, 2.5)


def test_of_large_tensors_a_sample_is_counted_but_the_extremes_are_exact() -> None:
    x = torch.rand(2, 8, 128, 128, generator=torch.Generator().manual_seed(0))
    x[1, 3, 77, 11], x[0, 5, 1, 2] = 9.0, -9.0
    histogram = Histogram()
    histogram.add(x)
    assert (histogram.low, histogram.high) == (-9.0, 9.0)
    assert 2 * 8192 < histogram.counts.sum() <= 2 * 16384
    centres, counts = histogram.bins()
    inner = np.abs(centres) <= 1
    assert np.average(centres[inner], weights=counts[inner]) == pytest.approx(0.5, abs=0.01)


# --- ranges -------------------------------------------------------------------------------------------------------


def test_minmax_covers_everything() -> None:
    histogram = repeated(**{"-1.0": 1, "0.2": 1000, "4.0": 1})
    assert choose_range(histogram, "minmax") == ActivationRange.covering(-1.0, 4.0)


@pytest.mark.parametrize(("outliers", "expected"), [(9, 1.0), (11, 50.0)], ids=["rarer than 1 in 10^4", "not so rare"])
def test_percentile_clips_what_is_rarer_than_one_in_ten_thousand(outliers: int, expected: float) -> None:
    found = choose_range(repeated(**{"0.5": 50_000, "1.0": 50_000 - outliers, "50.0": outliers}), "percentile")
    assert found.low == 0
    assert found.high == pytest.approx(expected, abs=64 / 4096)


def test_percentile_clips_both_ends() -> None:
    found = choose_range(repeated(**{"-50.0": 9, "-2.0": 50_000, "1.0": 49_982, "50.0": 9}), "percentile")
    assert (found.low, found.high) == pytest.approx((-2.0, 1.0), abs=64 / 4096)


def test_mse_keeps_what_costs_more_to_clip_than_to_round() -> None:
    """One value of 100 among n of uniform noise in 0..1.

    Keeping it costs n steps^2 / 12 with steps of 100 / 255, so 0.0128 n; clipping it at c costs (100 - c)^2.
    """
    few, many = (np.random.default_rng(0).random(count) for count in (1000, 1_000_000))
    for noise, clipped in ((few, False), (many, True)):
        histogram = Histogram()
        histogram.add(torch.from_numpy(np.append(noise, 100.0).astype(np.float32)).reshape(-1, 1))
        found = choose_range(histogram, "mse")
        assert (found.high < 90) == clipped
        assert found.high > 20


def test_mse_is_never_worse_than_minmax() -> None:
    rng = np.random.default_rng(1)
    for values in (
        rng.normal(size=5000),
        rng.standard_t(2, 5000),
        np.maximum(rng.laplace(size=5000), 0),
        -rng.random(50),
    ):
        x = torch.from_numpy(values.astype(np.float32)).reshape(-1, 1)
        histogram = Histogram()
        histogram.add(x)
        errors = {}
        for observer in ("minmax", "mse"):
            found = choose_range(histogram, observer)
            codes = np.clip(np.rint(values / found.scale) + found.zero_point, 0, 255)
            errors[observer] = float(np.sum(((codes - found.zero_point) * found.scale - values) ** 2))
        assert errors["mse"] <= errors["minmax"] * 1.01


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_tensor_that_is_always_zero(observer: Observer) -> None:
    assert choose_range(repeated(**{"0.0": 10}), observer) == ActivationRange.covering(0.0, 0.0)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("sign", [1, -1])
def test_zero_is_always_covered(observer: Observer, sign: int) -> None:
    found = choose_range(repeated(**{str(2.0 * sign): 5, str(3.0 * sign): 5}), observer)
    assert found.low <= 0 <= found.high
    assert max(-found.low, found.high) == pytest.approx(3.0, rel=0.01)
    assert min(-found.low, found.high) == 0


def test_an_unknown_observer() -> None:
    with pytest.raises(UnsupportedError, match=r"^unknown observer 'max'; expected one of minmax, percentile, mse$"):
        choose_range(repeated(**{"1.0": 1}), "max")  # type: ignore[arg-type]
