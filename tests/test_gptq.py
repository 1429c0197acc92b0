from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeq.gptq import gptq
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


def output_error(weight: Tensor, codes: Tensor, scale: Tensor, hessian: Tensor) -> float:
    """Expected squared error of the outputs."""
    change = weight - codes * scale[:, :, None]
    return float(((change @ hessian) * change).sum())


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
