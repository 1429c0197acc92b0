"""The networks of `zoo.py`, in four sets, with random weights that behave as trained ones do.

What can be converted, and how fast it is, does not depend on training. But weights must keep the variance of what they
read, and batch norms must have the statistics of images, so that no activation dies or grows without bound.

The set `yolo` needs `ultralytics`, whose licence is AGPL-3.0. It is a tool of this benchmark; nothing of edgeq imports
it or is derived from it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
import zoo_detectors
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from edgeq.data import glyphs

Made = tuple[nn.Module, tuple[int, ...]]
"""A module and the shape of its input, without the batch."""

STATISTICS: Final = 8
"""Images that batch norms see."""

_MEAN: Final = np.array((0.485, 0.456, 0.406), np.float32)
_SPREAD: Final = np.array((0.229, 0.224, 0.225), np.float32)
_LAYER_SCALE: Final = 1e-3  # at most: where residual branches start training with

_CLASSIFIERS: Final = """
resnet18 resnet50 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 shufflenet_v2_x1_0 mnasnet1_0
regnet_y_400mf densenet121 googlenet squeezenet1_1 convnext_tiny
"""
_TIMM: Final = """
mobilenetv1_100 mobilenetv2_050 mobilenetv2_100 mobilenetv3_small_100 mobilenetv3_large_100
tf_mobilenetv3_small_minimal_100 mobilenetv4_conv_small mobilenetv4_conv_medium mobilenetv4_conv_blur_medium
mobilenetv4_hybrid_medium mobilenet_edgetpu_100 mobilenet_edgetpu_v2_xs mobileone_s0 mobilevit_xxs mobilevit_s
mobilevitv2_050 efficientnet_b0 efficientnet_b0_gn efficientnet_lite0 efficientnet_es tf_efficientnet_b0
tf_efficientnetv2_b0 efficientnetv2_rw_t gc_efficientnetv2_rw_t efficientvit_b0 efficientvit_m0 efficientvit_l1
efficientformer_l1 efficientformerv2_s0 mixnet_s mnasnet_100 semnasnet_075 spnasnet_100 fbnetc_100 fbnetv3_b
hardcorenas_a lcnet_050 tinynet_a tinynet_e rexnet_100 fasternet_t0 starnet_s1 shvit_s1 resnet10t resnet18 resnet34
resnet50 resnet50d resnet50_gn resnetblur18 resnetrs50 resnetv2_18 resnetv2_50 resnext50_32x4d seresnet50
seresnext26d_32x4d skresnet18 resnest14d res2net50_14w_8s regnetx_002 regnety_008 regnetz_005 regnetv_040 repvgg_a0
repvgg_b0 repvit_m0_9 repvit_m1_1 repghostnet_050 ghostnet_100 ghostnetv2_100 ghostnetv3_050 hrnet_w18_small dla34
dla46x_c ese_vovnet19b_dw ese_vovnet39b hgnetv2_b0 cspdarknet53 cspresnet50 cs3darknet_s cs3darknet_focus_s darknet53
densenet121 dpn68b inception_v3 xception41 vgg11_bn vgg16 selecsls42b gernet_s tresnet_m eca_nfnet_l0 convnext_atto
convnext_tiny convnextv2_atto inception_next_atto convmixer_768_32 mambaout_femto poolformer_s12 poolformerv2_s12
levit_128s levit_conv_128s edgenext_xx_small fastvit_t8 fastvit_sa12 coatnet_nano_rw_224 coat_lite_tiny
maxvit_pico_rw_256 tiny_vit_5m_224 nextvit_small swiftformer_xs pvt_v2_b0 caformer_s18 vit_tiny_r_s16_p8_224
visformer_tiny botnet26t_256 iformer_t lowformer_b0 focalnet_tiny_srf rdnet_tiny
"""
_YOLO: Final = """
yolov3-tiny yolov5n yolov6n yolov8n yolov8n-p2 yolov9t yolov10n yolo11n yolo12n yolo26n
yolov8n-seg yolo11n-seg yolo12n-seg yolov8n-pose yolo11n-pose yolo12n-pose yolov8n-obb yolo11n-obb yolo12n-obb
yolov8n-cls yolo11n-cls yolo12n-cls
"""


def _classifier(name: str) -> Made:
    return models.get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {})), (
        3,
        224,
        224,
    )


def _timm(name: str) -> Made:
    timm = import_module("timm")
    module = timm.create_model(name, pretrained=False)
    return module, timm.data.resolve_data_config({}, model=module)["input_size"]


def _yolo(name: str) -> Made:
    tasks = import_module("ultralytics.nn.tasks")
    heads = {"seg": "Segmentation", "pose": "Pose", "obb": "OBB", "cls": "Classification"}
    model = f"{heads.get(name.partition('-')[2], 'Detection')}Model"
    return getattr(tasks, model)(f"{name}.yaml", verbose=False), (3, 320, 320)


def _decoding(module: Any) -> nn.Module:
    """As `ultralytics` exports its networks: layers merged, boxes decoded within."""
    module.fuse(verbose=False)
    head = module.model[-1]
    head.export, head.format = True, "onnx"
    return cast(nn.Module, module)


def images(shape: tuple[int, ...], count: int) -> NDArray[np.float32]:
    """What a network reads, float32 `[count, *shape]`: rendered characters, or values as behind a ReLU for features."""
    channels, *size = shape
    if channels != 3:
        return np.maximum(np.random.default_rng(0).standard_normal((count, *shape), np.float32), 0)
    drawn = [np.asarray(Image.fromarray(glyphs.render("calib", i)).resize((size[1], size[0]))) for i in range(count)]
    pixels = np.stack(drawn).astype(np.float32) / 255
    return np.asarray(((pixels - _MEAN) / _SPREAD).transpose(0, 3, 1, 2), np.float32)


def network(kind: str, name: str) -> Made:
    """A network of a set in evaluation mode, with its weights drawn: always the same for a name.

    Raises:
        ImportError: the tool that makes it is not installed.
    """
    torch.manual_seed(0)
    module, shape = SETS[kind].make(name)
    return SETS[kind].deploy(prepared(module, shape)), shape


def prepared(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A module in evaluation mode, with weights drawn and statistics of images of a shape."""
    _draw(module)
    norms = [part for part in module.eval().modules() if isinstance(part, _BatchNorm)]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # the mean over what it sees
        part.train()
    with torch.no_grad():
        module(torch.from_numpy(images(shape, STATISTICS)))
    return module.eval()


