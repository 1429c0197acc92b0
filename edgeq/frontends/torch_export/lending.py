"""A caller's module as edgeq runs it, for a while: unwrapped, in float32, on the CPU, in evaluation mode.

Nothing is copied but tensors, because modules hold things that cannot be, and functions that know the original. All
that is changed in the module, by edgeq or by running it, is put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from edgeq.errors import UnsupportedError, WeightsError

_WRAPPERS: Final = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


@contextmanager
def lent(module: nn.Module) -> Iterator[nn.Module]:
    """Lend a module, with copies of its tensors: floats in float32, on the CPU, and outside of inference mode.

    Yields:
        What it wraps, if it is a wrapper that only calls another module (of data parallelism, of averaging, of
        `torch.compile`), else the module itself; parts of it that are wrappers are unwrapped, too.

    Raises:
        UnsupportedError: it is no module, or TorchScript.
        WeightsError: it has no values yet.
    """
    if not isinstance(module, nn.Module):
        raise UnsupportedError(f"expected an nn.Module, found {type(module).__name__}; wrap it in one")
    parts = list(module.modules())
    if scripted := [part for part in parts if isinstance(part, torch.jit.ScriptModule)]:
        raise UnsupportedError(
            f"{type(scripted[0]).__name__} is TorchScript; expected the Python module that it was made of"
        )
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value) or value.is_meta:
            raise WeightsError(f"weights {name}: a tensor without values, lazy or on the meta device; load them first")
    saved = [(part, dict(vars(part)), _dicts(part)) for part in parts]
    try:
        copies: dict[int, Tensor] = {}  # a tensor that several parts share stays one
        for own in map(vars, parts):
            for tensors in (own["_parameters"], own["_buffers"], own):
                tensors.update({k: _plain(v, copies) for k, v in tensors.items() if isinstance(v, Tensor)})
            own["_modules"].update({k: _unwrapped(v) for k, v in own["_modules"].items() if v is not None})
        plain = _unwrapped(module)
        with suppress(NotImplementedError):  # what torch.export makes has but one mode
            plain.eval()
        yield plain
    finally:
        for part, attributes, dicts in saved:
            vars(part).clear()
            vars(part).update(attributes)
            for key, content in dicts.items():
                attributes[key].clear()
                attributes[key].update(content)


def _dicts(part: nn.Module) -> dict[str, dict[Any, Any]]:
    """The contents of its attributes that are dicts, as those with its parameters, buffers and parts are."""
    return {key: dict(value) for key, value in vars(part).items() if isinstance(value, dict)}


def _plain(value: Tensor, copies: dict[int, Tensor]) -> Tensor:
    """A copy that is no part of a computation."""
    if id(value) not in copies:
        made = value.detach().cpu().clone()
        made = made.float() if made.is_floating_point() else made
        kept = isinstance(value, nn.Parameter)
        copies[id(value)] = nn.Parameter(made, requires_grad=False) if kept else made
    return copies[id(value)]


def _unwrapped(module: nn.Module) -> nn.Module:
    while True:
        inner = module.module if isinstance(module, _WRAPPERS) else getattr(module, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner
