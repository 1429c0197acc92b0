"""The networks of `native_checks.py`: of many kinds, at sizes that an emulated processor runs in seconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import zoo_detectors
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vision_transformer import VisionTransformer
from zoo_networks import Made

SHAPE: Final = (3, 96, 96)
_CLASSIFIERS: Final = """
mobilenet_v2 mobilenet_v3_small resnet18 squeezenet1_1 shufflenet_v2_x1_0 efficientnet_b0 densenet121 regnet_x_400mf
regnet_y_400mf mnasnet0_5
"""
_DETECTOR: Final = "ssdlite320_mobilenet_v3_large body"
_SEGMENTATION: Final = "lraspp_mobilenet_v3_large"


def _classifier(name: str) -> Made:
    return models.get_model(name, weights=None), SHAPE


def _dense(name: str) -> Made:
    return zoo_detectors.made(name)[0], SHAPE


def _convnext() -> Made:
    blocks = [CNBlockConfig(24, 48, 2), CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 2)]
    return ConvNeXt(blocks, num_classes=100), SHAPE


def _transformer() -> Made:
    sizes = {"num_layers": 3, "num_heads": 4, "hidden_dim": 96, "mlp_dim": 192, "num_classes": 100}
    return VisionTransformer(image_size=SHAPE[1], patch_size=16, **sizes), SHAPE


def _decoder() -> Made:
    """Features to an image by transposed convolutions."""
    layers: list[nn.Module] = []
    for channels, made in ((32, 24), (24, 16), (16, 12)):
        layers += [nn.ConvTranspose2d(channels, made, 4, 2, 1), nn.BatchNorm2d(made), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Conv2d(12, 3, 3, padding=1), nn.Hardtanh()), (32, 12, 12)


NETWORKS: Final[dict[str, Callable[[], Made]]] = {
    **{name: partial(_classifier, name) for name in _CLASSIFIERS.split()},
    "convnext": _convnext,
    "transformer": _transformer,
    "detector": partial(_dense, _DETECTOR),
    "segmentation": partial(_dense, _SEGMENTATION),
    "decoder": _decoder,
}

IN_INTEGERS: Final = ("mobilenet_v2", "resnet18")
"""Networks that are checked with scaling in integers as well."""
