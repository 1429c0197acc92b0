"""A network that a function of the user's own code builds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgeq.errors import UnsupportedError
from edgeq.frontends.fitting import as_built, noted
from edgeq.frontends.loaded import Loaded, digest
from edgeq.frontends.weights_file import read_state_dicts
from edgeq.system.functions import function_of, raised


def load(model: str, weights: str | None, weights_key: str | None) -> Loaded:
    """Call a function that builds a network.

    Args:
        model: `package.module:function`, importable from the current folder. The function takes no arguments.
        weights: the path of a file; None or `own` are those that the function has given the network.
        weights_key: see `edgeq.load`.

    Raises:
        UnsupportedError: there is no such function, it fails, or it returns no `nn.Module`.
        WeightsError: as for `edgeq.load`.
    """
    module = _called(model).eval()
    if weights in (None, "own"):
        if weights_key is not None:
            raise UnsupportedError(f"expected a file for the weights key {weights_key!r}, found the network's own")
        return Loaded(module, model, "own", digest(module.state_dict()))
    if weights in ("embedded", "imagenet"):
        raise UnsupportedError(f"{model}: expected a file for --weights, or none, found {weights}")
    found = as_built(module, model, read_state_dicts(Path(weights)), weights, weights_key)
    return Loaded(module, model, weights, digest(found.state), weights_key=found.key, notes=noted(weights, found))


def _called(model: str) -> nn.Module:
    function = function_of(model)
    try:
        with torch.random.fork_rng(devices=()):
            made = function()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UnsupportedError(f"{model}: the function raised {raised(error)}") from error
    if not isinstance(made, nn.Module):
        raise UnsupportedError(f"{model}: expected a function that returns an nn.Module, found {type(made).__name__}")
    return made
