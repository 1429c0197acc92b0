"""The preprocessing that belongs to weights: known for published ones, else that of torchvision's weights."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from torchvision import models
from torchvision.models import Weights, WeightsEnum

from edgeq.artifacts.files import sha256
from edgeq.data.preprocess import EMBEDDED, Preprocess
from edgeq.errors import UnsupportedError


def classifiers() -> list[str]:
    """The networks of torchvision for classification."""
    return list(models.list_models(module=models))


def segmenters() -> list[str]:
    """Those for segmentation."""
    return list(models.list_models(module=models.segmentation))


def detectors() -> list[str]:
    """Those for detection."""
    return list(models.list_models(module=models.detection))


def known(model: str, weights: str) -> Preprocess | None:
    """Return the preprocessing that belongs to some weights, or None if it is unknown.

    Args:
        model: name of an architecture of torchvision.
        weights: `embedded`, `imagenet`, or the path of a file; it is known for the files that torchvision publishes.

    Raises:
        UnsupportedError: no such model, or a preprocessing that edgeq does not have.
    """
    if weights == "embedded":
        return EMBEDDED
    if weights == "imagenet":
        return usual(model)
    found = published_as(model, Path(weights))
    return preprocess_of(found.value) if found else None


def published_as(model: str, path: Path) -> WeightsEnum | None:
    """Return the weights of torchvision that a file contains, or None if it contains others.

    The published names end in 8 digits of the SHA-256 of the file, so a renamed file is found, too.

    Raises:
        UnsupportedError: no such model.
    """
    published = _published(model)
    try:
        digest = sha256(path)
    except OSError:  # reported when the weights are read
        return None
    return next((entry for entry in published if Path(entry.url).stem.endswith(f"-{digest[:8]}")), None)


def usual(model: str) -> Preprocess:
    """Return the preprocessing of `imagenet_weights`.

    Raises:
        UnsupportedError: no such model, or a preprocessing that edgeq does not have.
    """
    return preprocess_of(imagenet_weights(model).value)


def imagenet_weights(model: str) -> WeightsEnum:
    """Return torchvision's first weights for the 1000 classes of ImageNet, or its default ones if there are none.

    Those of networks for segmentation and detection are of COCO.

    Raises:
        UnsupportedError: no such model.
    """
    published = _published(model)
    return published["IMAGENET1K_V1"] if "IMAGENET1K_V1" in published.__members__ else published.DEFAULT


def preprocess_of(weights: Weights) -> Preprocess:
    """Convert the transforms of torchvision's weights to a `Preprocess`.

    Raises:
        UnsupportedError: they do something else than resize, crop and normalize.
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
        # For Pillow images, `nearest` and `nearest-exact` of torchvision are the same filter.
        transforms.interpolation.value.removesuffix("-exact"),
    )


def _size(size: list[int]) -> int | tuple[int, int]:
    return size[0] if len(size) == 1 else (size[0], size[1])


def check_name(model: str) -> None:
    """Refuse a name that is not of a network for classification, segmentation or detection.

    Raises:
        UnsupportedError: no such model.
    """
    if model not in (names := classifiers() + segmenters() + detectors()):
        near = get_close_matches(model, names) or classifiers()[-3:]
        raise UnsupportedError(
            f"unknown model {model!r}; expected a file that ends in .onnx or .pt2, timm:NAME, package.module:function, "
            f"or a network of torchvision, such as {', '.join(near)}"
        )


def _published(model: str) -> type[WeightsEnum]:
    """Return the enum of all weights that torchvision publishes for a network."""
    check_name(model)
    published: type[WeightsEnum] = models.get_model_weights(model)
    return published
