"""Moments: patches against `unfold`, and predicted against computed errors of a layer's output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeq.rounding.moments import TOGETHER, Moments, by_group, output_power, patches, sample_positions

CONVS: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3},
    "3x3 padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "not square": {"kernel_size": (3, 5), "padding": (0, 2), "stride": (2, 3)},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "all different": {"kernel_size": (2, 3), "padding": (1, 2), "stride": (3, 1), "dilation": (2, 1)},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
    "depthwise, strided": {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 6},
}
BY_CONV = pytest.mark.parametrize("options", CONVS.values(), ids=list(CONVS))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv(options: dict[str, Any], outputs: int = 12) -> nn.Conv2d:
    layer = nn.Conv2d(6, outputs, bias=False, **options)
    layer.weight = nn.Parameter(random(*layer.weight.shape, seed=1), requires_grad=False)
    return layer


def run(layer: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def all_positions(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Row-major, as `unfold` goes."""
    rows, columns = run(layer, x, layer.weight).shape[2:]
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def unfolded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """All patches `[groups, fan-in, batch * positions]`, by PyTorch."""
    assert not isinstance(layer.padding, str)
    found = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # [batch, in * k^2, positions]
    return found.permute(1, 0, 2).reshape(layer.groups, -1, found.shape[0] * found.shape[2])


# --- positions ----------------------------------------------------------------------------------------------------


@BY_CONV
def test_positions_are_distinct_and_cover_the_output(options: dict[str, Any]) -> None:
    layer, x = conv(options), random(2, 6, 11, 13)
    everywhere = {tuple(position) for position in all_positions(layer, x).tolist()}
    few = [tuple(p) for p in sample_positions(layer, x, 5, torch.Generator().manual_seed(0)).tolist()]
    assert len(few) == len(set(few)) == 5
    assert set(few) <= everywhere
    many = [tuple(p) for p in sample_positions(layer, x, 10_000, torch.Generator().manual_seed(0)).tolist()]
    assert len(many) == len(everywhere)
    assert set(many) == everywhere


