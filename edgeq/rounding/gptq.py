"""Error-compensated rounding under a Hessian: GPTQ, then coordinate descent and least-squares scales.

GPTQ (arXiv:2210.17323), from Optimal Brain Compression (arXiv:2208.11580), rounds the weights of one input of a layer
after the other, and compensates each error with the weights of the inputs that are left. Below 8 bits, the weights of
an input are rounded together, to the sequences of bytes with the least output error: trellis-coded quantization across
outputs (`edgeq.numerics.trellis`). The errors of outputs simply add up, so a sequence needs no Hessian of its own.

GPTQ never changes a weight again that it has rounded. Coordinate descent does (QuantEase, arXiv:2309.01885): it visits
all inputs again and sets their bytes to the best ones given those of the others. With scales fitted by least squares in
between, this reduces the error further.

Both run in the kernels' library (`edgeq.native.rounding`), and without a compiler in torch: the same operations in the
same order, and so the same bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.native.encoder import Encoder
from edgeq.native.library import is_compiled
from edgeq.native.rounding import Rounder
from edgeq.numerics.trellis import RADIX, sequences
from edgeq.numerics.weights import BitWidth, packed_shape, storable

DAMPING: Final = 0.03
"""What is added to the variance of every input before rounding, as a share of their mean variance."""

_STRETCHES: Final = (0.85, 0.92, 1.08, 1.16)  # factors of the starting scales to try
_POLISHES: Final = 3  # rounds of fitted scales and coordinate descent


class Coder:
    """The code of a width in torch, for the weights of one layer.

    Args:
        width: the bit width.
        groups: number of groups of the layer.
        outputs: number of outputs in one group.

    Attributes:
        rows: bytes of an input.
        length: how many of them are a sequence, which is coded as a whole; at 8 bits each by itself.
    """

    def __init__(self, width: BitWidth, groups: int, outputs: int) -> None:
        self.width, self.groups, self.outputs = width, groups, outputs
        self.rows = packed_shape((groups * outputs, 1), width)[0]
        self.length = 1 if width.bits == 8 else sequences(self.rows)[1]

    def nearest(self, target: Tensor, importance: Tensor) -> Tensor:
        """Return the bytes with the least weighted squared distance to some targets: at 8 bits, else nearly the least.

        Args:
            target: real-valued levels, float32 `[groups, outputs]`.
            importance: positive weight of each squared difference, float32 `[groups, outputs]`.

        Returns:
            int64 `[rows]`.
        """
        if self.width.bits == 8:
            return target.reshape(-1).round().clamp(-self.width.highest, self.width.highest).long() % 256
        importance = torch.ldexp(importance, -torch.frexp(importance.max()).exponent)  # up to 1, and as exact as before
        t, m = (self._cut(values).numpy() for values in (target, importance))
        return torch.from_numpy(_encoder(self.width.bits).encode(t, m)).reshape(-1).long()

    def levels(self, index: Tensor) -> Tensor:
        """Decode bytes: int64 `[rows]` or `[rows, fan-in]` to float32 `[groups, outputs(, fan-in)]`."""
        if self.width.bits == 8:
            found = index.to(torch.int8)
        else:
            cut = index.reshape(-1, self.length, *index.shape[1:])
            pairs = RADIX * cut.roll(1, 1) + cut
            found = _decoder(self.width.bits)[pairs].movedim(-1, 2).flatten(0, 2)[: self.groups * self.outputs]
        return found.float().reshape(self.groups, self.outputs, *index.shape[1:])

    def by_sequence(self, errors: Tensor) -> Tensor:
        """Add up errors `[groups, outputs]` of outputs that are coded together, `[sequences]`."""
        return self._cut(errors).sum((1, 2))

    def where(self, better: Tensor, index: Tensor, other: Tensor) -> Tensor:
        """Return bytes `[rows, ...]` of some sequences, `better` `[sequences]`, and others of the rest."""
        rows = better.repeat_interleave(self.length)
        return torch.where(rows.reshape(-1, *[1] * (index.dim() - 1)), index, other)

    def outputs_of(self, better: Tensor) -> Tensor:
        """Return which outputs belong to some sequences, `[sequences]` to `[groups, outputs]`."""
        outputs = better.repeat_interleave(self.length * self.width.per_byte)[: self.groups * self.outputs]
        return outputs.reshape(self.groups, self.outputs)

    def _cut(self, values: Tensor) -> Tensor:
        """Reshape `[groups, outputs]` to `[sequences, bytes, K]`, with zeros for what is missing."""
        size = self.rows * self.width.per_byte
        return F.pad(values.reshape(-1), (0, size - values.numel())).reshape(-1, self.length, self.width.per_byte)


@cache
def _encoder(bits: float) -> Encoder:
    return Encoder(BitWidth(bits).trellis)


@cache
def _decoder(bits: float) -> Tensor:
    """The levels of pairs of bytes, int8 `[PAIRS, K]`."""
    return torch.from_numpy(BitWidth(bits).trellis.decoder.copy())


def best_rounding(
    weight: Tensor, hessian: Tensor, scale: Tensor, width: BitWidth, least: Tensor, threads: int = 1
) -> tuple[Tensor, Tensor]:
    """Round weights with small error under a Hessian, choosing the scale of each output, too.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.
        scale: starting scale of every output, `[groups, out]`, rounded by `edgeq.numerics.weights.storable`.
        width: bit width of the weights.
        least: smallest allowed scale of every output, `[groups, out]`, see `edgeq.rounding.steps.least_scales`.
        threads: how many threads share the outputs; results do not depend on it.

    Returns:
        Bytes, int64 `[rows, fan-in]`, and scales `[groups, out]`, rounded by `storable`. The summed error of outputs
        that are coded together is never larger than that of `gptq` with the starting scales.
    """
    updates, scale = Updates(hessian), torch.maximum(scale, least)
    best = _Rounding(weight, hessian, gptq(weight, updates, scale, width, threads), scale, width)
    for stretch in _STRETCHES:
        tried = torch.maximum(half_scale(scale * stretch), least)
        best.take_better(gptq(weight, updates, tried, width, threads), tried)
    for _ in range(_POLISHES):
        best.take_better(best.index, torch.maximum(best.fitted_scale(), least))
        best.take_better(descend(weight, hessian, best.index, best.scale, width, threads), best.scale)
    return best.index, best.scale


class _Rounding:
    """The best bytes and scales so far, for each set of outputs that are coded together."""

    def __init__(self, weight: Tensor, hessian: Tensor, index: Tensor, scale: Tensor, width: BitWidth) -> None:
        self.weight, self.hessian, self.index, self.scale = weight, hessian, index, scale
        self.coder = Coder(width, *weight.shape[:2])
        self.errors = self._errors(index, scale)

    def _errors(self, index: Tensor, scale: Tensor) -> Tensor:
        left = self.weight - self.coder.levels(index) * scale[:, :, None]
        return self.coder.by_sequence(((left @ self.hessian) * left).sum(2))

    def take_better(self, index: Tensor, scale: Tensor) -> None:
        """Take over these bytes and scales for the outputs where they have less error."""
        errors = self._errors(index, scale)
        better = errors < self.errors
        self.index = self.coder.where(better, index, self.index)
        self.scale = torch.where(self.coder.outputs_of(better), scale, self.scale)
        self.errors = torch.where(better, errors, self.errors)

    def fitted_scale(self) -> Tensor:
        """Return the least-squares scale for the levels, `[groups, out]`; where it is not positive, the present one."""
        levels = self.coder.levels(self.index)
        seen = levels @ self.hessian
        power, fit = (seen * levels).sum(2), (seen * self.weight).sum(2)
        return half_scale(torch.where((power > 0) & (fit > 0), fit / power, self.scale))


def half_scale(scale: Tensor) -> Tensor:
    """Apply `edgeq.numerics.weights.storable` to a tensor."""
    return torch.from_numpy(storable(scale.numpy()))


def descend(weight: Tensor, hessian: Tensor, index: Tensor, scale: Tensor, width: BitWidth, threads: int = 1) -> Tensor:
    """Run one pass of coordinate descent: set the bytes of each input to the best ones while the others stay
    (arXiv:2309.01885).

    Args:
        weight, hessian, scale, width, threads: as in `best_rounding`.
        index: bytes to start from, int64 `[rows, fan-in]`; not modified.

    Returns:
        Bytes whose error under the Hessian is not larger, of the same shape.
    """
    coder = Coder(width, *weight.shape[:2])
    levels = coder.levels(index)
    slope = (weight - levels * scale[:, :, None]) @ hessian
    if is_compiled():
        arrays = (slope.numpy(), hessian.numpy(), scale.numpy(), index.to(torch.uint8).numpy())
        return torch.from_numpy(Rounder(width, _shape(weight), threads).descend(*arrays)).long()
    index = index.clone()
    for i in range(weight.shape[2]):
        curvature = hessian[:, None, i, i]
        importance = scale.square() * curvature
        best = levels[:, :, i] + slope[:, :, i] / (curvature * scale)
        tried = coder.nearest(best, importance)
        made = coder.levels(tried)
        # The path through a trellis is nearly the best one only, so the present one may be better.
        gain = importance * ((best - made).square() - (best - levels[:, :, i]).square())
        worse = coder.by_sequence(gain.double()) >= 0
        made = torch.where(coder.outputs_of(worse), levels[:, :, i], made)
        index[:, i] = coder.where(worse, index[:, i], tried)
        slope[:, :, i:] -= ((made - levels[:, :, i]) * scale)[:, :, None] * hessian[:, None, i, i:]
    return index


class Updates:
    """The error compensation of GPTQ for one Hessian, with any weights and scales.

    Args:
        hessian: second moments of the inputs, damped to be positive definite, `[groups, fan-in, fan-in]`.

    Attributes:
        order: order in which inputs are rounded, by falling variance, int64 `[fan-in]`. All groups have the same order,
            since their weights may be coded together.
        factor: upper Cholesky factor of the inverse Hessian in that order, `[groups, fan-in, fan-in]`. Row `i` says how
            much the error of input `i` changes the weights of later inputs.
    """

    def __init__(self, hessian: Tensor) -> None:
        self.order = hessian.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[:, self.order][:, :, self.order]))
        self.factor = torch.linalg.cholesky(inverse, upper=True)


def gptq(weight: Tensor, updates: Updates, scale: Tensor, width: BitWidth, threads: int = 1) -> Tensor:
    """Round weights so that the output error under a Hessian is small (GPTQ, arXiv:2210.17323).

    Inputs are rounded in order of falling variance, and the error of each is compensated by those after it.

    Args:
        weight: float32 `[groups, out, fan-in]`.
        updates: error compensation for the Hessian.
        scale: scale of every output, `[groups, out]`.
        width: bit width of the weights.
        threads: how many threads share the outputs; results do not depend on it.

    Returns:
        Bytes, int64 `[rows, fan-in]`.
    """
    coder = Coder(width, *weight.shape[:2])
    factor, left = updates.factor, weight[:, :, updates.order]
    if is_compiled():
        arrays = (left.numpy(), factor.numpy(), scale.numpy())
        rounded = torch.from_numpy(Rounder(width, _shape(weight), threads).gptq(*arrays)).long()
    else:
        found = []
        for i in range(left.shape[2]):
            pivot = factor[:, None, i, i]
            found.append(coder.nearest(left[:, :, i] / scale, (scale / pivot).square()))
            error = (left[:, :, i] - coder.levels(found[-1]) * scale) / pivot
            left[:, :, i:] -= error[:, :, None] * factor[:, None, i, i:]
        rounded = torch.stack(found, dim=1)
    index = torch.empty_like(rounded)
    index[:, updates.order] = rounded
    return index


def _shape(weight: Tensor) -> tuple[int, int, int]:
    groups, outputs, inputs = weight.shape
    return groups, outputs, inputs
