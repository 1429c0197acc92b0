"""Networks of torchvision by name, with weights of edgeq, of torchvision or from a file."""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import MobileNet_V2_Weights

from edgeq.artifacts.model_names import DEFAULT
from edgeq.errors import UnsupportedError, WeightsError, one_line
from edgeq.frontends import dense, presets
from edgeq.frontends.fitting import noted, with_classes
from edgeq.frontends.loaded import Loaded, digest
from edgeq.frontends.weights_file import read_state_dicts

_TRAINED_ONLY: Final = {"googlenet": frozenset({"aux1", "aux2"}), "inception_v3": frozenset({"AuxLogits"})}
"""Networks with submodules that only training uses. These networks also have the switch `transform_input`."""


def load(model: str, weights: str | None, weights_key: str | None, transform_input: bool | None) -> Loaded:
    """Build a network of torchvision with its weights.

    Args:
        model: name of a network for classification, segmentation or detection.
        weights: `embedded` (edgeq's own MobileNetV2 for 96 x 96 characters), `imagenet` (torchvision's, downloaded
            unless cached; those of segmentation and detection are of COCO) or the path of a file; None is `embedded`.
        weights_key: see `edgeq.load`.
        transform_input: see `edgeq.load`.

    Raises:
        UnsupportedError: no such network, or an option that it does not have.
        WeightsError: as for `edgeq.load`.
    """
    presets.check_name(model)
    weights = weights or "embedded"
    is_file = weights not in ("embedded", "imagenet")
    if weights_key is not None and not is_file:
        raise UnsupportedError(f"expected a file for the weights key {weights_key!r}, found {weights} weights")
    if transform_input is not None and model not in _TRAINED_ONLY:
        raise UnsupportedError(f"expected {' or '.join(_TRAINED_ONLY)} for transform_input, found {model}")
    states = read_state_dicts(Path(weights)) if is_file else {"": _own(model, weights)}
    if dense.takes(model):
        return dense.load(model, weights, states, weights_key)
    switches = _switches(model, weights, transform_input)
    build = partial(_empty, model, **switches)
    unused = _TRAINED_ONLY.get(model, frozenset())
    module, found = with_classes(build, model, states, weights, weights_key, unused)
    known = presets.known(model, weights)
    return Loaded(
        module,
        weights if is_file else model,
        weights,
        digest(found.state),
        known or presets.usual(model),
        None if known else f"as for torchvision's weights of {model}",
        weights_key=found.key if is_file else None,
        transform_input=switches.get("transform_input"),
        notes=noted(weights, found) if is_file else (),
    )


def _own(model: str, weights: str) -> dict[str, Tensor]:
    return _embedded(model) if weights == "embedded" else _from_torchvision(model)


def _embedded(model: str) -> dict[str, Tensor]:
    if model != DEFAULT:
        raise WeightsError(
            f"the embedded weights are of {DEFAULT}, found --model {model}; add --weights imagenet or a file"
        )
    packaged = resources.files("edgeq") / "assets" / "mobilenet_v2_glyphs.safetensors"
    with resources.as_file(packaged) as path:
        return load_file(path)


def _from_torchvision(model: str) -> dict[str, Tensor]:
    try:
        return dict(presets.imagenet_weights(model).get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        images = "COCO" if dense.takes(model) else "ImageNet"
        raise WeightsError(
            f"cannot download the {images} weights of {model} ({one_line(error)}); connect to the network, "
            "pass a file with --weights FILE, or use --weights embedded"
        ) from error


def _switches(model: str, weights: str, transform_input: bool | None) -> dict[str, bool]:
    """Return the constructor arguments of a network that depend on its weights.

    torchvision passes other arguments for its pretrained weights than without weights, and a state dict does not show
    which.

    Raises:
        UnsupportedError: the switch is off for weights that need it.
        WeightsError: it is unknown whether the switch was on.
    """
    if model not in _TRAINED_ONLY:
        return {}
    if weights == "imagenet" or presets.published_as(model, Path(weights)):
        if transform_input is False:
            raise UnsupportedError(f"{weights}: torchvision's weights of {model} are for transform_input, found it off")
        transform_input = True
    if transform_input is None:
        raise WeightsError(
            f"{weights}: weights of {model} do not say whether the network normalizes images once more; add "
            "--transform-input yes if they began as torchvision's pretrained ones, no if it was built without weights"
        )
    return {"transform_input": transform_input, "init_weights": False, "aux_logits": False}


def _empty(model: str, **options: int) -> nn.Module:
    """Build the architecture with arbitrary weights, without a change of the caller's random state."""
    with torch.random.fork_rng(devices=()):
        module: nn.Module = models.get_model(model, weights=None, **options)
    return module


def imagenet_classes() -> list[str]:
    """The names of ImageNet's 1000 classes, in the order of their indices, as torchvision has them."""
    return [*MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]]
