"""Recurrent layers as the values of a graph are, with the batch first: what ATen has otherwise is turned around."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor


def _lstm(x: Tensor, hx: Sequence[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    """`[n, time, out]`, and the last states `[n, layers, hidden]`, from the first states `[1, layers, hidden]`."""
    made, *last = torch.ops.aten.lstm.input(x, [_started(state, x) for state in hx], *rest)
    return made, *(state.transpose(0, 1) for state in last)


def _gru(x: Tensor, hx: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    made, last = torch.ops.aten.gru.input(x, _started(hx, x), *rest)
    return made, last.transpose(0, 1)


def _started(state: Tensor, x: Tensor) -> Tensor:
    return state.expand(len(x), -1, -1).transpose(0, 1).contiguous()


RECURRENT: Final[Mapping[str, Callable[..., tuple[Tensor, ...]]]] = MappingProxyType(
    {"lstm.input": _lstm, "gru.input": _gru}
)
"""By the names of the ATen operators."""
