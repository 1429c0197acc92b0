"""Rounding that makes up for itself, under a Hessian: bytes by GPTQ, the best scales for them, and a last polish.

GPTQ (arXiv:2210.17323), from Optimal Brain Compression (arXiv:2208.11580), goes from one input of a layer to the next,
rounds its weights, and lets the inputs that come after make up for the error. Below 8 bits, K outputs are rounded
together, to the vector of the codebook that leaves their outputs the least error (vector quantization as in GPTVQ,
arXiv:2402.15319, but across outputs: these have errors that just add up, so no vector needs a Hessian of its own).

GPTQ never comes back to a weight it has rounded. Going over all inputs again, each byte to the one that is best beside
the others (coordinate descent, QuantEase, arXiv:2309.01885), and fitting the scales by least squares, takes away more.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.numerics.weights import BitWidth, storable

DAMPING: Final = 0.03
"""Share of the mean variance of the inputs to add to all their variances before rounding."""

_BLOCK: Final = 128  # inputs rounded between two updates of the rest
_STRETCHES: Final = (0.85, 0.92, 1.08, 1.16)  # of the scales that suit the weights alone
_POLISHES: Final = 3


class Codebook:
    """The levels of a width as tensors, for weights of so many outputs.

    Args:
        width: whose levels.
        groups: of the layer.
        outputs: in one group.
    """

    def __init__(self, width: BitWidth, groups: int, outputs: int) -> None:
        self.size, self.highest, self.groups, self.outputs = width.per_byte, width.highest, groups, outputs
        self.table = torch.from_numpy(width.codebook.copy()).float()
        self._norms = torch.cat((self.table.square(), self.table), dim=1).T.contiguous()

    def nearest(self, target: Tensor, importance: Tensor) -> Tensor:
        """The bytes whose levels are closest to some targets.

        Args:
            target: float32 `[groups, outputs]`, in levels.
            importance: of the square of each difference, positive, `[groups, outputs]`.

        Returns:
            int64 `[ceil(groups * outputs / K)]`.
        """
        if self.size == 1:
            return target.reshape(-1).round().clamp(-self.highest, self.highest).long() % 256
        t, m = self.vectors(target), self.vectors(importance)
        return (torch.cat((m, -2 * m * t), dim=1) @ self._norms).argmin(dim=1)

    def levels(self, index: Tensor) -> Tensor:
        """Look bytes up: int64 `[vectors]` or `[vectors, fan-in]` to float32 `[groups, outputs(, fan-in)]`."""
        found = self.table[index].movedim(-1, 1).flatten(0, 1)[: self.groups * self.outputs]
        return found.reshape(self.groups, self.outputs, *index.shape[1:])

    def vectors(self, values: Tensor) -> Tensor:
        """`[groups, outputs]` as `[vectors, K]`; what is missing in the last vector is 0."""
        return F.pad(values.reshape(-1), (0, -values.numel() % self.size)).reshape(-1, self.size)


def best_rounding(
    weight: Tensor, hessian: Tensor, scale: Tensor, width: BitWidth, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Round weights, choosing the scale of each output so that its error under the Hessian is least.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.
        scale: of every output, to start from, `[groups, out]`, see `edgeq.numerics.weights.storable`.
        width: of the weights.
        least: that every scale may be, `[groups, out]`, see `edgeq.numerics.weights.least_scales`.

    Returns:
        Bytes, int64 `[ceil(groups * out / K), fan-in]`, and scales `[groups, out]`, as `storable` gives them. No K
        outputs that share bytes have a larger error together than `gptq` gives them with the scales to start from.
    """
    updates, scale = Updates(hessian), torch.maximum(scale, least)
    best = _Rounding(weight, hessian, gptq(weight, updates, scale, width), scale, width)
    for stretch in _STRETCHES:
        tried = torch.maximum(half_scale(scale * stretch), least)
        best.take_better(gptq(weight, updates, tried, width), tried)
    for _ in range(_POLISHES):
        best.take_better(best.index, torch.maximum(best.fitted_scale(), least))
        best.take_better(descend(weight, hessian, best.index, best.scale, width), best.scale)
    return best.index, best.scale


