from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgeq.tasks.regression import Regression, Spread, as_divisor

# --- channels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "channels", "axes"),
    [
        ((), (), ()),
        ((5,), (0,), (0,)),
        ((4, 30), (0,), (0,)),
        ((30, 4), (1,), (1,)),
        ((30, 4), (0,), (0,)),
        ((4, 4), (1,), (1,)),
        ((2, 9, 9), (0,), (0,)),
        ((9, 9, 2), (2,), (2,)),
        ((3, 5, 5, 7), (0, 3), (0, 3)),
    ],
    ids=str,
)
def test_channels_are_where_spreads_differ(
    shape: tuple[int, ...], channels: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    """Factors of 1, 2, 3 and so on along some axes, however many there are of each."""
    x = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
    for axis in channels:
        x *= torch.arange(1.0, shape[axis] + 1).reshape(-1, *[1] * (len(shape) - axis - 1))
    spread = Spread(shape)
    spread.add(x)
    assert spread.axes == axes


def test_channels_may_be_named() -> None:
    spread = Spread((2, 8), (0,))
    spread.add(torch.stack([around(0, 1), around(0, 2)], 1)[:, :, None].repeat(1, 1, 8) * torch.arange(1.0, 9))
    assert spread.axes == (0,)
    root = (204 / 8) ** 0.5  # of the mean of the squares of 1 to 8
    assert spread.deviations() == pytest.approx([root, 2 * root])


# --- units ----------------------------------------------------------------------------------------------------------


def units(x: Tensor) -> list[float]:
    spread = Spread(tuple(x.shape[1:]))
    spread.add(x)
    return spread.units()


def around(mean: float, deviation: float, count: int = 16) -> Tensor:
    """As many values below a mean as above it, by one deviation each."""
    return mean + deviation * torch.tensor([-1.0, 1.0]).repeat(count // 2)


def test_each_channel_is_measured_by_its_own_deviation() -> None:
    assert units(torch.stack([around(0, 0.5), around(320, 100)])[None]) == pytest.approx([0.5, 100])


def test_channels_that_come_last() -> None:
    assert units(torch.stack([around(0, 0.5), around(320, 100)], 1)[None]) == pytest.approx([0.5, 100])


def test_channels_of_anchors_are_in_the_order_of_their_axes() -> None:
    """Anchors first, channels last, as in `[anchors, rows, columns, channels]`."""
    values = torch.stack([torch.stack([around(0, 10 * a + c) for c in (1, 2, 3)], 1) for a in (1, 2)])
    assert units(values.reshape(1, 2, 4, 4, 3)) == pytest.approx([11, 12, 13, 21, 22, 23])


def test_a_channel_that_does_not_vary_is_measured_by_all_of_them() -> None:
    """Of 1, -1 and 5, 5 the mean is 2.5, the mean square 13: a variance of 6.75."""
    assert units(torch.stack([around(0, 1), around(5, 0)])[None]) == pytest.approx([1, 6.75**0.5])


def test_noise_of_rounding_is_no_variation() -> None:
    """A deviation of 0.01 beside values of 1e4; that of both channels together is near 5000."""
    first, second = units(torch.stack([around(0, 1), around(1e4, 0.01)])[None])
    assert first == pytest.approx(1)
    assert second == pytest.approx(5000, rel=1e-4)


def test_what_never_varies_has_the_unit_one() -> None:
    assert units(torch.full((2, 3, 4, 4), 7.0)) == [1, 1, 1]
    assert Spread((3, 4, 4)).units() == [1, 1, 1]


def test_few_values_are_measured_together() -> None:
    """15 numbers of a vector say little of the deviation of each; 16 do."""
    x = torch.stack([around(0, 1), around(0, 7)], 1)
    assert units(x) == pytest.approx([1, 7])
    first, second = units(x[:15])
    assert first == second
    assert 1 < first < 7


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_parts_of_a_stream_add_up(sizes: list[int], merged: bool) -> None:
    x = torch.randn(sum(sizes), 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(5.0) + 1
    found = Spread((3, 4, 4))
    for part in torch.split(x, sizes):
        other = Spread((3, 4, 4)) if merged else found
        other.add(part)
        if merged:
            found.merge(other)
    assert found.units() == pytest.approx(units(x))
    assert found.count == len(x)


# --- the task -------------------------------------------------------------------------------------------------------

TASK = Regression(as_divisor((2, 4, 4), (0,), [0.5, 100]))


def test_answers_are_in_units_of_their_channels() -> None:
    value = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 250.0)])[None]
    found = TASK.answers(value)
    assert found[0, :, 0, 0].tolist() == [2, 2.5]
    assert found.shape == value.shape
    assert TASK.shape((2, 4, 4)) == (2, 4, 4)


def test_units_have_the_shape_of_their_channels() -> None:
    assert as_divisor((4, 4, 2), (2,), [1, 2]).shape == (1, 1, 2)
    assert as_divisor((2, 4, 4, 3), (0, 3), [1, 2, 3, 4, 5, 6]).tolist() == [[[[1, 2, 3]]], [[[4, 5, 6]]]]
    assert as_divisor((3,), (0,), [1, 2, 3]).tolist() == [1, 2, 3]


def test_divergence_is_half_the_mean_squared_error() -> None:
    """Of the first image `(1 + 9) / 2 / 2`, of the second 0."""
    expected = torch.tensor([[0.0, 1.0], [5.0, 6.0]])
    found = expected + torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    assert float(TASK.divergence(found, expected, "sum")) == 2.5
    assert float(TASK.divergence(found, expected, "batchmean")) == 1.25


@pytest.mark.parametrize("number", [0, 1])
def test_the_covariance_of_directions_is_the_hessian_of_the_divergence(number: int) -> None:
    """Over all signs, each of them as likely, `<v, d>^2 / 2` is the divergence of a change `d` on average."""
    signs = torch.tensor(list(product([1.0, -1.0], repeat=4)), dtype=torch.float64)
    answers = torch.zeros_like(signs)
    (v, other), drawn = TASK.random_directions(answers, signs, signs.flip(0)), TASK.random_direction(answers, signs)
    assert torch.equal(v, drawn)
    assert torch.equal(other, drawn.flip(0))
    v = (v, other)[number]
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(4, dtype=torch.float64) / 4)
    d = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    measured = TASK.divergence(d[None], torch.zeros(1, 4, dtype=torch.float64), "sum")
    torch.testing.assert_close((v @ d).square().mean() / 2, measured)


def test_an_answer_loses_the_share_of_its_variation_but_never_more_than_all() -> None:
    expected = torch.zeros(3, 2)
    found = torch.tensor([[0.0, 0.0], [0.5, 0.5], [3.0, 4.0]])
    assert TASK.loss(TASK.trust(expected), found).tolist() == [0, 0.25, 1]
