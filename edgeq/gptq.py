"""Rounding that makes up for itself, under a Hessian: codes by GPTQ, the best scales for it, and a last polish.

GPTQ (arXiv:2210.17323), from Optimal Brain Compression (arXiv:2208.11580), never comes back to a weight it has rounded.
Going over all weights again, each to the level that is best beside the others (coordinate descent, QuantEase,
arXiv:2309.01885), and fitting the scale to the codes by least squares, takes away some more.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from edgeq.quantize import BitWidth

DAMPING: Final = 0.01
"""Share of the mean variance of the inputs to add to all their variances before rounding."""

_BLOCK: Final = 128  # columns rounded between two updates of the rest
_STRETCHES: Final = (0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2)  # of the scales that suit the weights alone
_POLISHES: Final = 4


def best_rounding(weight: Tensor, hessian: Tensor, scale: Tensor, width: BitWidth) -> tuple[Tensor, Tensor]:
    """Round weights, choosing the scale of each output so that its error under the Hessian is least.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.
        scale: of every output, to start from, `[groups, out]`, numbers of float16 other than 0; its sign is kept.
        width: the grid.

    Returns:
        Codes, float32 of integers within the grid, of the weights' shape, and scales `[groups, out]`, numbers of
        float16 other than 0. No output has a larger error than `gptq` gives it with the scale to start from.
    """
    best = _Rounding(weight, hessian, gptq(weight, hessian, scale, width), scale)
    for stretch in _STRETCHES:
        tried = half_scale(scale * stretch)
        best.take_better(gptq(weight, hessian, tried, width), tried)
    for _ in range(_POLISHES):
        fitted = best.fitted_scale()
        best.take_better(descend(weight, hessian, best.codes, fitted, width), fitted)
    return best.codes, best.scale


class _Rounding:
    """The best codes and scales of each output so far."""

    def __init__(self, weight: Tensor, hessian: Tensor, codes: Tensor, scale: Tensor) -> None:
        self.weight, self.hessian, self.codes, self.scale = weight, hessian, codes, scale
        self.errors = self._errors(codes, scale)

    def _errors(self, codes: Tensor, scale: Tensor) -> Tensor:
        left = self.weight - codes * scale[:, :, None]
        return ((left @ self.hessian) * left).sum(2)

    def take_better(self, codes: Tensor, scale: Tensor) -> None:
        """Take the outputs that these have less error for."""
        errors = self._errors(codes, scale)
        better = errors < self.errors
        self.codes = torch.where(better[:, :, None], codes, self.codes)
        self.scale = torch.where(better, scale, self.scale)
        self.errors = torch.where(better, errors, self.errors)

    def fitted_scale(self) -> Tensor:
        """The scale that suits the codes best, by least squares; if its sign were another, the one they have."""
        seen = self.codes @ self.hessian
        power, fit = (seen * self.codes).sum(2), (seen * self.weight).sum(2)
        return half_scale(torch.where((power > 0) & (fit * self.scale > 0), fit / power, self.scale))


def half_scale(scale: Tensor) -> Tensor:
    """Round float32 scales other than 0 to finite numbers of float16 other than 0."""
    half = torch.finfo(torch.float16)
    stored = scale.clamp(half.min, half.max).half().float()
    return torch.where(stored == 0, scale.sign() * half.smallest_normal, stored)


def descend(weight: Tensor, hessian: Tensor, codes: Tensor, scale: Tensor, width: BitWidth) -> Tensor:
    """Go over all columns once, moving each code to the level that is best while the others stay.

    Args:
        weight, hessian, scale, width: as in `gptq`.
        codes: to start from, of the weights' shape, within the grid; left as they are.

    Returns:
        Codes whose error under the Hessian is not larger.
    """
    codes = codes.clone()
    left = weight - codes * scale[:, :, None]
    slope = left @ hessian
    for i in range(weight.shape[2]):
        curvature = hessian[:, None, i, i]
        best = codes[:, :, i] + slope[:, :, i] / curvature / scale
        moved = best.round().clamp(width.qmin, width.qmax) - codes[:, :, i]
        codes[:, :, i] += moved
        slope -= (moved * scale)[:, :, None] * hessian[:, None, i]
    return codes


def gptq(weight: Tensor, hessian: Tensor, scale: Tensor, width: BitWidth) -> Tensor:
    """Round weights so that the output error under a Hessian is small (GPTQ, arXiv:2210.17323).

    Columns are rounded in order of falling variance; the error of each is made up for by the columns after it.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.
        scale: of every output, `[groups, out]`.
        width: the grid.

    Returns:
        Codes, float32 of integers within the grid, of the weights' shape.
    """
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    hessian = hessian.gather(1, order[:, :, None].expand_as(hessian)).gather(2, order[:, None, :].expand_as(hessian))
    columns = order[:, None, :].expand_as(weight)
    left = weight.gather(2, columns).clone()
    # Row i of the upper Cholesky factor of the inverse holds the updates that column i causes.
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    codes = torch.zeros_like(left)
    for start in range(0, left.shape[2], _BLOCK):
        end = min(start + _BLOCK, left.shape[2])
        errors = torch.zeros_like(left[:, :, start:end])
        for i in range(start, end):
            codes[:, :, i] = torch.round(left[:, :, i] / scale).clamp(width.qmin, width.qmax)
            errors[:, :, i - start] = (left[:, :, i] - codes[:, :, i] * scale) / factor[:, None, i, i]
            left[:, :, i:end] -= errors[:, :, i - start, None] * factor[:, None, i, i:end]
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return torch.zeros_like(codes).scatter(2, columns, codes)
