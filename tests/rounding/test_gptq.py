from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeq.native.encoder import Encoder
from edgeq.native.library import is_compiled
from edgeq.numerics.trellis import sequences
from edgeq.numerics.weights import WIDTHS, BitWidth, QuantTensor, packed_shape, starting_scales
from edgeq.rounding import gptq as module
from edgeq.rounding.gptq import DAMPING, Coder, Updates, best_rounding, descend, gptq, half_scale
from edgeq.rounding.moments import isotropic

ids = "{0.bits}bit".format
compiled = pytest.mark.skipif(not is_compiled(), reason="the kernels were not compiled: there is no C compiler")
LOW_WIDTHS = tuple(width for width in WIDTHS if width.bits < 8)


def random_weights(groups: int, out: int, fan_in: int, width: BitWidth) -> tuple[Tensor, Tensor]:
    """Weights `[groups, out, fan-in]` and their scales `[groups, out]`."""
    weight = torch.randn(groups, out, fan_in, generator=torch.Generator().manual_seed(0))
    scale = starting_scales(weight.reshape(groups * out, fan_in).numpy(), width)
    return weight, torch.from_numpy(scale).reshape(groups, out)


def rows_of(groups: int, out: int, width: BitWidth) -> int:
    """Bytes of an input."""
    return packed_shape((groups * out, 1), width)[0]


def levels_of(index: Tensor, shape: tuple[int, ...], width: BitWidth) -> Tensor:
    """Bytes `[rows, fan-in]` as levels `[groups, out, fan-in]`."""
    groups, out, fan_in = shape
    data = index.numpy().astype(np.uint8)
    found = QuantTensor(data, (groups * out, fan_in), np.ones(groups * out, np.float32), width).levels()
    return torch.from_numpy(found).double().reshape(shape)


