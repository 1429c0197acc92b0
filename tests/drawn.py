"""Random small networks, with whatever may stand around a convolution, and with channels as training leaves some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from hypothesis import strategies as st
from nets import Quantized, images, randomized
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeq
from edgeq.system.environment import int8_overflows

SIZE = 13  # of an image: nothing divides it
ACTIVATIONS = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh,
    nn.Mish, nn.ELU, nn.SELU, nn.Softplus, nn.Softsign, nn.Hardtanh,
)  # fmt: skip


class Block(nn.Module):
    """A convolution with all that may stand around it."""

    def __init__(self, channels: int, size: int, draw: st.DrawFn) -> None:
        super().__init__()
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, 2))
        while size + 2 * padding < dilation * (kernel - 1) + 1:
            kernel -= 1
        groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
        self.out = draw(st.sampled_from([channels, groups, groups * draw(st.integers(1, 5))]))
        stride, bias = draw(st.integers(1, 3)), draw(st.booleans())
        self.conv = nn.Conv2d(channels, self.out, kernel, stride, padding, dilation, groups, bias)
        self.norm = nn.BatchNorm2d(self.out) if draw(st.booleans()) else nn.Identity()
        kind: Any = draw(st.sampled_from([*ACTIVATIONS, nn.PReLU, nn.GroupNorm]))
        sizes = {nn.PReLU: (self.out,), nn.GroupNorm: (1, self.out)}.get(kind, ())
        self.act: nn.Module = kind(*sizes)
        self.size = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        same = (self.out, self.size) == (channels, size)
        self.join = draw(st.sampled_from(["add", "mul", "cat"] if same else [""]))
        self.out += channels * (self.join == "cat")
        self.pad = draw(st.sampled_from([0, 0, 1]))
        self.size += self.pad

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        y = {"": lambda: y, "add": lambda: x + y, "mul": lambda: x * y, "cat": lambda: torch.cat([x, y], 1)}[
            self.join
        ]()
        return nn.functional.pad(y, (0, self.pad, self.pad, 0)) if self.pad else y


class Drawn(nn.Module):
    """Some blocks, a pooling or none, and a classifier."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__()
        channels, size, blocks = 3, SIZE, []
        for _ in range(draw(st.integers(1, 4))):
            blocks.append(Block(channels, size, draw))
            channels, size = blocks[-1].out, blocks[-1].size
        self.blocks = nn.Sequential(*blocks)
        self.pool = draw(st.sampled_from(["mean", "max", "flat"]))
        self.head = nn.Linear(channels * (size * size if self.pool == "flat" else 1), draw(st.integers(2, 7)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        x = nn.functional.max_pool2d(x, x.shape[2]) if self.pool == "max" else x
        y: Tensor = self.head(x.mean((2, 3)) if self.pool == "mean" else x.flatten(1))
        return y


@st.composite
def networks(draw: st.DrawFn) -> Any:
    return Drawn(draw)


GAMMAS = (1e-9, 1e-7, 1e-5, 1e-3, 1.0, 10.0)


def with_odd_channels(module: nn.Module, seed: int) -> nn.Module:
    """Every third channel of every layer gets a factor of one of `GAMMAS`, every fifth a large bias."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                count = len(part.weight)
                factors = torch.tensor(GAMMAS)[torch.randint(len(GAMMAS), (count,), generator=generator)]
                chosen = torch.rand(count, generator=generator) < 1 / 3
                factors = torch.where(chosen, factors, 1.0).reshape(-1, *[1] * (part.weight.dim() - 1))
                part.weight.mul_(factors)
                if part.bias is not None:
                    large = torch.rand(count, generator=generator) < 1 / 5
                    part.bias.copy_(torch.where(large, part.bias * 30, part.bias))
    return module


def openvino_takes(module: nn.Module) -> bool:
    """It moves the strides of a 1x1 convolution to the layer before, and forgets the padding: another shape."""
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    return all(conv.kernel_size != (1, 1) or conv.stride == (1, 1) or conv.padding == (0, 0) for conv in convs)


def through_stages(module: nn.Module, scheme: str, odd: bool, seed: int) -> Quantized:
    """Run all stages on a drawn network with random weights; 8-bit weights are reduced where this CPU overflows."""
    module, shape = randomized(module, seed), (3, SIZE, SIZE)
    network = edgeq.trace(with_odd_channels(module, seed) if odd else module, shape)
    batches = [images(6, seed + i, shape) for i in range(2)]
    record = edgeq.calibrate(network, batches, "minmax", seed=seed)
    plan = edgeq.plan(record, edgeq.Recipe(scheme, reduce_range=int8_overflows()))
    layers = edgeq.quantize(network, record, plan, batches)
    return Quantized(network, record, plan, layers, edgeq.pack(network, layers, record, plan), batches)


def in_openvino(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of a file, computed in float32 where not in integers."""
    core = openvino.Core()
    model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(model(x)[0])
