"""Small networks with everything that large ones have, and the stages run on them once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.artifacts.record import CalibrationRecord
from edgeq.calibration.calibrate import calibrate
from edgeq.exporters.onnx.space_to_depth import PixelGroups
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.graph import INPUT
from edgeq.ir.network import Network
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import WIDTHS, BitWidth, QuantLayer, QuantTensor, starting_scales
from edgeq.packed.pack import pack
from edgeq.planning.plan import PrecisionPlan, plan
from edgeq.planning.recipe import EFFORTS, SCHEMES, Effort, Recipe
from edgeq.quantization.quantize import quantize
from edgeq.rounding.gptq import Coder

SHAPE = (3, 16, 16)


class Function(nn.Module):
    """A forward pass given as a function of this module's layers and its inputs."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Residual(nn.Module):
    """An inverted residual block with stem and classifier, as in MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.block = nn.Sequential(
            nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True),
            nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        y: Tensor = self.classifier(self.head(x).mean([2, 3]))
        return y


class Fire(nn.Module):
    """Max pooling, two branches joined, a convolution as classifier, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.last = nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(self.stem(x).relu(), 3, 2, ceil_mode=True)
        x = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.last(x).relu(), 1), 1)


class Ragged(nn.Module):
    """Outputs that do not fill their last row of bytes; grouped and dilated; module names that are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(5, 9, 1), nn.ReLU(),
            nn.Conv2d(9, 9, 3, padding=2, dilation=2, groups=3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Flat(nn.Module):
    """Linear layers behind a flatten of larger maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 4, 1)
        self.hidden, self.last = nn.Linear(64, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.hidden(self.conv(x).relu().flatten(1)).relu())
        return y


class Detector(nn.Module):
    """Boxes in pixels and scores of an image and of five numbers about it, apart and joined, as in YOLO networks."""

    shapes: Final = {"image": SHAPE, "about": (5,)}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.about = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(5, 8)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 7, 1)

    def forward(self, image: Tensor, about: Tensor) -> dict[str, Tensor]:
        x = (self.stem(image) + self.about(about)[:, :, None, None]).relu()
        boxes, scores = 640 * self.boxes(x).flatten(2), self.scores(x).flatten(2).sigmoid()
        return {"boxes": boxes, "scores": scores, "joined": torch.cat([boxes, scores], 1)}


MODULES = {"residual": Residual, "fire": Fire, "ragged": Ragged, "flat": Flat}


class Calling(nn.Module):
    """A function of the image as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module weights that keep the variance and batch norms statistics that do something."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.normal_(part.bias, 0, 0.3)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, 0, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


def images(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Smooth random images, float32 `[count, *shape]`."""
    noise = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
    smooth: NDArray[np.float32] = noise + 2 * noise.mean(axis=(2, 3), keepdims=True) + np.roll(noise, 1, 3)
    return smooth


