"""Whatever network it is, the file computes what PyTorch does: random small ones through the whole pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from nets import images, randomized
from torch import Tensor, nn

import edgeq
from edgeq.parity import compare, output_point

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
        self.size = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        kind: Any = draw(st.sampled_from([*ACTIVATIONS, nn.PReLU, *[nn.GroupNorm] * (self.size > 1)]))
        sizes = {nn.PReLU: (self.out,), nn.GroupNorm: (1, self.out)}.get(kind, ())
        self.act: nn.Module = kind(*sizes)
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


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks(), st.sampled_from(["8bit", "4bit", "2bit", "adaptive"]), st.integers(0, 99))
def test_the_file_computes_what_pytorch_computes(module: nn.Module, scheme: str, seed: int) -> None:
    shape = (3, SIZE, SIZE)
    note(str(module))
    network = edgeq.trace(randomized(module, seed), shape)
    batches = [images(6, seed + i, shape) for i in range(2)]
    record = edgeq.calibrate(network, batches, "minmax", seed=seed)
    plan = edgeq.plan(record, scheme)
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        edgeq.export(packed, path, record, plan, batches)
        step = record.activations[output_point(packed)].scale
        found = compare(packed, path, step, [images(8, seed + 2, shape)])
        again = edgeq.load_packed(path.with_suffix(".safetensors"))
    assert found.nodes_within_one_step == 1.0
    assert found.within_eight_steps == found.optimized_within_eight_steps == 1.0
    x = torch.from_numpy(batches[0])
    assert torch.equal(again(x), packed(x))
