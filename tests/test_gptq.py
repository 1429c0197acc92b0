from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeq.gptq import DAMPING, best_rounding, descend, gptq, half_scale
from edgeq.moments import isotropic
from edgeq.quantize import WIDTHS, BitWidth, mse_scales

ids = "{0.bits}bit".format


def random_weights(groups: int, out: int, fan_in: int, width: BitWidth) -> tuple[Tensor, Tensor]:
    """Weights `[groups, out, fan-in]` and their scales `[groups, out]`."""
    weight = torch.randn(groups, out, fan_in, generator=torch.Generator().manual_seed(0))
    scale = mse_scales(weight.reshape(groups * out, fan_in).numpy(), width)
    return weight, torch.from_numpy(scale).reshape(groups, out)


def nearest(weight: Tensor, scale: Tensor, width: BitWidth) -> Tensor:
    return torch.round(weight / scale[:, :, None]).clamp(width.qmin, width.qmax)


def correlated(groups: int, fan_in: int) -> Tensor:
    """Second moments `[groups, fan-in, fan-in]` of inputs that have a few common causes."""
    generator = torch.Generator().manual_seed(1)
    causes = torch.randn(groups, 4, fan_in, generator=generator)
    return causes.transpose(1, 2) @ causes + 0.05 * torch.eye(fan_in)


def output_errors(weight: Tensor, codes: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    """Expected squared error of each output, float64 `[groups, out]`."""
    change = weight.double() - codes * scale[:, :, None].double()
    return ((change @ hessian.double()) * change).sum(2)


def output_error(weight: Tensor, codes: Tensor, scale: Tensor, hessian: Tensor) -> float:
    """The same of all outputs together."""
    return float(output_errors(weight, codes, scale, hessian).sum())


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_gptq_is_plain_rounding_for_uncorrelated_inputs(width: BitWidth) -> None:
    weight, scale = random_weights(3, 4, 150, width)
    variances = torch.rand(3, 150, generator=torch.Generator().manual_seed(2)) + 0.1
    found = gptq(weight, torch.diag_embed(variances), scale, width)
    assert torch.equal(found, nearest(weight, scale, width))


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
@pytest.mark.parametrize("fan_in", [9, 128, 200])
def test_gptq_beats_plain_rounding_for_correlated_inputs(fan_in: int, width: BitWidth) -> None:
    weight, scale = random_weights(2, 8, fan_in, width)
    hessian = correlated(2, fan_in)
    codes = gptq(weight, hessian, scale, width)
    assert torch.equal(codes, codes.round().clamp(width.qmin, width.qmax))
    plain = output_error(weight, nearest(weight, scale, width), scale, hessian)
    assert output_error(weight, codes, scale, hessian) < 0.7 * plain


def test_gptq_by_hand() -> None:
    """Two inputs that are nearly equal: the second weight makes up for the first, 0.4 -> 0 and 0.4 + 0.4 -> 1."""
    hessian = torch.tensor([[[1.0, 0.999], [0.999, 0.9999]]])
    found = gptq(torch.tensor([[[0.4, 0.4]]]), hessian, torch.ones(1, 1), BitWidth(4))
    assert found.tolist() == [[[0.0, 1.0]]]


def test_groups_do_not_touch_each_other() -> None:
    width = BitWidth(4)
    weight, scale = random_weights(3, 4, 20, width)
    hessian = correlated(3, 20)
    alone = [gptq(weight[i : i + 1], hessian[i : i + 1], scale[i : i + 1], width) for i in range(3)]
    assert torch.equal(gptq(weight, hessian, scale, width), torch.cat(alone))


# --- scales and polish ----------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, BitWidth]:
    """Weights, Hessian, scales of either sign and a width; weights of zero, correlated inputs, groups."""
    groups, out, fan_in = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 12))
    width = draw(st.sampled_from(WIDTHS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    weight = torch.randn(groups, out, fan_in, generator=generator) * 10.0 ** draw(st.integers(-3, 2))
    if draw(st.booleans()):
        weight[0, 0] = 0
    rows = torch.randn(groups, draw(st.integers(1, 20)), fan_in, generator=generator)
    hessian = rows.transpose(1, 2) @ rows
    hessian = hessian + DAMPING * isotropic(hessian)
    scale = torch.from_numpy(mse_scales(weight.reshape(-1, fan_in).numpy(), width)).reshape(groups, out)
    return weight, hessian, half_scale(scale * draw(st.sampled_from([1.0, 0.5, 2.0, -1.0]))), width


@settings(max_examples=150, deadline=None)
@given(problems())
def test_no_output_is_worse_than_with_the_scale_given(problem: tuple[Tensor, Tensor, Tensor, BitWidth]) -> None:
    weight, hessian, scale, width = problem
    codes, found = best_rounding(weight, hessian, scale, width)
    assert torch.equal(codes, codes.round().clamp(width.qmin, width.qmax))
    assert torch.equal(found.sign(), scale.sign())
    assert torch.equal(found, found.half().float())
    given_scale = output_errors(weight, gptq(weight, hessian, scale, width), scale, hessian)
    power = output_errors(weight, torch.zeros_like(weight), scale, hessian)  # float32 cannot tell less than this share
    assert (output_errors(weight, codes, found, hessian) <= given_scale + 1e-5 * power).all()


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 2**32))
def test_descent_goes_down(problem: tuple[Tensor, Tensor, Tensor, BitWidth], seed: int) -> None:
    weight, hessian, scale, width = problem
    start = torch.randint(
        width.qmin, width.qmax + 1, weight.shape, generator=torch.Generator().manual_seed(seed)
    ).float()
    before = start.clone()
    found = descend(weight, hessian, start, scale, width)
    assert torch.equal(start, before)
    assert torch.equal(found, found.round().clamp(width.qmin, width.qmax))
    error = output_errors(weight, start, scale, hessian)
    assert (output_errors(weight, found, scale, hessian) <= error * (1 + 1e-5) + 1e-12).all()


