"""Networks of torchvision for segmentation and detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from nets import images
from torchvision import models

from edgeq.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgeq.errors import WeightsError
from edgeq.frontends.sources import Source, load


def built(name: str, path: Path) -> Any:
    """A network of five classes whose weights are in a file."""
    torch.manual_seed(0)
    module = models.get_model(name, weights=None, weights_backbone=None, num_classes=5).eval()
    torch.save(module.state_dict(), path)
    return module


def test_segmentation(tmp_path: Path) -> None:
    """Of as many classes as the weights have, in a size of the caller's."""
    path = tmp_path / "w.pth"
    module = built("lraspp_mobilenet_v3_large", path)
    source = load("lraspp_mobilenet_v3_large", str(path), input_shapes=(3, 64, 96))
    assert source.preprocess == Preprocess((64, 96), (64, 96), IMAGENET_MEAN, IMAGENET_STD)
    assert source.classes is None
    x = torch.from_numpy(images(2, 1, (3, 64, 96)))
    with torch.inference_mode():
        expected = module(x)["out"]
        found = source.network(x)
    assert found.shape == (2, 5, 64, 96)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert Source.from_dict(json.loads(json.dumps(source.to_dict()))).to_dict() == source.to_dict()


def test_a_detector_without_what_depends_on_the_image(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    name = "ssdlite320_mobilenet_v3_large"
    module = built(name, path)
    source = load(name, str(path), input_shapes=(3, 96, 96))
    assert source.preprocess is not None
    assert source.preprocess.mean == (0.5, 0.5, 0.5)  # of the detector, which has its own
    assert source.notes[0] == (
        f"{name}: anchors and non-maximum suppression depend on the image and are left to the program that runs it"
    )
    x = torch.from_numpy(images(2, 1, (3, 96, 96)))
    with torch.inference_mode():
        expected = module.head(list(module.backbone(x).values()))
        found = source.network(x)
    assert [one.name for one in source.network.graph.outputs] == ["bbox_regression", "cls_logits"]
    assert found[1].shape[2] == 5
    for one, other in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_weights_of_another_network(tmp_path: Path) -> None:
    built("lraspp_mobilenet_v3_large", tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w.pth: expected weights of fcn_resnet50, found none named classifier"):
        load("fcn_resnet50", str(tmp_path / "w.pth"))


def test_coco_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(WeightsError, match=r"^cannot download the COCO weights of fcn_resnet50 \("):
        load("fcn_resnet50", "imagenet")
