"""Defects of PyTorch that edgeq goes round, each in a process of its own, which they end."""

from __future__ import annotations

import subprocess
import sys

GRADIENTS = """
import numpy as np, torch
from torch import nn
from edgeq.calibration.calibrate import calibrate
from edgeq.frontends.torch_export.trace import trace
from edgeq.planning.plan import plan
from edgeq.planning.recipe import EFFORTS, Effort, Recipe
from edgeq.quantization.quantize import quantize
from edgeq.quantization.tune import tune

torch.manual_seed(0)
module = nn.Sequential(nn.Conv2d(3, 8, 1, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
network, images = trace(module, (3, 224, 224)), np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
record = calibrate(network, [images])
EFFORTS["best"] = Effort(1, 100, 1)
chosen = plan(record, Recipe("8bit", effort="best"))
tune(network, record, chosen, quantize(network, record, chosen, [images]), [images])
"""


def test_gradients_of_a_pointwise_convolution_with_a_stride_over_few_channels() -> None:
    """OneDNN writes outside of its buffers, as in the first layers of RepVGG and MobileOne."""
    made = subprocess.run([sys.executable, "-c", GRADIENTS], capture_output=True, text=True, timeout=300, check=False)
    assert (made.returncode, made.stderr) == (0, "")
