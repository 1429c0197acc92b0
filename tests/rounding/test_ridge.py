"""The ridge of the regression onto float outputs, beside explicit solutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeq.rounding.ridge import RIDGES, attenuated, chosen_ridge


def problem(seed: int, rows: int, noise: float, groups: int = 2) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Weights, moments of two halves of rows, and the weights that the outputs were made with, not without noise."""
    generator = torch.Generator().manual_seed(seed)
    weight, change = (torch.randn(groups, 4, 6, generator=generator) for _ in range(2))
    true = weight + 0.5 * change
    power = torch.tensor([1.0, 100.0])[:groups, None, None]  # groups whose inputs vary differently
    mixing = torch.randn(groups, 6, 6, generator=generator)
    hessians, targets = [], []
    for _ in range(2):
        x = power.sqrt() * (mixing @ torch.randn(groups, 6, rows, generator=generator))
        y = true @ x + noise * power.sqrt() * torch.randn(groups, 4, rows, generator=generator)
        hessians.append(x @ x.transpose(1, 2) / rows)
        targets.append(y @ x.transpose(1, 2) / rows)
    return weight, hessians, targets, true


def by_solving(weight: Tensor, hessians: list[Tensor], targets: list[Tensor]) -> float:
    """The ridge that makes the least error `E|t - V y|^2` on the other half, each `V` solved for by itself."""
    errors = []
    for ridge in RIDGES:
        error = 0.0
        for mine, other in ((0, 1), (1, 0)):
            start = attenuated(weight, hessians[mine], targets[mine])
            for g in range(len(weight)):
                h, t, w = hessians[mine][g].double(), targets[mine][g].double(), start[g].double()
                damped = ridge * h.trace() / len(h) * torch.eye(len(h), dtype=torch.float64)
                v = torch.linalg.solve(h + damped, (t + w @ damped).T).T
                h, t = hessians[other][g].double(), targets[other][g].double()
                error += float((v @ h @ v.T).trace() - 2 * (t @ v.T).trace())
        errors.append(error)
    return RIDGES[int(np.argmin(errors))] / 2


@pytest.mark.parametrize("noise", [1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_ridge_is_that_of_explicit_solutions(seed: int, noise: float) -> None:
    weight, hessians, targets, _ = problem(seed, 40, noise)
    assert chosen_ridge(weight, hessians, targets) == by_solving(weight, hessians, targets)


def test_ridges_between_the_ends_are_found_too() -> None:
    """Were it always the same, comparing it with explicit solutions would say little."""
    found = {chosen_ridge(*problem(seed, 40, noise)[:3]) for seed in range(5) for noise in (1.0, 3.0, 10.0, 30.0)}
    assert len(found - {RIDGES[0] / 2, RIDGES[-1] / 2}) >= 4


def test_without_noise_the_ridge_is_half_the_smallest() -> None:
    """Other weights make exactly the wanted outputs, and all that draws back to the old ones is wrong."""
    weight, hessians, targets, _ = problem(0, 40, 0.0)
    assert chosen_ridge(weight, hessians, targets) == RIDGES[0] / 2


def test_with_noise_alone_the_ridge_is_half_the_largest() -> None:
    """The weights are already right, and the better others fit to the noise of one half the worse on the other."""
    _, hessians, targets, true = problem(0, 40, 10.0)
    assert chosen_ridge(true, hessians, targets) == RIDGES[-1] / 2


def test_more_noise_never_makes_the_ridge_smaller_on_the_whole() -> None:
    means = [
        np.mean([np.log(chosen_ridge(*problem(seed, 40, noise)[:3])) for seed in range(10)]) for noise in (1, 5, 25)
    ]
    assert means == sorted(means)
    assert means[2] - means[0] > np.log(8)


def test_the_ridge_is_in_units_of_the_variance_of_the_inputs() -> None:
    """Inputs and outputs of another scale, a power of 2 so that no bit changes, need the same one."""
    weight, hessians, targets, _ = problem(1, 40, 5.0)
    found = chosen_ridge(weight, hessians, targets)
    assert found == chosen_ridge(weight, [4096 * h for h in hessians], [4096 * t for t in targets])
    assert RIDGES[0] / 2 < found < RIDGES[-1] / 2


def test_which_half_comes_first_does_not_matter() -> None:
    weight, hessians, targets, _ = problem(2, 40, 5.0)
    assert chosen_ridge(weight, hessians, targets) == chosen_ridge(weight, hessians[::-1], targets[::-1])


def test_one_half_takes_the_largest() -> None:
    """Nothing can be left out to choose the ridge by."""
    weight, hessians, targets, _ = problem(0, 40, 0.0)
    assert chosen_ridge(weight, hessians[:1], targets[:1]) == RIDGES[-1]


def test_noisy_inputs_are_worth_less() -> None:
    """Inputs of variance 3 under noise of variance 1: a quarter of what they vary by says nothing."""
    weight = problem(0, 1, 0.0)[0]
    hessian = 4 * torch.eye(6).expand(2, 6, 6)
    torch.testing.assert_close(attenuated(weight, hessian, 3 * weight), 0.75 * weight)


def test_each_output_has_its_own_factor_and_that_of_all_counts_as_much() -> None:
    """Alone, the outputs would take 3/4 and 1/4 of their weights, together 2/4: as the mean of both, 5/8 and 3/8."""
    weight = torch.eye(2)[None]
    wanted = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
    found = attenuated(weight, 4 * weight, wanted)
    torch.testing.assert_close(found, torch.tensor([[[0.625, 0.0], [0.0, 0.375]]]))


def test_no_output_has_more_error_than_with_one_factor_for_all() -> None:
    weight, (hessian, _), (target, _), _ = problem(3, 40, 3.0)

    def error(v: Tensor) -> Tensor:
        return ((v @ hessian - 2 * target) * v).sum(2)

    common = weight * ((weight * target).sum() / ((weight @ hessian) * weight).sum())
    assert error(common).sum() < error(weight).sum()
    assert (error(attenuated(weight, hessian, target)) <= error(common) + 1e-4).all()


def test_inputs_that_do_not_vary_leave_the_weights() -> None:
    weight, (hessian, _), (target, _), _ = problem(0, 40, 1.0)
    assert attenuated(weight, 0 * hessian, 0 * target) is weight


def test_where_nothing_can_be_learned_the_factor_remains() -> None:
    """Outputs are those of the float weights, inputs noisy and all alike: a strong ridge, towards smaller weights."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 4, 60, generator=generator)
    hessians, targets = [], []
    for _ in range(2):
        x = torch.randn(1, 60, 80, generator=generator)
        y = x + torch.randn(1, 60, 80, generator=generator)
        hessians.append(y @ y.transpose(1, 2) / 80)
        targets.append(weight @ x @ y.transpose(1, 2) / 80)
    assert chosen_ridge(weight, hessians, targets) > 1
    factor = float((attenuated(weight, hessians[0], targets[0]) / weight).mean())
    assert factor == pytest.approx(0.5, abs=0.05)
