"""First and second moments of the patches that a layer reads, estimated on sampled output positions.

A convolution is a matrix product over patches. A change `D` of its weights causes an output error of mean square
`tr(D C D')`, where `C` is the covariance of its patches. Rounding the weights well needs no other statistic of the
images. A few positions of every image estimate `C` as well as all of them, because neighbouring patches are similar.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor, nn

TOGETHER: Final = 256
"""Samples that are added up at a time."""

_OF_PAIRS: Final = 2  # dimensions of the products of pairs of features
_NOTHING: Final = 1e-30  # smaller variances count as 0: their squares are not accurate in float32


def sample_positions(layer: nn.Conv2d, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw up to `count` output positions of a layer for input `x`, int64 `[positions, 2]` (row, column)."""
    pads, kernel, dilation, stride = _geometry(layer)
    rows, columns = (
        (x.shape[2 + i] + 2 * pads[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    flat = torch.randperm(rows * columns, generator=generator)[:count]
    return torch.stack((flat // columns, flat % columns), dim=1)


def patches(layer: nn.Conv2d, x: Tensor, positions: Tensor) -> Tensor:
    """Return the input patches of a layer at some output positions, float32 `[groups, fan-in, batch * positions]`."""
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
    """Padding, kernel size, dilation and stride, each for rows and columns."""
    return tuple(
        cast(tuple[int, int], value) for value in (layer.padding, layer.kernel_size, layer.dilation, layer.stride)
    )


class Moments:
    """Running first and second moments of two aligned streams `a` and `b`: the same patches, or outputs and inputs.

    Sums are taken relative to the first patch, so that a large mean does not swamp the variance in float32.

    Attributes:
        rows: number of samples.
        total: sum of their weights for each group, `[groups]` or `[1]`; 1 each where none were given.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.total = torch.zeros(1, dtype=torch.float32)
        self._origins: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []
        self._waiting: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def add(self, a: Tensor, b: Tensor, weights: Tensor | None = None) -> None:
        """Add samples, float32 `[groups, features, rows]`; the number of features of `a` and `b` may differ.

        They are kept until there are enough of them, as each addition to the sums reads and writes all of these.

        Args:
            a, b: the samples. All groups may read the same ones, `[1, features, rows]`.
            weights: of the samples, `[groups, rows]`, the same for `a` and `b`; 1 each if not given.
        """
        counted = a.new_full((1,), a.shape[2]) if weights is None else weights.sum(1)
        self.total = self.total + counted if self.rows else counted
        self.rows += a.shape[2]
        if self._origins is None:
            self._origins = a[:, :, :1].clone(), b[:, :, :1].clone()
        self._waiting.append((a, b, weights))
        if sum(waiting.shape[2] for waiting, _, _ in self._waiting) >= TOGETHER:
            self._add_up()

    def beside(self) -> Moments:
        """Return moments of nothing, for samples that are `merge`d later; needs at least one `add`."""
        found = Moments()
        found._origins = self._origins
        return found

    @torch.inference_mode()
    def merge(self, other: Moments) -> None:
        """Add the samples of moments that came from `beside`."""
        self._add_up()
        other._add_up()
        if other.rows:
            self.rows += other.rows
            self.total = self.total + other.total
            for have, new in zip(self._sums, other._sums, strict=True):
                have.add_(new)

    @torch.inference_mode()
    def _add_up(self) -> None:
        """Add the samples that wait to the sums; in inference mode, as the sums change in place."""
        if not self._waiting:
            return
        parts, others, counts = zip(*self._waiting, strict=True)
        a = torch.cat(parts, 2)
        b = a if others[0] is parts[0] else torch.cat(others, 2)
        weights = None if counts[0] is None else torch.cat(counts, 1)
        self._waiting = []
        origins = cast(tuple[Tensor, Tensor], self._origins)
        x = a - origins[0]
        y = x if b is a else b - origins[1]
        if weights is None:
            found = [x.sum(2), y.sum(2), x @ y.transpose(1, 2)]
        else:
            found = [_weighted_sum(one, weights) for one in (x, y)] + [_weighted_products(x, y, weights)]
        if self._sums:
            for have, new in zip(self._sums, found, strict=True):
                have.add_(new)
        else:
            self._sums = found

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the means of `a` and `b`, `[groups, features]`; needs at least one `add`."""
        self._add_up()
        origins = cast(tuple[Tensor, Tensor], self._origins)
        total = self.total[:, None]
        return origins[0][:, :, 0] + self._sums[0] / total, origins[1][:, :, 0] + self._sums[1] / total

    def covariance(self) -> Tensor:
        """Return `E[a b'] - E[a] E[b]'`, `[groups, features of a, features of b]`; needs at least one `add`."""
        self._add_up()
        sum_a, sum_b, products = self._sums
        total = self.total[:, None]
        mean_a, mean_b = sum_a / total, sum_b / total
        if products.dim() == _OF_PAIRS:
            first, second = torch.triu_indices(mean_a.shape[1], mean_a.shape[1])
            every = products.new_empty(len(products), mean_a.shape[1], mean_a.shape[1])
            every[:, first, second] = every[:, second, first] = products
            products = every
        return products / total[:, None] - mean_a[:, :, None] * mean_b[:, None, :]


def _weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Add up all rows times their weights `[groups, rows]`: `[groups, features]`."""
    return weights @ x[0].T if len(x) == 1 else (x @ weights[:, :, None])[:, :, 0]


def _weighted_products(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Add up the products of the features of all rows times their weights: `[groups, features of x, features of y]`.

    If all groups weigh the products of the same features, these are computed once, and so is each pair of features:
    `[groups, pairs]`, in the order of `triu_indices`.
    """
    if len(y) > 1:
        return (x * weights[:, None]) @ y.transpose(1, 2)
    if x is not y:
        return ((x * weights[:, None]).flatten(0, 1) @ y[0].T).reshape(len(weights), x.shape[1], -1)
    first, second = torch.triu_indices(x.shape[1], x.shape[1])
    return weights @ (x[0, first] * x[0, second]).T


def by_group(weight: Tensor, groups: int) -> Tensor:
    """Reshape weights `[out, ...]` to `[groups, out / groups, fan-in]`."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def isotropic(covariance: Tensor) -> Tensor:
    """Return the identity times the mean variance of each group, `[groups, fan-in, fan-in]`, for damping and ridges.

    For a group that does not vary, or by less than float32 can square, it is the identity.
    """
    variance = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
    variance = torch.where(variance > _NOTHING, variance, torch.ones_like(variance))
    return variance[:, None, None] * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)


def output_power(weight: Tensor, covariance: Tensor) -> float:
    """Return the summed output variance of weights `[groups, out / groups, fan-in]` for patches of this covariance."""
    return float(((weight @ covariance) * weight).sum())