def _draw(module: nn.Module) -> None:
    """Weights that keep the variance of what they read."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear) and part.weight.requires_grad:  # some are constants of a decoder
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, _BatchNorm) and part.affine:
            nn.init.ones_(part.weight)  # 0 at the end of some residual branches, which switches them off
    for parameter in module.parameters():
        if 0 < parameter.detach().abs().max() <= _LAYER_SCALE:
            nn.init.constant_(parameter, 0.1)


class Set(NamedTuple):
    """Networks of one origin.

    Attributes:
        names: of the networks.
        make: by name.
        schemes: what each is exported as, float first.
        runtimes: what the files are run in.
        deploy: what is done to a trained one before it is exported.
    """

    names: tuple[str, ...]
    make: Callable[[str], Made]
    schemes: tuple[str, ...] = ("fp32", "8bit", "4bit")
    runtimes: tuple[str, ...] = ("onnxruntime",)
    deploy: Callable[[nn.Module], nn.Module] = lambda module: module


SETS: Final = {
    "classifiers": Set(
        tuple(_CLASSIFIERS.split()), _classifier, ("fp32", "8bit", "4bit", "2bit", "adaptive"),
        ("onnxruntime", "openvino"),
    ),
    "timm": Set(tuple(_TIMM.split()), _timm),
    "torchvision": Set(zoo_detectors.NETWORKS, zoo_detectors.made),
    "yolo": Set(tuple(_YOLO.split()), _yolo, deploy=_decoding),
}  # fmt: skip
