"""Networks of timm by name, with its weights or those of a file, and with its preprocessing."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from math import floor
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from edgeq.data.preprocess import Preprocess
from edgeq.errors import UnsupportedError, WeightsError, one_line
from edgeq.frontends.fitting import noted, with_classes
from edgeq.frontends.loaded import Loaded, digest
from edgeq.frontends.weights_file import read_state_dicts

PREFIX: Final = "timm:"


def load(model: str, weights: str | None, weights_key: str | None) -> Loaded:
    """Build a network of timm with its weights.

    Args:
        model: `timm:NAME` or `timm:NAME.TAG`; the tag chooses among timm's weights and their preprocessing.
        weights: `imagenet` (timm's pretrained ones, downloaded unless cached) or the path of a file.
        weights_key: see `edgeq.load`.

    Raises:
        UnsupportedError: timm is not installed, has no such network, or prepares its images in another way than by
            resizing, cropping and normalizing.
        WeightsError: no weights are named, or they cannot be downloaded; else as for `edgeq.load`.
    """
    name, library = model.removeprefix(PREFIX), _library()
    if weights is None or weights == "embedded":
        raise WeightsError(f"{model} has no embedded weights; add --weights imagenet or a file")
    if not library.is_model(name):
        near = library.list_models(f"{name[:6]}*")[:3] or library.list_models()[:3]
        raise UnsupportedError(f"unknown model {model!r}; timm has no {name}, but {', '.join(near)} and others")
    if weights == "imagenet":
        if weights_key is not None:
            raise UnsupportedError(f"expected a file for the weights key {weights_key!r}, found {weights} weights")
        module = _pretrained(library, name)
        return Loaded(module, model, weights, digest(module.state_dict()), _preprocess(library, model, module), None)
    module, found = with_classes(
        partial(_empty, library, name), model, read_state_dicts(Path(weights)), weights, weights_key
    )
    return Loaded(
        module,
        weights,
        weights,
        digest(found.state),
        _preprocess(library, model, module),
        f"as for the weights of {model}",
        weights_key=found.key,
        notes=noted(weights, found),
    )


def _library() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise UnsupportedError(
            f"networks of timm need timm, which cannot be imported ({one_line(error)}); pip install 'edgeq[timm]'"
        ) from error


def _empty(library: Any, name: str, **options: int) -> nn.Module:
    """Build the architecture with arbitrary weights, without a change of the caller's random state."""
    try:
        with torch.random.fork_rng(devices=()):
            module: nn.Module = library.create_model(name, pretrained=False, **options)
    except RuntimeError as error:  # of a tag
        raise UnsupportedError(f"unknown model timm:{name}: {one_line(error)}") from error
    return module


def _pretrained(library: Any, name: str) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=()):
            module: nn.Module = library.create_model(name, pretrained=True)
    except Exception as error:  # of timm, of the hub, or of the network
        raise WeightsError(
            f"cannot download the weights of timm:{name} ({one_line(error)}); connect to the network, or pass a file "
            "with --weights FILE"
        ) from error
    return module.eval()


def _preprocess(library: Any, model: str, module: nn.Module) -> Preprocess:
    """Convert timm's data config, as its transforms for evaluation read it."""
    config = library.data.resolve_model_data_config(module, verbose=False)
    channels, rows, columns = config["input_size"]
    mode = config["crop_mode"]
    if channels != 3 or mode not in ("center", "squash"):
        raise UnsupportedError(
            f"{model}: expected images of 3 channels whose centre is cropped, found {channels} channels and crop mode "
            f"{mode}; pass a Preprocess to edgeq.load"
        )
    resized = tuple(floor(side / config["crop_pct"]) for side in (rows, columns))
    if mode == "center" and resized[0] != resized[1]:
        raise UnsupportedError(
            f"{model}: expected square images where the centre is cropped, found {rows} x {columns}; pass a Preprocess "
            "to edgeq.load"
        )
    resize = resized[0] if mode == "center" else resized
    return Preprocess(resize, (rows, columns), tuple(config["mean"]), tuple(config["std"]), config["interpolation"])
