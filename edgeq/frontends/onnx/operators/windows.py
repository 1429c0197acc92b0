"""Padding of what looks at windows, and poolings."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.frontends.onnx.call import Call, Handler

_MAX: Final = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: Final = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE: Final = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def sides(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How many pixels are added before and behind a map, by `pads` or `auto_pad`."""
    auto, rank = call.text("auto_pad", "NOTSET"), len(sizes)
    if auto in ("NOTSET", "VALID"):
        pads = call.integers("pads", [0] * 2 * rank) if auto == "NOTSET" else [0] * 2 * rank
        if len(pads) != 2 * rank:
            raise call.refuse(f"with pads {pads}; expected {2 * rank} numbers")
        return pads[:rank], pads[rank:]
    axes = zip(sizes, kernel, strides, dilations, strict=True)
    totals = [max((-(-size // step) - 1) * step + (k - 1) * space + 1 - size, 0) for size, k, step, space in axes]
    less = [total // 2 for total in totals]
    more = [total - half for total, half in zip(totals, less, strict=True)]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def padded(x: Tensor, before: Sequence[int], behind: Sequence[int], value: float) -> Tensor:
    """A map with a border; PyTorch takes the last dimension first."""
    pairs = [size for pair in reversed(list(zip(before, behind, strict=True))) for size in pair]
    return F.pad(x, pairs, value=value)


def _geometry(call: Call, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    kernel, rank = call.integers("kernel_shape"), x.dim() - 2
    if rank not in _MAX or len(kernel) != rank:
        raise call.refuse(f"of {list(x.shape)} by windows of {kernel}; expected maps, and a size for each axis")
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    return kernel, strides, dilations, *sides(call, x.shape[2:], kernel, strides, dilations)


def _max_pool(call: Call, x: Tensor) -> Tensor:
    if len([name for name in call.outputs if name]) > 1:
        raise call.refuse("that returns positions; expected its values alone")
    kernel, strides, dilations, before, behind = _geometry(call, x)
    if before != behind or any(2 * size > k for size, k in zip(before, kernel, strict=True)):
        x, before = padded(x, before, behind, -inf), [0] * len(kernel)
    return _MAX[len(kernel)](x, kernel, strides, before, dilations, bool(call.integer("ceil_mode", 0)))


def _average_pool(call: Call, x: Tensor) -> Tensor:
    """Where the border differs on its sides and does not count, the sum is divided by how many pixels do."""
    kernel, strides, dilations, before, behind = _geometry(call, x)
    ceil, counted = bool(call.integer("ceil_mode", 0)), bool(call.integer("count_include_pad", 0))
    if any(step != 1 for step in dilations):
        raise call.refuse(f"with dilations {dilations}; expected 1")
    pool = _AVERAGE[len(kernel)]
    if before == behind and all(2 * size <= k for size, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, ceil, counted)
    wide = padded(x, before, behind, 0.0)
    made = pool(wide, kernel, strides, 0, ceil)
    if counted:
        return made
    ones = padded(torch.ones((1, 1, *x.shape[2:]), device=x.device), before, behind, 0.0)
    return made / pool(ones, kernel, strides, 0, ceil)


def _lp_pool(call: Call, x: Tensor) -> Tensor:
    kernel, strides, dilations, before, behind = _geometry(call, x)
    if any(step != 1 for step in dilations):
        raise call.refuse(f"with dilations {dilations}; expected 1")
    power, window = call.real("p", 2.0), torch.Size(kernel).numel()
    wide = padded(x, before, behind, 0.0).abs() ** power
    made = _AVERAGE[len(kernel)](wide, kernel, strides, 0, bool(call.integer("ceil_mode", 0)))
    return (made * window) ** (1 / power)


def _global_average(call: Call, x: Tensor) -> Tensor:
    rank = x.dim() - 2
    if rank not in _ADAPTIVE:
        raise call.refuse(f"of {list(x.shape)}; expected maps")
    return _ADAPTIVE[rank](x, 1)


def _global_max(_: Call, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def _global_lp(call: Call, x: Tensor) -> Tensor:
    power = call.real("p", 2.0)
    return (x.abs() ** power).sum(list(range(2, x.dim())), keepdim=True) ** (1 / power)


POOLS: Final[dict[str, Handler]] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "GlobalLpPool": _global_lp,
}
