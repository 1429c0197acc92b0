"""Layers, poolings, paddings and resizes of any geometry, from a module to a file that computes in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Calling, randomized
from torch import nn

import edgeq


def normed(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())


def up(kernel: int, stride: int, padding: int, extra: int = 0, groups: int = 1) -> nn.Sequential:
    return normed(nn.ConvTranspose2d(8, 8, kernel, stride, padding, extra, groups, bias=False), 8)


def rows(*layers: nn.Module) -> nn.Sequential:
    """Layers over rows of eight channels."""
    return nn.Sequential(nn.Flatten(2), *layers, nn.Unflatten(2, (8, -1)))


INTEGER: dict[str, nn.Module] = {
    "k2s2": up(2, 2, 0),
    "k4s2p1": up(4, 2, 1),
    "k3s2p1 and one": up(3, 2, 1, 1),
    "k4s2p1, depthwise": up(4, 2, 1, groups=8),
    "k16s8p4": up(16, 8, 4),
    "transposed rows": rows(nn.ConvTranspose1d(8, 8, 4, 2, 1, groups=2), nn.ReLU()),
    "pixel shuffle": nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.ReLU()),
    "channels of a pool": nn.Sequential(nn.MaxPool2d(2), nn.PixelShuffle(2), nn.Conv2d(2, 8, 1)),
    "pixel unshuffle": nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(32, 8, 1)),
    "nearest": nn.Upsample(scale_factor=2),
    "nearest, to a size": nn.Upsample(size=(7, 13), mode="nearest-exact"),
    "adaptive max": nn.AdaptiveMaxPool2d((5, 3)),
    "max of rows": rows(nn.MaxPool1d(3, 1, 1)),
    "sums": nn.AvgPool2d(3, 2, 1, divisor_override=5),
    "flip and part": Calling(lambda x: x.flip(3)[:, :, ::2, 1::2]),
    "reflect": nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "cut": Calling(lambda x: F.pad(x, (-1, -2, 0, -1))),
    "zeros on one side": nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2)),
    "same, even": nn.Conv2d(8, 8, 4, padding="same", groups=2),
}
FLOAT: dict[str, nn.Module] = {
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, to a size": nn.Upsample(size=(7, 13), mode="bilinear", align_corners=True),
    "power pooling": nn.LPPool2d(2, 3, 2),
    "another constant": nn.ConstantPad2d((1, 0, 2, 1), -3.0),
    "padding counts, ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "adaptive average": nn.AdaptiveAvgPool2d((5, 3)),
    "linear": rows(nn.Upsample(size=96, mode="linear")),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", [*INTEGER, *FLOAT])
def test_from_a_module_to_a_file(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stem, end = normed(nn.Conv2d(3, 8, 3, padding=1), 8), normed(nn.Conv2d(8, 6, 1), 6)
    logits = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    module = randomized(nn.Sequential(stem, (INTEGER | FLOAT)[case], end, logits)).eval()
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    network = edgeq.trace(module, (3, 8, 8))
    record = edgeq.calibrate(network, [images])
    plan = edgeq.plan(record, "8bit")
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, [images]), record, plan)
    manifest = edgeq.export(packed, tmp_path / "net.onnx", record, plan, [images])
    assert manifest["parity"]["nodes_within_one_step"] == 1
    assert bool(manifest["in_float"]) == (case in FLOAT)
    with torch.inference_mode():
        expected, found = module(torch.from_numpy(images)), packed(torch.from_numpy(images))
    assert (found - expected).square().mean() < 1e-3 * expected.var()
