"""Calls written as others: where PyTorch's own way to take them apart ends in calls that ONNX has not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.frontends.torch_export.cells import gru_cell, lstm_cell
from edgeq.frontends.torch_export.writes import WRITES

_LOWEST: Final = -1e9
"""What stands for minus infinity in masks of scores: a softmax makes 0 of both, and files hold finite numbers."""

Dims = int | Sequence[int] | None


def _aten(name: str) -> Callable[..., Tensor]:
    """An operator by its name and overload."""
    packet, _, overload = name.partition(".")
    function: Callable[..., Tensor] = getattr(getattr(torch.ops.aten, packet), overload)
    return function


def _attention(  # noqa: PLR0913 (as ATen has it)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device="cpu").tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.logical_not() * _LOWEST
    if attn_mask is not None:
        scores = scores + attn_mask.clamp(min=_LOWEST)
    return _aten("softmax.int")(scores, -1) @ value


def _masked_fill(x: Tensor, mask: Tensor, value: float) -> Tensor:
    return torch.where(mask, min(max(float(value), _LOWEST), -_LOWEST), x)


def _dims(x: Tensor, dim: Dims) -> list[int]:
    given = [dim] if isinstance(dim, int) else dim
    return list(given) if given else list(range(x.dim()))


def _any(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    return (x != 0).float().amax(_dims(x, dim), keepdim).gt(0)


def _all(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    return (x != 0).float().amin(_dims(x, dim), keepdim).gt(0)


def _of_two(moment: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def both(x: Tensor, dim: Dims = None, **options: Any) -> tuple[Tensor, Tensor]:
        keepdim = options.get("keepdim", False)
        return moment(x, _dims(x, dim), **options), x.mean(_dims(x, dim), keepdim)

    return both


def _of_two_unbiased(moment: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def both(x: Tensor, dim: Dims = None, unbiased: bool = True, keepdim: bool = False) -> tuple[Tensor, Tensor]:
        return _of_two(moment)(x, dim, correction=int(unbiased), keepdim=keepdim)

    return both


def _cdist(first: Tensor, second: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(first.unsqueeze(-2) - second.unsqueeze(-3), p, -1)
    return distances


def _rounded_quotient(x: Tensor, y: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    quotient = x / y
    return quotient if rounding_mode is None else quotient.floor() if rounding_mode == "floor" else quotient.trunc()


def _remainder(x: Tensor, y: Tensor | float) -> Tensor:
    """With the sign of the divisor."""
    found = torch.fmod(x, y)
    return torch.where((found != 0) & ((found < 0) != (torch.zeros_like(x) + y < 0)), found + y, found)


def _atan2(y: Tensor, x: Tensor) -> Tensor:
    turn = torch.where(y < 0, -torch.pi, torch.pi)
    inner = torch.atan(y / torch.where(x == 0, 1.0, x))
    beside = torch.where(x < 0, inner + turn, inner)
    return torch.where(x == 0, torch.where(y == 0, 0.0, turn / 2), beside)


def _logaddexp(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y) + torch.log1p(torch.exp(-(x - y).abs()))


def _one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    return x.unsqueeze(-1).eq(torch.arange(num_classes, device="cpu"))


def _unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    dim = dimension % x.dim()
    count = (x.shape[dim] - size) // step + 1
    places = (torch.arange(count, device="cpu")[:, None] * step + torch.arange(size, device="cpu")).flatten()
    return torch.unflatten(x.index_select(dim, places), dim, (count, size)).movedim(dim + 1, -1)


def _im2col(
    x: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    x = torch.constant_pad_nd(x, [padding[1], padding[1], padding[0], padding[0]])
    parts: list[int] = []
    for dim, kernel, space, step in zip((2, 3), kernel_size, dilation, stride, strict=True):
        starts = torch.arange(0, x.shape[dim] - space * (kernel - 1), step, device="cpu")
        places = torch.arange(kernel, device="cpu")[:, None] * space + starts
        x = x.index_select(dim, places.flatten())
        parts += places.shape
    x = torch.unflatten(torch.unflatten(x, 3, parts[2:]), 2, parts[:2])
    return x.transpose(3, 4).flatten(1, 3).flatten(2)


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    x = x.movedim((dim1, dim2), (-2, -1))
    x = x[..., max(-offset, 0) :, max(offset, 0) :]
    size = min(x.shape[-2:])
    return x[..., :size, :size].flatten(-2)[..., :: size + 1]


def _clamped(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _of_truths(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What works on bits, of values that are true or false."""

    def call(*values: Tensor) -> Tensor:
        if any(value.dtype != torch.bool for value in values):
            raise NotImplementedError
        return function(*values)

    return call


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    """A product with a vector."""
    if x.dim() > 1 and y.dim() == 1:
        return F.linear(x, y.unsqueeze(0)).squeeze(-1)
    if x.dim() == 1 and y.dim() > 1:
        return F.linear(y.transpose(-1, -2), x.unsqueeze(0)).squeeze(-1)
    raise NotImplementedError