def by_sequence(values: Tensor, width: BitWidth) -> Tensor:
    """Sums of `[groups, out]` over the outputs that are coded together."""
    size = width.per_byte * (1 if width.bits == 8 else sequences(rows_of(len(values), values.shape[1], width))[1])
    flat = torch.zeros(-(-values.numel() // size) * size, dtype=torch.float64)
    flat[: values.numel()] = values.reshape(-1)
    return flat.reshape(-1, size).sum(1)


def alone(width: BitWidth) -> Tensor:
    """The levels of a byte that is a sequence by itself, float64 `[256, K]`."""
    return torch.from_numpy(width.trellis.decoder[225 * np.arange(256)]).double()


def plain_rounding(weight: Tensor, variances: Tensor, scale: Tensor, width: BitWidth) -> Tensor:
    """Each input by itself, the outputs weighted by their scales and by the variance of the input."""
    importance, coder = scale[:, :, None].square() * variances[:, None], Coder(width, *weight.shape[:2])
    found = [coder.nearest(weight[:, :, i] / scale, importance[:, :, i]) for i in range(weight.shape[2])]
    return torch.stack(found, dim=1)


def correlated(groups: int, fan_in: int) -> Tensor:
    """Second moments `[groups, fan-in, fan-in]` of inputs that have a few common causes."""
    generator = torch.Generator().manual_seed(1)
    causes = torch.randn(groups, 4, fan_in, generator=generator)
    return causes.transpose(1, 2) @ causes + 0.05 * torch.eye(fan_in)


def output_errors(weight: Tensor, index: Tensor, scale: Tensor, hessian: Tensor, width: BitWidth) -> Tensor:
    """Expected squared error of the outputs that are coded together, float64 `[sequences]`."""
    change = weight.double() - levels_of(index, tuple(weight.shape), width) * scale[:, :, None].double()
    return by_sequence(((change @ hessian.double()) * change).sum(2), width)


def output_error(weight: Tensor, index: Tensor, scale: Tensor, hessian: Tensor, width: BitWidth) -> float:
    """The same of all outputs together."""
    return float(output_errors(weight, index, scale, hessian, width).sum())


def assert_bytes(index: Tensor, weight: Tensor, width: BitWidth) -> None:
    """Of the right shape, and at 8 bits none of them -128."""
    groups, out, fan_in = weight.shape
    assert index.dtype == torch.int64
    assert index.shape == (rows_of(groups, out, width), fan_in)
    assert ((index >= 0) & (index < 256)).all()
    assert width.bits < 8 or not (index == 128).any()


# --- codes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", LOW_WIDTHS, ids=ids)
def test_outputs_fill_rows_and_what_is_missing_does_not_matter(width: BitWidth) -> None:
    """Seven outputs of three groups; those that fill the last row have no importance."""
    generator = torch.Generator().manual_seed(0)
    target, importance = 20 * torch.randn(3, 7, generator=generator), torch.rand(3, 7, generator=generator)
    size, rows = width.per_byte, rows_of(3, 7, width)
    filled = [torch.cat([values.reshape(-1), torch.zeros(rows * size - 21)]) for values in (target, importance)]
    t, m = (values.reshape(1, rows, size).numpy() for values in filled)
    found = Coder(width, 3, 7).nearest(target, importance * 1000)
    assert found.tolist() == Encoder(width.trellis).encode(t, m).reshape(-1).tolist()


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_levels_and_nearest_are_inverse(width: BitWidth) -> None:
    """All bytes but -128, which is never chosen: its nearest is -127. Below 8 bits, of most sequences."""
    coder = Coder(width, 2, 128 * width.per_byte)
    index = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    target = coder.levels(index)
    assert target.shape == (2, 128 * width.per_byte)
    importance = 2.0 ** torch.randint(-3, 4, target.shape, generator=torch.Generator().manual_seed(1))
    found = coder.levels(coder.nearest(target, importance))
    missing = coder.by_sequence((found - target).abs())
    assert (missing == 0).float().mean() > 0.9
    assert width.bits < 8 or found.tolist() == target.clamp(-127).tolist()


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
@pytest.mark.parametrize(("groups", "outputs"), [(1, 5), (3, 3), (2, 12), (3, 60)])
def test_levels_by_rows_and_columns(groups: int, outputs: int, width: BitWidth) -> None:
    coder = Coder(width, groups, outputs)
    index = torch.randint(256, (rows_of(groups, outputs, width), 7), generator=torch.Generator().manual_seed(0))
    found = coder.levels(index)
    assert torch.equal(found.double(), levels_of(index, (groups, outputs, 7), width))
    for i in range(7):
        assert torch.equal(coder.levels(index[:, i]), found[:, :, i])


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_sequences_are_put_together_again(width: BitWidth) -> None:
    """Of 3 x 60 outputs; each is exchanged as a whole."""
    coder, rows = Coder(width, 3, 60), rows_of(3, 60, width)
    ones, twos = torch.full((rows, 4), 1), torch.full((rows, 4), 2)
    counts = coder.by_sequence(torch.ones(3, 60))
    assert counts.sum() == 180
    better = torch.arange(len(counts)) % 2 == 0
    outputs = coder.outputs_of(better)
    assert outputs.sum() == counts[better].sum()
    chosen = coder.where(better, ones, twos)
    per_output = chosen[:, 0].repeat_interleave(width.per_byte)[:180].reshape(3, 60)
    assert torch.equal(per_output == 1, outputs)


def test_8_bit_bytes_by_hand() -> None:
    """Halves go to the even level, and what is outside is clipped to -127 and 127; a negative byte is 256 less."""
    target = torch.tensor([[0.5, 1.5, -0.5, -1.4, -126.6, -400.0, 400.0]])
    found = Coder(BitWidth(8), 1, 7).nearest(target, torch.ones_like(target))
    assert found.tolist() == [0, 2, 0, 255, 129, 129, 127]
    found = Coder(BitWidth(8, reduce_range=True), 1, 7).nearest(target, torch.ones_like(target))
    assert found.tolist() == [0, 2, 0, 255, 193, 193, 63]


# --- GPTQ -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [12, 5])
@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_gptq_is_plain_rounding_for_uncorrelated_inputs(width: BitWidth, out: int) -> None:
    """Also where a byte holds outputs of two groups, whose inputs have variances of their own."""
    weight, scale = random_weights(3, out, 150, width)
    variances = torch.rand(3, 150, generator=torch.Generator().manual_seed(2)) + 0.1
    found = gptq(weight, Updates(torch.diag_embed(variances)), scale, width)
    assert_bytes(found, weight, width)
    same = found == plain_rounding(weight, variances, scale, width)
    assert same.float().mean() > 0.99  # importances differ in their last bits


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
@pytest.mark.parametrize(("out", "fan_in"), [(8, 9), (8, 128), (7, 200)])
def test_gptq_beats_plain_rounding_for_correlated_inputs(out: int, fan_in: int, width: BitWidth) -> None:
    weight, scale = random_weights(2, out, fan_in, width)
    hessian = correlated(2, fan_in)
    index = gptq(weight, Updates(hessian), scale, width)
    assert_bytes(index, weight, width)
    nearest = plain_rounding(weight, hessian.diagonal(dim1=1, dim2=2), scale, width)
    plain = output_error(weight, nearest, scale, hessian, width)
    assert output_error(weight, index, scale, hessian, width) < 0.7 * plain


@pytest.mark.parametrize(("variances", "expected"), [((1.0, 0.9999), [0, 1]), ((0.9999, 1.0), [1, 0])])
def test_gptq_by_hand(variances: tuple[float, float], expected: list[int]) -> None:
    """Two inputs that are nearly equal: the one of less variance makes up for the other, 0.4 -> 0, 0.4 + 0.4 -> 1."""
    hessian = torch.tensor([[[variances[0], 0.999], [0.999, variances[1]]]])
    found = gptq(torch.tensor([[[0.4, 0.4]]]), Updates(hessian), torch.ones(1, 1), BitWidth(8))
    assert found.tolist() == [expected]


@pytest.mark.parametrize("width", LOW_WIDTHS, ids=ids)
def test_gptq_of_vectors_by_hand(width: BitWidth) -> None:
    """Of two equal inputs, the second gets what the first lacks: `v2` are the levels nearest to `w2 + w1 - v1`."""
    size = width.per_byte
    weight = torch.full((1, size, 2), 7.3) + torch.arange(size)[None, :, None]
    hessian = torch.tensor([[[1.0, 0.99999], [0.99999, 0.999999]]])
    found = gptq(weight, Updates(hessian), torch.ones(1, size), width)
    first = (weight[0, :, 0] - alone(width)).square().sum(1).argmin()
    missing = weight[0, :, 0] - alone(width)[first]
    assert missing.abs().max() > 1
    second = (weight[0, :, 1] + missing - alone(width)).square().sum(1).argmin()
    assert found.tolist() == [[int(first), int(second)]]


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_groups_do_not_touch_each_other(width: BitWidth) -> None:
    """The outputs of a group fill a whole sequence; one order of inputs, that of falling variance, suits all."""
    weight, scale = random_weights(3, 16 * width.per_byte, 20, width)
    size = torch.linspace(3, 1, 20)
    causes = correlated(3, 20)
    unit = causes.diagonal(dim1=1, dim2=2).rsqrt()
    hessian = causes * (unit * size)[:, :, None] * (unit * size)[:, None]
    alone = [gptq(weight[i : i + 1], Updates(hessian[i : i + 1]), scale[i : i + 1], width) for i in range(3)]
    assert torch.equal(gptq(weight, Updates(hessian), scale, width), torch.cat(alone))


@pytest.mark.parametrize("width", LOW_WIDTHS, ids=ids)
def test_an_output_of_zeros_leaves_its_bits_to_the_others(width: BitWidth) -> None:
    """It comes to nothing itself, and the outputs beside it are rounded better than beside one as large as they are."""
    weight, scale = random_weights(1, width.per_byte, 40, width)
    hessian = correlated(1, 40)
    whole = gptq(weight, Updates(hessian), scale, width)
    emptied = weight.clone()
    emptied[0, -1] = 0
    least = torch.from_numpy(starting_scales(emptied[0].numpy(), width))[None]
    found = gptq(emptied, Updates(hessian), least, width)
    levels = levels_of(found, (1, width.per_byte, 40), width) * least[:, :, None]
    assert levels[0, -1].abs().max() < 1e-4

    def others(index: Tensor) -> float:
        change = (weight.double() - levels_of(index, (1, width.per_byte, 40), width) * scale[:, :, None])[0, :-1]
        return float(((change @ hessian[0].double()) * change).sum())

    share = 0.7 if width.per_byte <= 4 else 0.95  # the more weights a byte has, the less each of the others gets
    assert others(found) < share * others(whole)


# --- scales and polish ----------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, BitWidth]:
    """Weights, Hessian, scales and a width; weights of zero, correlated inputs, groups that share bytes."""
    groups, out, fan_in = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 12))
    width = draw(st.sampled_from(WIDTHS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    weight = torch.randn(groups, out, fan_in, generator=generator) * 10.0 ** draw(st.integers(-3, 2))
    if draw(st.booleans()):
        weight[0, 0] = 0
    rows = torch.randn(groups, draw(st.integers(1, 20)), fan_in, generator=generator)
    hessian = rows.transpose(1, 2) @ rows
    hessian = hessian + DAMPING * isotropic(hessian)
    scale = torch.from_numpy(starting_scales(weight.reshape(-1, fan_in).numpy(), width)).reshape(groups, out)
    return weight, hessian, half_scale(scale * draw(st.sampled_from([1.0, 0.5, 2.0]))), width


def indistinct(weight: Tensor, hessian: Tensor, width: BitWidth) -> Tensor:
    """The error of each sequence that float32 cannot tell from none: a share of the power of the outputs."""
    return 1e-5 * by_sequence(((weight @ hessian) * weight).sum(2), width)


@settings(max_examples=150)
@given(problems())
def test_no_outputs_are_worse_than_with_the_scales_given(problem: tuple[Tensor, Tensor, Tensor, BitWidth]) -> None:
    weight, hessian, scale, width = problem
    index, found = best_rounding(weight, hessian, scale, width, torch.zeros_like(scale))
    assert_bytes(index, weight, width)
    assert found.shape == scale.shape
    assert (found > 0).all()
    assert torch.equal(found, half_scale(found))
    given_scale = output_errors(weight, gptq(weight, Updates(hessian), scale, width), scale, hessian, width)
    limit = given_scale * (1 + 1e-5) + indistinct(weight, hessian, width)
    assert (output_errors(weight, index, found, hessian, width) <= limit).all()


@compiled
@settings(max_examples=40)
@given(problems())
def test_torch_finds_the_bytes_of_the_kernels(problem: tuple[Tensor, Tensor, Tensor, BitWidth]) -> None:
    weight, hessian, scale, width = problem
    updates = Updates(hessian)
    found = gptq(weight, updates, scale, width)
    polished = descend(weight, hessian, found, scale, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_compiled", lambda: False)
        assert torch.equal(gptq(weight, updates, scale, width), found)
        assert torch.equal(descend(weight, hessian, found, scale, width), polished)


@compiled
@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_threads_do_not_change_bytes(width: BitWidth) -> None:
    """Groups lie across the sets of outputs that are coded together."""
    weight, scale = random_weights(3, 50, 7, width)
    hessian, least = correlated(3, 7), torch.zeros_like(scale)
    alone, shared = (best_rounding(weight, hessian, scale, width, least, threads) for threads in (1, 3))
    assert torch.equal(alone[0], shared[0])
    assert torch.equal(alone[1], shared[1])


@settings(max_examples=150)
@given(problems(), st.integers(0, 2**32))
def test_descent_goes_down(problem: tuple[Tensor, Tensor, Tensor, BitWidth], seed: int) -> None:
    weight, hessian, scale, width = problem
    rows = rows_of(weight.shape[0], weight.shape[1], width)
    start = torch.randint(256, (rows, weight.shape[2]), generator=torch.Generator().manual_seed(seed))
    if width.bits == 8:
        start[start == 128] = 0
    before = start.clone()
    found = descend(weight, hessian, start, scale, width)
    assert torch.equal(start, before)
    assert_bytes(found, weight, width)
    limit = output_errors(weight, start, scale, hessian, width) * (1 + 1e-5) + indistinct(weight, hessian, width)
    assert (output_errors(weight, found, scale, hessian, width) <= limit).all()


@pytest.mark.parametrize("width", LOW_WIDTHS, ids=ids)
def test_descent_ends_where_no_byte_is_better_beside_the_others(width: BitWidth) -> None:
    """All 256 values of each byte are tried; its outputs have weights of different size."""
    generator = torch.Generator().manual_seed(0)
    weight, scale = random_weights(1, width.per_byte, 6, width)
    size = 3.0 ** torch.arange(width.per_byte)
    weight, scale = weight * size[:, None], scale * size
    hessian = correlated(1, 6)
    index = torch.randint(256, (1, 6), generator=generator)
    for _ in range(60):
        index = descend(weight, hessian, index, scale, width)
    error = output_error(weight, index, scale, hessian, width)
    for place in range(6):
        for byte in range(256):
            tried = index.clone()
            tried[0, place] = byte
            assert output_error(weight, tried, scale, hessian, width) >= error * (1 - 1e-5)


@pytest.mark.parametrize("width", LOW_WIDTHS, ids=ids)
def test_descent_finds_the_optimum_of_a_small_problem(width: BitWidth) -> None:
    """Two inputs so little correlated that from most bytes some rounds end at the best of all 256 x 256 pairs."""
    generator = torch.Generator().manual_seed(0)
    hessian = torch.tensor([[[1.0, 0.02], [0.02, 1.0]]])
    scale = torch.ones(1, width.per_byte)
    book, optimal = alone(width), 0
    for _ in range(20):
        weight = 20 * torch.randn(1, width.per_byte, 2, generator=generator)
        index = torch.randint(256, (1, 2), generator=generator)
        for _ in range(6):
            index = descend(weight, hessian, index, scale, width)
        left, right = (weight[0, :, i].double() - book for i in (0, 1))
        errors = left.square().sum(1)[:, None] + right.square().sum(1) + 2 * 0.02 * left @ right.T
        error = output_error(weight, index, scale, hessian, width)
        assert error <= errors.min() * 1.25
        optimal += error <= float(errors.min()) * (1 + 1e-5)
    assert optimal >= 17


def test_descent_by_hand() -> None:
    """The first weight beside the other's 1: 0.4 + 0.9 * (0.4 - 1) = -0.14 -> 0; then 0.4 + 0.9 * 0.4 = 0.76 -> 1."""
    hessian = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])
    found = descend(torch.tensor([[[0.4, 0.4]]]), hessian, torch.tensor([[1, 1]]), torch.ones(1, 1), BitWidth(8))
    assert found.tolist() == [[0, 1]]


def test_the_scale_is_fitted_by_least_squares() -> None:
    """Levels 1 and -2, byte 254, and the scale `(1 * 1.1 + 4 * 2.1 * 2) / (1 + 4 * 4) = 1.052...`."""
    hessian = torch.diag_embed(torch.tensor([[1.0, 4.0]]))
    index, scale = best_rounding(
        torch.tensor([[[1.1, -2.1]]]), hessian, torch.ones(1, 1), BitWidth(8), torch.zeros(1, 1)
    )
    assert index.tolist() == [[1, 254]]
    assert scale.item() == torch.tensor((1.1 + 4 * 2.1 * 2) / 17).half().float()


@pytest.mark.parametrize("width", LOW_WIDTHS, ids=ids)
def test_levels_times_scales_are_found_from_scales_a_little_off(width: BitWidth) -> None:
    """Also where some outputs start too high and some too low; then nothing is left of the error."""
    size = width.per_byte
    index = torch.randint(256, (2, 30), generator=torch.Generator().manual_seed(0))
    scale = half_scale(0.01 * torch.arange(1, 2 * size + 1)).reshape(1, -1)
    weight = (levels_of(index, (1, 2 * size, 30), width) * scale[:, :, None]).float()
    start = half_scale(scale * torch.tensor([0.97, 1.03]).repeat(size))
    found, fitted = best_rounding(weight, torch.eye(30)[None], start, width, torch.zeros_like(start))
    assert torch.equal(found, index)
    torch.testing.assert_close(fitted, scale, rtol=2.0**-11, atol=0)


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_outputs_of_zeros_come_to_nothing(width: BitWidth) -> None:
    weight, hessian = torch.zeros(2, 3, 5), correlated(2, 5)
    scale = torch.from_numpy(starting_scales(np.zeros((6, 5), np.float32), width)).reshape(2, 3)
    index, found = best_rounding(weight, hessian, scale, width, torch.zeros_like(scale))
    rounded = levels_of(index, (2, 3, 5), width) * found[:, :, None]
    assert rounded.abs().max() <= (0 if width.bits == 8 else 1e-4)
    assert (found > 0).all()
    assert width.bits < 8 or torch.equal(found, scale)


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_searching_scales_pays(width: BitWidth) -> None:
    weight, scale = random_weights(2, 8, 60, width)
    hessian = correlated(2, 60)
    plain = output_error(weight, gptq(weight, Updates(hessian), scale, width), scale, hessian, width)
    index, found = best_rounding(weight, hessian, scale, width, torch.zeros_like(scale))
    assert output_error(weight, index, found, hessian, width) < 0.95 * plain


@pytest.mark.parametrize("width", WIDTHS, ids=ids)
def test_no_scale_is_less_than_the_least(width: BitWidth) -> None:
    """Every second output must have a scale ten times as large as would suit it; the others need not follow."""
    weight, scale = random_weights(1, 12, 40, width)
    hessian = correlated(1, 40)
    least = 10 * scale * torch.tensor([1.0, 0.0]).repeat(6)
    _, found = best_rounding(weight, hessian, scale, width, least)
    assert (found >= least).all()
    assert (found[:, 1::2] <= 3 * scale[:, 1::2]).all()


def test_scales_in_half_precision() -> None:
    """To the nearest number of float16 where it has bits enough; never 0, never infinite."""
    found = half_scale(torch.tensor([1.0, 0.1, 1e-12, 1e6, 0.0]))
    assert found.tolist() == torch.tensor([1.0, 0.0999755859375, 1e-12, 1e6, 2.0**-100]).tolist()
