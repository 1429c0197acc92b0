"""Modules of torchvision for detection, segmentation and keypoints, as far as convolutions and products of matrices go.

A detector is body and heads: `body` is backbone, feature pyramid and the head over whole maps, which is the network's
proposals in a two-stage detector. What depends on data there (anchors, non-maximum suppression, the crops of regions)
belongs behind the file. `box`, `mask` and `keypoint` are the heads of a two-stage detector over the features of cropped
regions. `out` is a segmentation network without its auxiliary output.
"""

from __future__ import annotations

from typing import Final

from torch import nn
from torchvision.models import detection, segmentation

from edgeq.frontends.dense import OneStage, Proposals

_REGION: Final = {"box": (256, 7, 7), "mask": (256, 14, 14), "keypoint": (256, 14, 14)}
_SEGMENTATION: Final = (
    "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101",
    "fcn_resnet50", "fcn_resnet101",
)  # fmt: skip
_ONE_STAGE: Final = (
    "fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)  # fmt: skip
_TWO_STAGE: Final = {
    "fasterrcnn_resnet50_fpn": ("box",),
    "fasterrcnn_resnet50_fpn_v2": ("box",),
    "fasterrcnn_mobilenet_v3_large_fpn": ("box",),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("box",),
    "maskrcnn_resnet50_fpn": ("box", "mask"),
    "maskrcnn_resnet50_fpn_v2": ("box", "mask"),
    "keypointrcnn_resnet50_fpn": ("box", "keypoint"),
}
NETWORKS: Final = (
    *_SEGMENTATION,
    *(f"{name} out" for name in ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50")),
    *(f"{name} body" for name in (*_ONE_STAGE, *_TWO_STAGE)),
    *(f"{name} {head}" for name, heads in _TWO_STAGE.items() for head in heads),
)


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A module with the weights that torchvision starts to train from, and the shape of its input."""
    model, _, part = name.partition(" ")
    if model in _SEGMENTATION:
        without = {"aux_loss": part != "out"} if not model.startswith("lraspp") else {}
        return segmentation.__dict__[model](weights=None, weights_backbone=None, **without), (3, 256, 256)
    detector = detection.__dict__[model](weights=None, weights_backbone=None)
    if model in _ONE_STAGE:
        size = 300 if model.startswith("ssd300") else 320
        return OneStage(detector), (3, size, size)
    if part == "body":
        return Proposals(detector), (3, 320, 320)
    heads = detector.roi_heads
    head, predictor = (getattr(heads, f"{part}_{piece}") for piece in ("head", "predictor"))
    return nn.Sequential(head, predictor), _REGION[part]