def test_positions_depend_on_the_seed_alone() -> None:
    layer, x = conv(CONVS["3x3"]), random(1, 6, 20, 20)
    first, again, other = (sample_positions(layer, x, 8, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- patches ------------------------------------------------------------------------------------------------------


@BY_CONV
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_patches_are_those_of_unfold(options: dict[str, Any], memory_format: torch.memory_format) -> None:
    layer, x = conv(options), random(3, 6, 11, 13).contiguous(memory_format=memory_format)
    found = patches(layer, x, all_positions(layer, x))
    torch.testing.assert_close(found, unfolded(layer, x), rtol=0, atol=0)


@BY_CONV
def test_weights_times_patches_are_the_output(options: dict[str, Any]) -> None:
    layer, x = conv(options), random(2, 6, 9, 9)
    positions = sample_positions(layer, x, 4, torch.Generator().manual_seed(0))
    product = by_group(layer.weight, layer.groups) @ patches(layer, x, positions)
    output = run(layer, x, layer.weight)[:, :, positions[:, 0], positions[:, 1]]  # [batch, out, positions]
    expected = output.permute(1, 0, 2).reshape(product.shape)
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)


def test_patches_of_one_pixel_are_the_inputs() -> None:
    layer, x = nn.Conv2d(7, 3, 1), random(5, 7, 1, 1)
    positions = sample_positions(layer, x, 8, torch.Generator().manual_seed(0))
    assert positions.tolist() == [[0, 0]]
    assert torch.equal(patches(layer, x, positions), x.flatten(1).T[None])


# --- moments ------------------------------------------------------------------------------------------------------


def test_moments_by_hand() -> None:
    """Two patches of two values, one group: a = (1, 2), (3, 6); b = (1, 0), (0, 2)."""
    moments = Moments()
    moments.add(torch.tensor([[[1.0, 3.0], [2.0, 6.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
    mean_a, mean_b = moments.means()
    assert (moments.rows, mean_a.tolist(), mean_b.tolist()) == (2, [[2.0, 4.0]], [[0.5, 1.0]])
    # E[a b'] = ((1, 6), (2, 12)) / 2, less the product of the means ((1, 2), (2, 4)).
    assert moments.covariance().tolist() == [[[-0.5, 1.0], [-1.0, 2.0]]]


def test_moments_of_parts_add_up() -> None:
    a, b = random(2, 4, 60), random(2, 4, 60, seed=1)
    whole, parts = Moments(), Moments()
    whole.add(a, b)
    for start, end in ((0, 1), (1, 30), (30, 60)):
        parts.add(a[..., start:end], b[..., start:end])
    assert whole.rows == parts.rows == 60
    torch.testing.assert_close(whole.covariance(), parts.covariance())
    centred_a, centred_b = a - a.mean(2, keepdim=True), b - b.mean(2, keepdim=True)
    torch.testing.assert_close(whole.covariance(), centred_a @ centred_b.transpose(1, 2) / 60)


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    """And bit by bit, where each part has as many samples as are added up at a time."""
    rows, generator = 700, torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, features, rows, generator=generator) + 100 for features in (3, 5))
    weights = torch.rand(2, rows, generator=generator)
    for counted in (None, weights):
        whole, parts = Moments(), Moments()
        pieces = [slice(0, TOGETHER), slice(TOGETHER, 2 * TOGETHER), slice(2 * TOGETHER, rows)]
        for number, piece in enumerate(pieces):
            part = parts.beside() if number else parts
            of = None if counted is None else counted[:, piece]
            whole.add(a[:, :, piece], b[:, :, piece], of)
            part.add(a[:, :, piece], b[:, :, piece], of)
            if number:
                parts.merge(part)
        parts.merge(parts.beside())
        assert parts.rows == whole.rows == rows
        assert torch.equal(parts.total, whole.total)
        assert torch.equal(parts.covariance(), whole.covariance())
        assert all(map(torch.equal, parts.means(), whole.means()))


def test_samples_may_be_added_in_inference_mode_and_read_outside() -> None:
    """Of 600 samples, some are added up at once, and the rest when the moments are asked for."""
    a = random(1, 3, 600)
    found = Moments()
    with torch.inference_mode():
        for start in range(0, 600, 40):
            found.add(a[..., start : start + 40], a[..., start : start + 40])
    torch.testing.assert_close(found.covariance()[0], torch.cov(a[0], correction=0))
    found.add(a, a)
    torch.testing.assert_close(found.means()[0][0], a[0].mean(1))


def test_a_weight_counts_a_sample_several_times() -> None:
    a, b = random(2, 4, 10), random(2, 3, 10, seed=1)
    weights = torch.tensor([[1.0, 2.0] * 5, [3.0, 1.0] * 5])
    found = Moments()
    found.add(a[..., :4], b[..., :4], weights[:, :4])
    found.add(a[..., 4:], b[..., 4:], weights[:, 4:])
    assert (found.rows, found.total.tolist()) == (10, [15.0, 20.0])
    for group in range(2):
        several = weights[group].int()
        expected = Moments()
        expected.add(*(one[group : group + 1].repeat_interleave(several, 2) for one in (a, b)))
        torch.testing.assert_close(found.covariance()[group], expected.covariance()[0])
        for mean, wanted in zip(found.means(), expected.means(), strict=True):
            torch.testing.assert_close(mean[group], wanted[0])


def test_outputs_that_read_the_same_need_it_only_once() -> None:
    read, outputs, weights = random(1, 4, 30), random(5, 1, 30, seed=1), random(5, 30, seed=2).abs()
    for a, b in ((read, read), (outputs, read)):
        once, each = Moments(), Moments()
        once.add(a, b, weights)
        every = b.expand(5, -1, -1).clone()
        each.add(every if b is a else a, every, weights)
        torch.testing.assert_close(once.covariance(), each.covariance())
        for mean, wanted in zip(once.means(), each.means(), strict=True):
            torch.testing.assert_close(mean.expand_as(wanted), wanted)


@BY_CONV
def test_output_power_is_the_variance_of_the_change_of_the_output(options: dict[str, Any]) -> None:
    layer, x = conv(options), random(4, 6, 11, 13) + 0.5
    change = 0.1 * random(*layer.weight.shape, seed=2)
    moments = Moments()
    rows = patches(layer, x, all_positions(layer, x))
    moments.add(rows, rows)
    predicted = output_power(by_group(change, layer.groups), moments.covariance())
    error = run(layer, x, layer.weight + change) - run(layer, x, layer.weight)
    computed = error.var(dim=(0, 2, 3), correction=0).sum()
    assert predicted == pytest.approx(float(computed), rel=1e-3)
