"""Values in order: equal ones, as 8-bit scores often are, in the order of their places, as ONNX has it.

PyTorch by itself may put equal values in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor


def _sorted(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, ...]:
    return torch.sort(x, dim=dim, descending=descending, stable=True)


def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, ...]:
    return tuple(found.narrow(dim, 0, k) for found in _sorted(x, dim, largest))


SORTING: Final[Mapping[str, Callable[..., tuple[Tensor, ...]]]] = MappingProxyType(
    {"sort.default": _sorted, "topk.default": _topk}
)
"""By the names of the ATen operators; each takes the arguments that its operator has."""
