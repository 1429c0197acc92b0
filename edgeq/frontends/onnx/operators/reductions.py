"""Operators over all values of some axes, and those that sort along one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from edgeq.frontends.onnx.call import Call, Handler, aten

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _over(function: Reduce) -> Handler:
    """Over the axes that are an attribute, or an input since opset 18 (of sums, 13); over all if there are none."""

    def handle(call: Call, x: Tensor, *_: Tensor) -> Tensor:
        axes = call.axes(x.dim())
        if not axes and call.integer("noop_with_empty_axes", 0):
            return x
        whole = x if x.is_floating_point() or function in _EXACT else x.float()
        made = function(whole, axes or list(range(x.dim())), bool(call.integer("keepdims", 1)))
        return made if x.is_floating_point() else made.to(x.dtype)

    return handle


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


_SUM: Final[Reduce] = lambda x, axes, keep: x.sum(axes, keepdim=keep)  # noqa: E731
_MAX: Final[Reduce] = lambda x, axes, keep: x.amax(axes, keepdim=keep)  # noqa: E731
_MIN: Final[Reduce] = lambda x, axes, keep: x.amin(axes, keepdim=keep)  # noqa: E731
_EXACT: Final = (_SUM, _MAX, _MIN, _product)
"""Those that PyTorch has for integers, too."""


def _argument(operator: str) -> Handler:
    def handle(call: Call, x: Tensor) -> Tensor:
        if call.integer("select_last_index", 0):
            raise call.refuse("of the last of several; expected the first")
        made: Tensor = aten(operator)(x, call.integer("axis", 0), bool(call.integer("keepdims", 1)))
        return made

    return handle


def _top(call: Call, x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    count = int(call.number(1)) if call.has(1) else call.integer("k", 1)
    found: Any = aten("topk.default")(x, count, call.integer("axis", -1), bool(call.integer("largest", 1)), True)
    return found[0], found[1]


def _cumulative(call: Call, x: Tensor, _: Tensor) -> Tensor:
    axis = int(call.number(1)) % x.dim()
    x = x.flip(axis) if call.integer("reverse", 0) else x
    made = x.cumsum(axis) - x if call.integer("exclusive", 0) else x.cumsum(axis)
    return made.flip(axis) if call.integer("reverse", 0) else made


REDUCTIONS: Final[dict[str, Handler]] = {
    "ReduceMean": _over(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _over(_SUM),
    "ReduceMax": _over(_MAX),
    "ReduceMin": _over(_MIN),
    "ReduceProd": _over(_product),
    "ReduceL1": _over(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _over(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSum": _over(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _over(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceSumSquare": _over(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "ArgMax": _argument("argmax.default"),
    "ArgMin": _argument("argmin.default"),
    "TopK": _top,
    "CumSum": _cumulative,
}
