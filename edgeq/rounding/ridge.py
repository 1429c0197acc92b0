"""Ridge regression of a layer's float outputs on its quantized inputs, to correct the float weights before rounding.

The corrected weights `V` minimize `E|t - V y|^2 + r|V - f W|^2` for the float weights `W`, the inputs `y` in the
quantized network and the outputs `t` in the float network: the correction for asymmetric inputs of GPTAQ
(arXiv:2504.02692) in closed form. The ridge `r` is chosen by cross-validation on two halves of the images. `f` is one
factor for each output: inputs that carry noise are worth less than what they vary by (errors in variables), also where
the images are too few to tell more of how `V` differs from `W`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import torch
from torch import Tensor

from edgeq.rounding.moments import Moments, isotropic

RIDGES: Final = tuple(0.003 * 2.0**k for k in range(18))  # in units of the mean variance of a patch
HALVES: Final = 2

_JUDGED: Final = 64  # most groups that a ridge is judged by


class Half:
    """Moments over one half of the images: `own` of the patches, `target` of the wanted outputs with the patches."""

    def __init__(self) -> None:
        self.own, self.target = Moments(), Moments()

    def beside(self) -> Half:
        """Return moments of nothing, for samples that are `merge`d later; of nothing yet, if this has none."""
        found = Half()
        if self.own.rows:
            found.own, found.target = self.own.beside(), self.target.beside()
        return found

    def merge(self, other: Half) -> None:
        """Add the samples of another, which came from `beside`."""
        self.own.merge(other.own)
        self.target.merge(other.target)


def attenuated(weight: Tensor, hessian: Tensor, target: Tensor) -> Tensor:
    """Return the weights of each output times the factor that brings it closest to the wanted one.

    Each output counts as much for its factor as all outputs together, so that no factor is due to chance alone.

    Args:
        weight: the float weights, float32 `[groups, out, fan-in]`.
        hessian: covariance of the inputs, `[groups, fan-in, fan-in]`.
        target: covariance of wanted outputs and inputs, `[groups, out, fan-in]`.

    Returns:
        Float32 `[groups, out, fan-in]`; the weights as they are if no input varies.
    """
    power = ((weight @ hessian) * weight).sum(2, keepdim=True)
    wanted = (weight * target).sum(2, keepdim=True)
    if not power.mean() > 0:
        return weight
    return weight * ((wanted + wanted.mean()) / (power + power.mean()))


def chosen_ridge(weight: Tensor, hessians: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Choose the ridge by cross-validation: weights fitted to one half of the images are judged on the other half.

    Args:
        weight: the float weights, float32 `[groups, out, fan-in]`.
        hessians: covariance of the inputs for each half, `[groups, fan-in, fan-in]`.
        targets: covariance of wanted outputs and inputs for each half, `[groups, out, fan-in]`.

    Returns:
        The ridge for both halves together, in units of the mean variance of the inputs. It is half of the best one for
        a single half, since the ridge limits the noise of the moments, which is half over all images. If there is only
        one half, the largest ridge. Of many groups, evenly chosen ones decide for all.
    """
    if len(hessians) < HALVES:
        return RIDGES[-1]
    every = -(-len(weight) // _JUDGED)
    weight, hessians, targets = weight[::every], [h[::every] for h in hessians], [t[::every] for t in targets]
    diagonals = [isotropic(hessian) for hessian in hessians]
    starts = [attenuated(weight, hessian, target) for hessian, target in zip(hessians, targets, strict=True)]

    @cache
    def error(i: int) -> float:
        found = 0.0
        for mine, other in ((0, 1), (1, 0)):
            factor = torch.linalg.cholesky(hessians[mine] + RIDGES[i] * diagonals[mine])
            wanted = targets[mine] + RIDGES[i] * starts[mine] * diagonals[mine][:, :1, :1]
            solved = torch.cholesky_solve(wanted.transpose(1, 2), factor).transpose(1, 2)
            found += float(((solved @ hessians[other] - 2 * targets[other]) * solved).sum())
        return found

    # The error falls up to the best ridge and rises after it, so half of them need not be tried.
    best = len(RIDGES) // 2
    for step in (8, 4, 2, 1):
        best = min((i for i in (best - step, best, best + step) if 0 <= i < len(RIDGES)), key=error)
    return RIDGES[best] / 2
