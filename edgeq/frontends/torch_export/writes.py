"""Other values in a part of a tensor, by cutting and joining (`edgeq.frontends.torch_export.functional`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor


def _copy(x: Tensor, values: Tensor, non_blocking: bool = False) -> Tensor:
    """Values in the shape and the type of those in whose place they come."""
    values = values if values.shape == x.shape else values.expand(x.shape)
    return values if values.dtype == x.dtype else values.to(x.dtype)


def _placed(x: Tensor, values: Tensor, dim: int, places: Tensor) -> Tensor:
    """Values at these places of a dimension."""
    size, count = x.shape[dim], values.shape[dim]
    order = torch.arange(size, device="cpu").scatter(0, places, torch.arange(size, size + count, device="cpu"))
    return torch.cat([x, values], dim).index_select(dim, order)


def _slice_scatter(
    x: Tensor, values: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    dim %= x.dim()
    size = x.shape[dim]
    if step == 1 and values.shape[dim] == size:
        return values
    first, last, _ = slice(start, end).indices(size)
    if step != 1:
        return _placed(x, values, dim, torch.arange(first, last, step, device="cpu"))
    parts = [x.narrow(dim, 0, first), values, x.narrow(dim, last, size - last)]
    return torch.cat([part for part in parts if part.shape[dim]], dim)


def _select_scatter(x: Tensor, values: Tensor, dim: int, index: int) -> Tensor:
    index %= x.shape[dim]
    return _slice_scatter(x, values.unsqueeze(dim), dim, index, index + 1)


def _index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """A number where a mask is true, or values at some places of one dimension."""
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or accumulate:
        raise NotImplementedError
    ((dim, index),) = given
    if index.dtype == torch.bool and values.numel() == 1:
        return torch.where(index.reshape(*index.shape, *[1] * (x.dim() - dim - index.dim())), values, x)
    if index.dtype == torch.bool or index.dim() != 1:
        raise NotImplementedError
    values = values.expand(*x.shape[:dim], len(index), *x.shape[dim + 1 :])
    return _placed(x, values, dim, index % x.shape[dim])


WRITES: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "aten.copy.default": _copy,
        "aten.fill.Scalar": torch.full_like,
        "aten.fill.Tensor": _copy,
        "aten.zero.default": torch.zeros_like,
        "aten.empty_like.default": lambda x, **_: torch.zeros_like(x),
        "aten.new_empty.default": lambda x, size, **_: x.new_zeros(size),
        "aten.slice_scatter.default": _slice_scatter,
        "aten.select_scatter.default": _select_scatter,
        "aten.index_put.default": _index_put,
    }
)
"""By the names of calls; each takes the arguments that its call has."""
