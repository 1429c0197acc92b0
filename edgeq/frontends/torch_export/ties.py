"""A module that sorts as edgeq and ONNX do: equal values in the order of their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from edgeq.ir.ops.sorting import SORTING


class InOrder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, PyTorch puts equal values in order.

    By itself it may put them in any, so that the places of equal scores, as of those that are cut off at 0, do not tell
    whether a network computes what a module does.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        function: Callable[..., Any] = SORTING.get(str(func).removeprefix("aten."), func)
        return function(*args, **(kwargs or {}))