def _einsum(equation: str, tensors: Sequence[Tensor], **_: Any) -> Tensor:
    """Of one value, each of whose dimensions is summed over or comes somewhere else."""
    read, arrow, made = equation.replace(" ", "").partition("->")
    if len(tensors) != 1 or not arrow or "..." in read or len({*read}) < len(read):
        raise NotImplementedError
    left = [letter for letter in read if letter in made]
    summed = [dim for dim, letter in enumerate(read) if letter not in made]
    x = tensors[0].sum(summed) if summed else tensors[0]
    return x.permute([left.index(letter) for letter in made])


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor]:
    return (_aten("batch_norm.default")(x, weight, bias, mean, var, False, momentum, eps, False),)


def _product_and_sum(x: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return x * beta + first @ second * alpha


DECOMPOSITIONS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType({
    **WRITES,
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.any.default": _any, "aten.any.dim": _any, "aten.any.dims": _any,
    "aten.all.default": _all, "aten.all.dim": _all, "aten.all.dims": _all,
    "aten.max.default": lambda x: x.amax(_dims(x, None)),
    "aten.min.default": lambda x: x.amin(_dims(x, None)),
    "aten.max.dim": lambda x, dim, keepdim=False: (x.amax(dim, keepdim), _aten("argmax.default")(x, dim, keepdim)),
    "aten.min.dim": lambda x, dim, keepdim=False: (x.amin(dim, keepdim), _aten("argmin.default")(x, dim, keepdim)),
    "aten.argsort.default": lambda x, dim=-1, descending=False: x.sort(dim, descending)[1],
    "aten.sort.stable": lambda x, *, stable=None, dim=-1, descending=False: x.sort(dim, descending),
    "aten.var_mean.dim": _of_two_unbiased(torch.var), "aten.var_mean.correction": _of_two(torch.var),
    "aten.std_mean.dim": _of_two_unbiased(torch.std), "aten.std_mean.correction": _of_two(torch.std),
    "aten.cdist.default": _cdist,
    "aten.div.Tensor_mode": _rounded_quotient, "aten.div.Scalar_mode": _rounded_quotient,
    "aten.floor_divide.default": lambda x, y: (x / y).floor(),
    "aten.floor_divide.Scalar": lambda x, y: (x / y).floor(),
    "aten.remainder.Tensor": _remainder, "aten.remainder.Scalar": _remainder,
    "aten.atan2.default": _atan2,
    "aten.hypot.default": lambda x, y: (x * x + y * y).sqrt(),
    "aten.logaddexp.default": _logaddexp,
    "aten.one_hot.default": _one_hot,
    "aten.unfold.default": _unfold,
    "aten.im2col.default": _im2col,
    "aten.diagonal.default": _diagonal,
    "aten.addmm.default": _product_and_sum, "aten.baddbmm.default": _product_and_sum,
    "aten.matmul.default": _matmul, "aten.mv.default": _matmul,
    "aten.einsum.default": _einsum,
    "aten.gru_cell.default": gru_cell, "aten.lstm_cell.default": lstm_cell,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.clamp.Tensor": _clamped,
    "aten.frac.default": lambda x: x - x.trunc(),
    "aten._unsafe_view.default": lambda x, size: x.view(size),
    "aten.clamp_min.Tensor": torch.maximum,
    "aten.clamp_max.Tensor": torch.minimum,
    "aten.bitwise_and.Tensor": _of_truths(torch.logical_and), "aten.bitwise_or.Tensor": _of_truths(torch.logical_or),
    "aten.bitwise_xor.Tensor": _of_truths(torch.logical_xor), "aten.bitwise_not.default": _of_truths(torch.logical_not),
    "aten._to_copy.default": lambda x, dtype=None, **_: x.to(x.dtype if dtype is None else dtype),
})  # fmt: skip
"""By the names of calls; each takes the arguments that its call has."""