def brute_force(weight: Tensor, hessian: Tensor, scale: Tensor, width: BitWidth) -> list[float]:
    """The best codes of one output."""
    levels = range(width.qmin, width.qmax + 1)
    tried = torch.tensor(list(product(levels, repeat=weight.shape[2]))).float()[None]
    errors = output_errors(weight.expand(1, tried.shape[1], -1), tried, scale.expand(1, tried.shape[1]), hessian)
    best: list[float] = tried[0, errors.argmin()].tolist()
    return best


@pytest.mark.parametrize("scale", [1.0, -1.0], ids="{:+.0f}".format)
@pytest.mark.parametrize("bits", [2, 3])
def test_descent_finds_the_optimum_of_a_small_problem(bits: int, scale: float) -> None:
    """Inputs so little correlated that from any codes some rounds end at the same ones, the best of all."""
    width = BitWidth(bits)
    generator = torch.Generator().manual_seed(0)
    hessian = torch.eye(4) + 0.15 * torch.ones(4, 4)
    for _ in range(10):
        weight = 1.5 * torch.randn(1, 1, 4, generator=generator)
        scales = torch.full((1, 1), scale)
        codes = torch.randint(width.qmin, width.qmax + 1, (1, 1, 4), generator=generator).float()
        for _ in range(6):
            codes = descend(weight, hessian[None], codes, scales, width)
        assert codes.reshape(-1).tolist() == brute_force(weight, hessian[None], scales, width)


def test_descent_by_hand() -> None:
    """The first weight beside the other's 1: 0.4 + 0.9 * (0.4 - 1) = -0.14 -> 0; then 0.4 + 0.9 * 0.4 = 0.76 -> 1."""
    hessian = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])
    start = torch.tensor([[[1.0, 1.0]]])
    found = descend(torch.tensor([[[0.4, 0.4]]]), hessian, start, torch.ones(1, 1), BitWidth(4))
    assert found.tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_scale_is_fitted_by_least_squares(sign: float) -> None:
    """Codes +-(1, -2), and the scale `(1 * 1.1 + 4 * 2.1 * 2) / (1 + 4 * 4) = 1.052...`."""
    hessian = torch.diag_embed(torch.tensor([[1.0, 4.0]]))
    weight = torch.tensor([[[1.1, -2.1]]])
    codes, scale = best_rounding(weight, hessian, torch.tensor([[sign]]), BitWidth(4))
    assert codes.tolist() == [[[sign, -2 * sign]]]
    fitted = torch.tensor(sign * (1.1 + 4 * 2.1 * 2) / 17).half().float()
    assert scale.item() == fitted


def test_outputs_of_zeros_keep_their_scale() -> None:
    weight, hessian = torch.zeros(2, 3, 5), correlated(2, 5)
    scale = torch.tensor([[1.0, -1.0, 0.5], [1.0, 2.0, -2.0]])
    codes, found = best_rounding(weight, hessian, scale, BitWidth(2))
    assert not codes.any()
    assert torch.equal(found, scale)


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_searching_scales_pays(width: BitWidth) -> None:
    weight, scale = random_weights(2, 8, 60, width)
    hessian = correlated(2, 60)
    plain = output_error(weight, gptq(weight, hessian, scale, width), scale, hessian)
    assert output_error(weight, *best_rounding(weight, hessian, scale, width), hessian) < 0.9 * plain


def test_scales_in_half_precision() -> None:
    """To the nearest number of float16; never 0, never infinite."""
    found = half_scale(torch.tensor([1.0, -0.1, 1e-12, -1e-12, 1e6, -1e6, 6e-8]))
    assert found.tolist() == [1.0, -0.0999755859375, 2.0**-14, -(2.0**-14), 65504.0, -65504.0, 2.0**-24]
