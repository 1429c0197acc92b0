"""The preprocessing of torchvision's weights, against the transforms that come with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn
from torchvision import models

from edgeq.data.preprocess import EMBEDDED, Preprocess
from edgeq.errors import UnsupportedError
from edgeq.frontends import presets

NAMES = models.list_models(module=models)


def test_every_weight_of_torchvision_is_prepared_as_by_its_transforms() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 402, 3), dtype=np.uint8))
    found = {}
    for name in NAMES:
        for weights in models.get_model_weights(name):
            transforms = weights.transforms()
            found[repr(transforms)] = presets.preprocess_of(weights.value), transforms
    assert len(found) > 20
    for preprocess, transforms in found.values():
        np.testing.assert_array_equal(preprocess(image), transforms(image).numpy(), err_msg=str(preprocess))


@pytest.mark.parametrize(
    ("name", "resize", "crop", "interpolation"),
    [
        ("mobilenet_v2", 256, 224, "bilinear"), ("efficientnet_b1", 256, 240, "bicubic"),
        ("inception_v3", 342, 299, "bilinear"), ("convnext_tiny", 236, 224, "bilinear"),
        ("mnasnet0_75", 232, 224, "bilinear"), ("regnet_y_128gf", 384, 384, "bicubic"),
    ],
)  # fmt: skip
def test_known_numbers(name: str, resize: int, crop: int, interpolation: str) -> None:
    for found in (presets.known(name, "imagenet"), presets.usual(name)):
        assert found is not None
        assert (found.resize, found.crop, found.interpolation) == (resize, crop, interpolation)


def test_another_mean() -> None:
    assert presets.usual("efficientnet_v2_l").mean == (0.5, 0.5, 0.5)


def test_a_file_that_torchvision_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second weights of ResNet50 see more of the image than its first."""
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")
    assert presets.known("resnet50", str(path)) is None
    monkeypatch.setattr(presets, "sha256", lambda path: "11ad3fa6" + 56 * "0")  # of resnet50-11ad3fa6.pth
    found = presets.known("resnet50", str(path))
    assert (found, found and found.resize) == (presets.preprocess_of(models.ResNet50_Weights.IMAGENET1K_V2.value), 232)
    assert presets.known("resnet18", str(path)) is None
    assert presets.usual("resnet50").resize == 256


def test_no_file(tmp_path: Path) -> None:
    """Which is for `edgeq.load` to say."""
    assert presets.known("resnet50", str(tmp_path / "none.pth")) is None
    assert presets.known("resnet50", str(tmp_path)) is None


def test_embedded() -> None:
    assert presets.known("mobilenet_v2", "embedded") == EMBEDDED


class Square(nn.Module):
    """Stands for transforms of some other torchvision."""


def test_other_transforms_are_refused() -> None:
    weights: Any = models.Weights("https://host/net-01234567.pth", Square, {})
    with pytest.raises(
        UnsupportedError, match=r"^https://host/net-\d+.pth: expected images that are .*, found Square; "
    ):
        presets.preprocess_of(weights)


def test_sizes_of_rows_and_columns() -> None:
    """Which none of torchvision's weights have so far."""
    transforms = models.ResNet50_Weights.DEFAULT.transforms()
    transforms.resize_size, transforms.crop_size = [96, 128], [64, 100]
    weights = models.Weights("", lambda: transforms, {})
    expected = Preprocess((96, 128), (64, 100), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert presets.preprocess_of(weights) == expected
