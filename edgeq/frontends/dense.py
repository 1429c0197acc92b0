"""Networks of torchvision that answer with maps: segmentation, and the body of detectors.

Of a detector, what depends on data (anchors, non-maximum suppression, the crops of regions and the heads over them)
belongs behind the network. What stays is backbone, feature pyramid and the head over whole maps, which is the
network's proposals in a two-stage detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision import models

from edgeq.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgeq.frontends.fitting import as_built, noted
from edgeq.frontends.loaded import Loaded, digest
from edgeq.frontends.presets import detectors, segmenters
from edgeq.frontends.weights_file import Tensors

_COCO_CLASSES: Final = 91  # any number will do: weights without a tensor of classes are refused
_SEGMENTATION_SIZE: Final = 520  # to which torchvision's weights resize the shorter side


class _Map(nn.Module):
    """A segmentation network without its auxiliary output."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(images)["out"]
        return found


class OneStage(nn.Module):
    """A backbone and the head over its maps: scores, boxes and what else the head has, by name."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone: nn.Module = detector.backbone
        self.head: nn.Module = detector.head

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return maps by name."""
        found: Mapping[str, Tensor] = self.head(list(self.backbone(images).values()))
        return found


class Proposals(nn.Module):
    """A backbone and the head that proposes regions: maps, objectness and box deltas of each level, by name."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone: nn.Module = detector.backbone
        self.head: nn.Module = detector.rpn.head

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return maps by name."""
        maps = self.backbone(images)
        objectness, deltas = self.head(list(maps.values()))
        named = {"map": maps.values(), "objectness": objectness, "deltas": deltas}
        return {f"{name}{level}": value for name, values in named.items() for level, value in enumerate(values)}


def takes(model: str) -> bool:
    """Whether a name is of a network for segmentation or detection."""
    return model in segmenters() or model in detectors()


def load(model: str, weights: str, states: Mapping[str, Tensors], weights_key: str | None) -> Loaded:
    """Build a network for segmentation or detection, of as many classes as its weights have.

    Args:
        model: name of a network that `takes` knows.
        weights: `imagenet` (torchvision's, of COCO), or the path of a file.
        states: the state dicts in the file by key, see `edgeq.frontends.weights_file.read_state_dicts`.
        weights_key: which of them to take.

    Raises:
        WeightsError: they are of another network.
    """
    is_file = weights != "imagenet"
    built = _built(model, _classes_in(model, states))
    unused = frozenset({"aux_classifier"}) if model in segmenters() else frozenset[str]()
    found = as_built(built, model, states, weights, weights_key, unused)
    module, preprocess, notes = _of_maps(model, built)
    return Loaded(
        module,
        weights if is_file else model,
        weights,
        digest(found.state),
        preprocess,
        f"as for torchvision's weights of {model}",
        sure=() if is_file else ("mean", "std", "interpolation", "channel_order"),
        weights_key=found.key if is_file else None,
        notes=(*(noted(weights, found) if is_file else ()), *notes),
    )


def _of_maps(model: str, built: Any) -> tuple[nn.Module, Preprocess, tuple[str, ...]]:
    """The network without what depends on data, the preprocessing of its images, and what to say of it."""
    if model in segmenters():
        return _Map(built), _to(_SEGMENTATION_SIZE, _SEGMENTATION_SIZE, IMAGENET_MEAN, IMAGENET_STD), ()
    known = built.transform
    rows, columns = known.fixed_size[::-1] if known.fixed_size else (known.min_size[0],) * 2
    preprocess = _to(rows, columns, known.image_mean, known.image_std)
    two_stages = hasattr(built, "rpn")
    left = (
        "anchors, non-maximum suppression and the heads over crops of regions"
        if two_stages
        else "anchors and non-maximum suppression"
    )
    module = Proposals(built) if two_stages else OneStage(built)
    return module.eval(), preprocess, (f"{model}: {left} depend on the image and are left to the program that runs it",)


def _to(rows: int, columns: int, mean: Any, std: Any) -> Preprocess:
    return Preprocess((rows, columns), (rows, columns), tuple(mean), tuple(std))


def _built(model: str, classes: int) -> nn.Module:
    """Build the architecture with arbitrary weights, without a change of the caller's random state."""
    lraspp = model.startswith("lraspp")
    options = {"aux_loss": False} if model in segmenters() and not lraspp else {}
    with torch.random.fork_rng(devices=()):
        module: nn.Module = models.get_model(model, weights=None, weights_backbone=None, num_classes=classes, **options)
    return module.eval()


def _classes_in(model: str, states: Mapping[str, Tensors]) -> int:
    """The number of classes of the weights in a file, told by the first tensor whose size depends on it."""
    few, many = 20, 21
    with torch.device("meta"):
        one, other = (_built(model, count).state_dict() for count in (few, many))
    name = next(name for name in one if one[name].shape != other[name].shape)
    per_class = len(other[name]) - len(one[name])
    for tensors in states.values():
        for key, value in tensors.items():
            if key.endswith(name) and value.dim() and len(value) and len(value) % per_class == 0:
                return len(value) // per_class
    return _COCO_CLASSES
