"""What is known of the images of a network's weights, and what is usual where nothing is known."""

from __future__ import annotations

from pathlib import Path

from torchvision import models
from torchvision.models import Weights, WeightsEnum

from edgeq.artifacts.files import sha256
from edgeq.data.preprocess import EMBEDDED, Preprocess
from edgeq.errors import UnsupportedError


def known(model: str, weights: str) -> Preprocess | None:
    """What the images of some weights go through; None where they do not say.

    Args:
        model: an architecture of torchvision.
        weights: `embedded`, `imagenet`, or the path of a file, which is known if it is one that torchvision publishes:
            the names of these end in 8 digits of their SHA-256.

    Raises:
        UnsupportedError: no such model, or a preprocessing that is none of edgeq's.
    """
    if weights == "embedded":
        return EMBEDDED
    if weights == "imagenet":
        return usual(model)
    found = published_as(model, Path(weights))
    return preprocess_of(found.value) if found else None


def published_as(model: str, path: Path) -> WeightsEnum | None:
    """Which weights of torchvision a file is, whatever it is called now; None if it is none of them.

    Raises:
        UnsupportedError: no such model.
    """
    published = _published(model)
    try:
        digest = sha256(path)
    except OSError:  # for whoever reads the weights to say
        return None
    return next((entry for entry in published if Path(entry.url).stem.endswith(f"-{digest[:8]}")), None)


def usual(model: str) -> Preprocess:
    """What the images of `imagenet_weights` go through.

    Raises:
        UnsupportedError: no such model, or a preprocessing that is none of edgeq's.
    """
    return preprocess_of(imagenet_weights(model).value)


def imagenet_weights(model: str) -> WeightsEnum:
    """Return torchvision's first weights for the 1000 classes of ImageNet, or its default ones where these are others.

    Raises:
        UnsupportedError: no such model.
    """
    published = _published(model)
    return published["IMAGENET1K_V1"] if "IMAGENET1K_V1" in published.__members__ else published.DEFAULT


def preprocess_of(weights: Weights) -> Preprocess:
    """Return what torchvision's `weights.transforms()` do.

    Raises:
        UnsupportedError: they are none of resizing, cropping and normalizing.
    """
    transforms = weights.transforms()
    if type(transforms).__name__ != "ImageClassification":
        raise UnsupportedError(
            f"{weights.url}: expected images that are resized, cropped and normalized, found "
            f"{type(transforms).__name__}; pass a Preprocess to edgeq.load"
        )
    return Preprocess(
        _size(transforms.resize_size),
        _size(transforms.crop_size),
        tuple(transforms.mean),
        tuple(transforms.std),
        # Of images of Pillow, torchvision has one filter of two names: that of its first version and the exact one.
        transforms.interpolation.value.removesuffix("-exact"),
    )


def _size(size: list[int]) -> int | tuple[int, int]:
    return size[0] if len(size) == 1 else (size[0], size[1])


def _published(model: str) -> type[WeightsEnum]:
    """All weights of a classifier that torchvision publishes."""
    names = models.list_models(module=models)
    if model not in names:
        raise UnsupportedError(
            f"unknown model {model!r}; expected one of torchvision's, such as {', '.join(names[-3:])}"
        )
    published: type[WeightsEnum] = models.get_model_weights(model)
    return published