def pixels(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Images of random pixels, float32 `[count, *shape]`, whole levels in 0..1."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, *shape))
    return (levels / 255).astype(np.float32)


@cache
def float_network(name: str) -> Network:
    """One of `MODULES`, traced."""
    return trace(randomized(MODULES[name]()), SHAPE)


def ops(network: Network) -> str:
    """The ops of a network, in order of execution."""
    return " ".join(node.op for node in network.graph.nodes)


def assert_same(module: nn.Module, network: Network, shape: tuple[int, ...]) -> None:
    """Compare a traced network with its module on three images."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module.eval()(x), rtol=1e-4, atol=1e-5)


def to_nearest(weight: Tensor, width: BitWidth) -> QuantTensor:
    """Weights `[out, ...]` rounded to what is nearest, with the scales that suit the weights alone."""
    scale = starting_scales(weight.numpy(), width)
    rows, steps = weight.reshape(1, len(weight), -1), torch.from_numpy(scale)[None]
    coder = Coder(width, 1, len(weight))
    found = [coder.nearest(rows[:, :, i] / steps, steps.square()) for i in range(rows.shape[2])]
    return QuantTensor(torch.stack(found, 1).to(torch.uint8).numpy(), tuple(weight.shape), scale, width)


@dataclass(frozen=True)
class Quantized:
    """A network after all stages before export."""

    network: Network
    record: CalibrationRecord
    plan: PrecisionPlan
    layers: dict[str, QuantLayer]
    packed: Network
    batches: list[NDArray[np.float32]]


@cache
def quantized(name: str, scheme: str, act_bits: int = 8) -> Quantized:
    """Run the stages on one of `MODULES`; the result is shared, do not change it.

    Besides the schemes, `3bit`, `1.6bit`, `1.33bit` and `1bit` give every layer so many bits.
    """
    network, batches = float_network(name), [images(8, 1), images(8, 2)]
    record = calibrate(network, batches)
    bits = {f"{width.bits}bit": width.bits for width in WIDTHS}.get(scheme)
    chosen = plan(record, Recipe(scheme if scheme in SCHEMES else "4bit", act_bits))
    if bits:
        chosen = replace(chosen, layers=tuple(replace(item, bits=bits) for item in chosen.layers))
    layers = quantize(network, record, chosen, batches)
    return Quantized(network, record, chosen, layers, pack(network, layers, record, chosen), batches)


@dataclass(frozen=True)
class OwnEffort(Recipe):
    """A recipe with an effort that no name stands for."""

    own: Effort = EFFORTS["fast"]

    @property
    def work(self) -> Effort:
        return self.own


def worked(chosen: PrecisionPlan, *, seed: int = 0, views: int = 1, rows: int = 100, steps: int = 0) -> PrecisionPlan:
    """The same plan with another seed, and an effort of so many views, rows and steps."""
    return replace(chosen, recipe=OwnEffort(**{**vars(chosen.recipe), "seed": seed}, own=Effort(views, rows, steps)))


class Heard:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.notices: list[str] = []

    def step(self, work: str, done: int, total: int) -> None:
        self.steps.append((work, done, total))

    def notice(self, text: str) -> None:
        self.notices.append(text)


class Impatient(Heard):
    """Interrupts the work when so many steps are done."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def step(self, work: str, done: int, total: int) -> None:
        super().step(work, done, total)
        if done == self.stop:
            raise KeyboardInterrupt


def output_step(record: CalibrationRecord) -> float:
    """A 255th of the range of the first output on the calibration images."""
    output = record.outputs[0]
    return ActivationRange.covering(output.low, output.high).scale


def laid_out(weight: NDArray[np.float32], groups: PixelGroups) -> NDArray[np.float32]:
    """Weights of a convolution, `[out, in, rows, columns]`, for groups of pixels, one by one."""
    out, depth, rows, _ = weight.shape
    spread = np.zeros((groups.outputs, out, groups.size, depth, rows, groups.span), weight.dtype)
    for output, group, pixel in np.ndindex(groups.taps.shape):
        if (tap := groups.taps[output, group, pixel]) >= 0:
            spread[output, :, pixel, :, :, group] = weight[..., tap]
    return spread.reshape(groups.outputs * out, groups.size * depth, rows, groups.span)


def merged(weight: NDArray[np.float32], groups: int, count: int) -> NDArray[np.float32]:
    """Weights `[out, in / groups, rows, columns]` as those of fewer groups, `count` in one, an output at a time."""
    out, depth, *kernel = weight.shape
    made = np.zeros((out, count * depth, *kernel), np.float32)
    for channel in range(out):
        place = channel // (out // groups) % count
        made[channel, place * depth : (place + 1) * depth] = weight[channel]
    return made


def values(network: Network, x: Tensor) -> dict[str, Tensor]:
    """The input and what each node makes of it, by name; their shapes are those of the graph."""
    found = {INPUT: x}
    for node in network.graph.nodes:
        found[node.name] = network.run(node, [found[name] for name in node.inputs])
        assert tuple(found[node.name].shape[1:]) == node.shape, node.name
    return found
