"""The float weights that make the most of the inputs that a layer gets: a ridge regression onto its float outputs.

They minimize `E|t - V y|^2 + r|V - W|^2` for the inputs `y` in the quantized network and the outputs `t` of the float
one (the correction of asymmetric inputs of GPTAQ, arXiv:2504.02692, in closed form). The ridge `r` is the one that does
best on images that were left out: cross-validation on two halves of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import torch
from torch import Tensor

from edgeq.rounding.moments import Moments, isotropic

RIDGES: Final = tuple(0.003 * 2.0**k for k in range(14))  # of the mean variance of a patch
HALVES: Final = 2


class Half:
    """Moments over one half of the images, of the patches that a layer reads and of what it should make of them."""

    def __init__(self) -> None:
        self.own, self.target = Moments(), Moments()


def chosen_ridge(weight: Tensor, hessians: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Choose the ridge of the regression by how well weights fitted to one half of the images do on the other.

    Args:
        weight: float32 `[groups, out, fan-in]`, to which the ridge draws.
        hessians: second moments of the inputs for each half, `[groups, fan-in, fan-in]`.
        targets: second moments of wanted outputs and inputs for each half, `[groups, out, fan-in]`.

    Returns:
        The ridge for both halves together, in units of the mean variance of the inputs: half of what suits each, since
        what the ridge keeps in bounds, the noise of the moments, is half. Of one half alone, the largest.
    """
    if len(hessians) < HALVES:
        return RIDGES[-1]
    diagonals = [isotropic(hessian) for hessian in hessians]

    @cache
    def error(i: int) -> float:
        found = 0.0
        for mine, other in ((0, 1), (1, 0)):
            factor = torch.linalg.cholesky(hessians[mine] + RIDGES[i] * diagonals[mine])
            wanted = targets[mine] + RIDGES[i] * weight * diagonals[mine][:, :1, :1]
            solved = torch.cholesky_solve(wanted.transpose(1, 2), factor).transpose(1, 2)
            found += float(((solved @ hessians[other] - 2 * targets[other]) * solved).sum())
        return found

    # The error falls up to some ridge and rises behind it, so half of them need not be tried.
    best = len(RIDGES) // 2
    for step in (4, 2, 1):
        best = min((i for i in (best - step, best, best + step) if 0 <= i < len(RIDGES)), key=error)
    return RIDGES[best] / 2
