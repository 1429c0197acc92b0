"""First and second moments of what a layer reads, estimated on sampled output positions.

A convolution is a matrix product over patches. The power of the error that a change `D` of its weights causes is
`tr(D C D')`, with `C` the covariance of its patches: no other statistic of the images is needed, neither to predict
the sensitivity to a width nor to round the weights well. A few positions of every image estimate `C` as well as all of
them would, because neighbouring patches are nearly the same.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor, nn

_NOTHING: Final = 1e-30  # of a variance: float32 holds its sums of squares no longer accurately


def sample_positions(layer: nn.Module, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose up to `count` output positions of a layer for input `x`, int64 `[positions, 2]` (row, column)."""
    if not isinstance(layer, nn.Conv2d):
        return torch.zeros(1, 2, dtype=torch.int64)
    pads, kernel, dilation, stride = _geometry(layer)
    rows, columns = (
        (x.shape[2 + i] + 2 * pads[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    flat = torch.randperm(rows * columns, generator=generator)[:count]
    return torch.stack((flat // columns, flat % columns), dim=1)


def patches(layer: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    """What a layer multiplies its weights with at some positions, float32 `[groups, fan-in, batch * positions]`."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1]).transpose(1, 2).contiguous()
    pads, kernel, dilation, stride = _geometry(layer)
    positions = positions.to(x.device)
    rows, columns = (
        positions[:, i, None] * stride[i] + torch.arange(kernel[i], device=x.device) * dilation[i] - pads[i]
        for i in (0, 1)
    )
    inside = ((rows >= 0) & (rows < x.shape[2]))[:, :, None] & ((columns >= 0) & (columns < x.shape[3]))[:, None, :]
    rows, columns = rows.clamp(0, x.shape[2] - 1), columns.clamp(0, x.shape[3] - 1)
    found = x.permute(0, 2, 3, 1)[:, rows[:, :, None], columns[:, None, :]]  # [batch, positions, kernel, kernel, in]
    if any(pads):
        found = found * inside[None, ..., None]
    grouped = found.reshape(len(x) * len(positions), kernel[0] * kernel[1], layer.groups, -1)
    return grouped.permute(2, 3, 1, 0).reshape(layer.groups, -1, len(grouped))


def _geometry(layer: nn.Conv2d) -> tuple[tuple[int, int], ...]:
    """Padding, kernel, dilation and stride, each rows and columns."""
    return tuple(
        cast(tuple[int, int], value) for value in (layer.padding, layer.kernel_size, layer.dilation, layer.stride)
    )


class Moments:
    """Running sums over patches `a` and, row by row, `b` (the same tensor, or the same patches in another network).

    Sums are taken relative to the first patch, so that a large mean does not drown the variance in float32.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._origins: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in patches, float32 `[groups, fan-in, rows]`."""
        if self._origins is None:
            self._origins = a[:, :, :1].clone(), b[:, :, :1].clone()
        x = a - self._origins[0]
        y = x if b is a else b - self._origins[1]
        found = [x.sum(2), y.sum(2), x @ y.transpose(1, 2)]
        if self.rows:
            for have, new in zip(self._sums, found, strict=True):
                have.add_(new)
        else:
            self._sums = found
        self.rows += a.shape[2]

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean patch of both, `[groups, fan-in]`; after at least one `add`."""
        origins = cast(tuple[Tensor, Tensor], self._origins)
        return origins[0][:, :, 0] + self._sums[0] / self.rows, origins[1][:, :, 0] + self._sums[1] / self.rows

    def covariance(self) -> Tensor:
        """`E[a b'] - E[a] E[b]'`, `[groups, fan-in, fan-in]`; after at least one `add`."""
        mean_a, mean_b = (total / self.rows for total in self._sums[:2])
        return self._sums[2] / self.rows - mean_a[:, :, None] * mean_b[:, None, :]


def by_group(weight: Tensor, groups: int) -> Tensor:
    """Weights `[out, ...]` as `[groups, out / groups, fan-in]`."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def isotropic(covariance: Tensor) -> Tensor:
    """Covariance of as many uncorrelated values that vary as much on average, `[groups, fan-in, fan-in]`.

    Added in some proportion it makes a covariance positive definite. Where a group never varies, or by less than
    float32 can square, it is the identity.
    """
    variance = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
    variance = torch.where(variance > _NOTHING, variance, torch.ones_like(variance))
    return variance[:, None, None] * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)


def output_power(weight: Tensor, covariance: Tensor) -> float:
    """Power of what weights `[groups, out / groups, fan-in]` make of patches of this covariance, over all outputs."""
    return float(((weight @ covariance) * weight).sum())
