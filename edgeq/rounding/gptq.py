"""Error-compensated rounding under a Hessian: GPTQ, then coordinate descent and least-squares scales.

GPTQ (arXiv:2210.17323), from Optimal Brain Compression (arXiv:2208.11580), rounds the weights of one input of a layer
after the other, and compensates each error with the weights of the inputs that are left. Below 8 bits, the weights of K
outputs are rounded together, to the codebook vector with the least output error: vector quantization as in GPTVQ
(arXiv:2402.15319), but across outputs. The errors of outputs simply add up, so a vector needs no Hessian of its own.

GPTQ never changes a weight again that it has rounded. Coordinate descent does (QuantEase, arXiv:2309.01885): it visits
all inputs again and sets each byte to the best one given the others. With scales fitted by least squares in between,
this reduces the error further.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.numerics.weights import BitWidth, storable

DAMPING: Final = 0.03
"""What is added to the variance of every input before rounding, as a share of their mean variance."""

_BLOCK: Final = 128  # inputs rounded between two updates of all later ones
_STRETCHES: Final = (0.85, 0.92, 1.08, 1.16)  # factors of the starting scales to try
_POLISHES: Final = 3  # rounds of fitted scales and coordinate descent


class Codebook:
    """The codebook of a width in torch, for the weights of one layer.

    Args:
        width: the bit width.
        groups: number of groups of the layer.
        outputs: number of outputs in one group.
    """

    def __init__(self, width: BitWidth, groups: int, outputs: int) -> None:
        self.size, self.highest, self.groups, self.outputs = width.per_byte, width.highest, groups, outputs
        self.table = torch.from_numpy(width.codebook.copy()).float()
        self._norms = torch.cat((self.table.square(), self.table), dim=1).T.contiguous()

    def nearest(self, target: Tensor, importance: Tensor) -> Tensor:
        """Return the bytes with the least weighted squared distance to some targets.

        Args:
            target: real-valued levels, float32 `[groups, outputs]`.
            importance: positive weight of each squared difference, float32 `[groups, outputs]`.

        Returns:
            int64 `[ceil(groups * outputs / K)]`.
        """
        if self.size == 1:
            return target.reshape(-1).round().clamp(-self.highest, self.highest).long() % 256
        t, m = self.vectors(target), self.vectors(importance)
        return (torch.cat((m, -2 * m * t), dim=1) @ self._norms).argmin(dim=1)

    def levels(self, index: Tensor) -> Tensor:
        """Decode bytes: int64 `[vectors]` or `[vectors, fan-in]` to float32 `[groups, outputs(, fan-in)]`."""
        found = self.table[index].movedim(-1, 1).flatten(0, 1)[: self.groups * self.outputs]
        return found.reshape(self.groups, self.outputs, *index.shape[1:])

    def vectors(self, values: Tensor) -> Tensor:
        """Reshape `[groups, outputs]` to `[vectors, K]`, padding the last vector with zeros."""
        return F.pad(values.reshape(-1), (0, -values.numel() % self.size)).reshape(-1, self.size)


def best_rounding(
    weight: Tensor, hessian: Tensor, scale: Tensor, width: BitWidth, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Round weights with small error under a Hessian, choosing the scale of each output, too.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.
        scale: starting scale of every output, `[groups, out]`, rounded by `edgeq.numerics.weights.storable`.
        width: bit width of the weights.
        least: smallest allowed scale of every output, `[groups, out]`, see `edgeq.rounding.steps.least_scales`.

    Returns:
        Bytes, int64 `[ceil(groups * out / K), fan-in]`, and scales `[groups, out]`, rounded by `storable`. The summed
        error of K outputs that share bytes is never larger than that of `gptq` with the starting scales.
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
    """The best bytes and scales so far, for each set of K outputs that share bytes."""

    def __init__(self, weight: Tensor, hessian: Tensor, index: Tensor, scale: Tensor, width: BitWidth) -> None:
        self.weight, self.hessian, self.index, self.scale = weight, hessian, index, scale
        self.codebook = Codebook(width, *weight.shape[:2])
        self.errors = self._errors(index, scale)

    def _errors(self, index: Tensor, scale: Tensor) -> Tensor:
        left = self.weight - self.codebook.levels(index) * scale[:, :, None]
        return self.codebook.vectors(((left @ self.hessian) * left).sum(2)).sum(1)

    def take_better(self, index: Tensor, scale: Tensor) -> None:
        """Take over these bytes and scales for the outputs where they have less error."""
        errors = self._errors(index, scale)
        better = errors < self.errors
        self.index = torch.where(better[:, None], index, self.index)
        outputs = better.repeat_interleave(self.codebook.size)[: scale.numel()].reshape(scale.shape)
        self.scale = torch.where(outputs, scale, self.scale)
        self.errors = torch.where(better, errors, self.errors)

    def fitted_scale(self) -> Tensor:
        """Return the least-squares scale for the levels, `[groups, out]`; where it is not positive, the present one."""
        levels = self.codebook.levels(self.index)
        seen = levels @ self.hessian
        power, fit = (seen * levels).sum(2), (seen * self.weight).sum(2)
        return half_scale(torch.where((power > 0) & (fit > 0), fit / power, self.scale))


def half_scale(scale: Tensor) -> Tensor:
    """Apply `edgeq.numerics.weights.storable` to a tensor."""
    return torch.from_numpy(storable(scale.numpy()))


def descend(weight: Tensor, hessian: Tensor, index: Tensor, scale: Tensor, width: BitWidth) -> Tensor:
    """Run one pass of coordinate descent: set each byte to the best one while the others stay (arXiv:2309.01885).

    Args:
        weight, hessian, scale, width: as in `best_rounding`.
        index: bytes to start from, int64 `[ceil(groups * out / K), fan-in]`; not modified.

    Returns:
        Bytes whose error under the Hessian is not larger, of the same shape.
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
    """The error compensation of GPTQ for one Hessian, with any weights and scales.

    Args:
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.

    Attributes:
        order: order in which inputs are rounded, by falling variance, int64 `[fan-in]`. All groups have the same order,
            since a byte may hold weights of several groups.
        factor: upper Cholesky factor of the inverse Hessian in that order, `[groups, fan-in, fan-in]`. Row `i` says how
            much the error of input `i` changes the weights of later inputs.
    """

    def __init__(self, hessian: Tensor) -> None:
        self.order = hessian.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[:, self.order][:, :, self.order]))
        self.factor = torch.linalg.cholesky(inverse, upper=True)


def gptq(weight: Tensor, updates: Updates, scale: Tensor, width: BitWidth) -> Tensor:
    """Round weights so that the output error under a Hessian is small (GPTQ, arXiv:2210.17323).

    Inputs are rounded in order of falling variance, and the error of each is compensated by those after it.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        updates: error compensation for the Hessian.
        scale: scale of every output, `[groups, out]`.
        width: bit width of the weights.

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