class _Rounding:
    """The best bytes and scales so far of all outputs that share bytes."""

    def __init__(self, weight: Tensor, hessian: Tensor, index: Tensor, scale: Tensor, width: BitWidth) -> None:
        self.weight, self.hessian, self.index, self.scale = weight, hessian, index, scale
        self.codebook = Codebook(width, *weight.shape[:2])
        self.errors = self._errors(index, scale)

    def _errors(self, index: Tensor, scale: Tensor) -> Tensor:
        left = self.weight - self.codebook.levels(index) * scale[:, :, None]
        return self.codebook.vectors(((left @ self.hessian) * left).sum(2)).sum(1)

    def take_better(self, index: Tensor, scale: Tensor) -> None:
        """Take the vectors that these have less error for."""
        errors = self._errors(index, scale)
        better = errors < self.errors
        self.index = torch.where(better[:, None], index, self.index)
        outputs = better.repeat_interleave(self.codebook.size)[: scale.numel()].reshape(scale.shape)
        self.scale = torch.where(outputs, scale, self.scale)
        self.errors = torch.where(better, errors, self.errors)

    def fitted_scale(self) -> Tensor:
        """The scale that suits the levels best, by least squares; if that is not positive, the one they have."""
        levels = self.codebook.levels(self.index)
        seen = levels @ self.hessian
        power, fit = (seen * levels).sum(2), (seen * self.weight).sum(2)
        return half_scale(torch.where((power > 0) & (fit > 0), fit / power, self.scale))


def half_scale(scale: Tensor) -> Tensor:
    """`edgeq.numerics.weights.storable` of a tensor."""
    return torch.from_numpy(storable(scale.numpy()))


def descend(weight: Tensor, hessian: Tensor, index: Tensor, scale: Tensor, width: BitWidth) -> Tensor:
    """Go over all inputs once, moving each byte to the one that is best while the others stay.

    Args:
        weight, hessian, scale, width: as in `best_rounding`.
        index: bytes to start from, int64 `[ceil(groups * out / K), fan-in]`; left as they are.

    Returns:
        Bytes whose error under the Hessian is not larger.
    """
    codebook = Codebook(width, *weight.shape[:2])
    index = index.clone()
    rounded = codebook.levels(index) * scale[:, :, None]
    slope = (weight - rounded) @ hessian
    for i in range(weight.shape[2]):
        curvature = hessian[:, None, i, i]
        best = (rounded[:, :, i] + slope[:, :, i] / curvature) / scale
        index[:, i] = codebook.nearest(best, scale.square() * curvature)
        moved = codebook.levels(index[:, i]) * scale - rounded[:, :, i]
        slope -= moved[:, :, None] * hessian[:, None, i]
    return index


class Updates:
    """How the error of each input is made up for by those after it, for any weights and scales under one Hessian.

    Args:
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.

    Attributes:
        order: of the inputs, by falling variance, int64 `[fan-in]`; one for all groups, since a byte may hold weights
            of several.
        factor: the upper Cholesky factor of the inverse, in that order, whose row `i` holds the updates that input `i`
            causes.
    """

    def __init__(self, hessian: Tensor) -> None:
        self.order = hessian.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[:, self.order][:, :, self.order]))
        self.factor = torch.linalg.cholesky(inverse, upper=True)


def gptq(weight: Tensor, updates: Updates, scale: Tensor, width: BitWidth) -> Tensor:
    """Round weights so that the output error under a Hessian is small (GPTQ, arXiv:2210.17323).

    Inputs are gone through in order of falling variance; the error of each is made up for by those after it.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        updates: of the Hessian.
        scale: of every output, `[groups, out]`.
        width: of the weights.

    Returns:
        Bytes, int64 `[ceil(groups * out / K), fan-in]`.
    """
    codebook = Codebook(width, *weight.shape[:2])
    factor, left, found = updates.factor, weight[:, :, updates.order], []
    for start in range(0, left.shape[2], _BLOCK):
        end = min(start + _BLOCK, left.shape[2])
        errors = torch.zeros_like(left[:, :, start:end])
        for i in range(start, end):
            pivot = factor[:, None, i, i]
            found.append(codebook.nearest(left[:, :, i] / scale, (scale / pivot).square()))
            errors[:, :, i - start] = (left[:, :, i] - codebook.levels(found[-1]) * scale) / pivot
            left[:, :, i:end] -= errors[:, :, i - start, None] * factor[:, None, i, i:end]
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    index = torch.empty(len(found[0]), len(found), dtype=torch.int64)
    index[:, updates.order] = torch.stack(found, dim=1)
    return index
