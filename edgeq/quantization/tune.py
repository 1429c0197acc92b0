"""Tune the scales and biases of all layers together, by distillation from the float network; the bytes do not change.

Rounding one layer after another cannot know what later layers make of an error. Here all layers are trained together,
with the float network as the teacher: the class probabilities (distillation, arXiv:1503.02531) and the values between
blocks (block reconstruction as in BRECQ, arXiv:2102.05426) should be the same. No labels are needed. Scales (LSQ,
arXiv:1902.08153) and biases are so few that some hundred images determine them. Each step takes random crops of random
images, so that no crop is seen twice.

Near the teacher, gradients of single batches are mostly noise, and products in bfloat16 differ from those of runtimes.
So several points on the straight line from the start to the end of training are compared, the start included, and the
one with the least divergence from the float network in float32 is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import ArtifactError, DataError
from edgeq.ir.analysis import cuts, require_ranges
from edgeq.ir.batches import Batch, Images
from edgeq.ir.network import Network, as_tensor, with_gradients
from edgeq.ir.node import Node
from edgeq.ir.ops.layers import convolved
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import QuantLayer
from edgeq.planning.plan import PrecisionPlan
from edgeq.quantization.augment import augmented, in_half
from edgeq.rounding.gptq import half_scale
from edgeq.rounding.steps import Steps, layer_steps, least_scales, stored_bias
from edgeq.system.heap import trim_heap
from edgeq.system.progress import SILENT, Progress
from edgeq.system.threads import on_usable_cpus, side_by_side, torch_threads
from edgeq.tasks.outputs import Answers, Tasks

_BATCH: Final = 16
_PART: Final = 8  # images of a batch whose activations are held at a time
_RATE: Final = 1e-4  # learning rate of the logarithm of a scale
_SHIFT: Final = 0.3  # unit of a bias's shift, as a share of the norm of the channel's weights
_WARM_UP: Final = 20  # steps of linear warm-up of the learning rate; it also falls to 0 along a cosine
_BLOCKS: Final = 0.05  # weight of the relative error of a block's output, added to the divergence of the answers
_SAVED_EVERY: Final = 50  # steps between two checkpoints
_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)  # points on the line from start to end to compare
_CHECKS: Final = 12  # batches on which these points are compared
_SEEDS: Final = 1_000_003  # distance of the random seeds of two runs
_TINY: Final = 1e-12  # keeps the power of a constant value above 0


Crops = tuple[Tensor, ...]
"""What the network takes for some crops: float32 `[n, *shape]` for each input."""


class _TunedLayer(nn.Module):
    """A quantized layer with fixed levels and trainable scales and bias."""

    def __init__(self, node: Node, start: QuantLayer) -> None:
        super().__init__()
        self.node = node
        self.start = start
        self.levels = as_tensor(start.weight.levels()).float().contiguous(memory_format=torch.channels_last)
        self.scale = as_tensor(start.weight.scale).reshape(-1, 1, 1, 1)
        self.bias = as_tensor(start.bias)
        self.length = (self.levels * self.scale).flatten(1).norm(dim=1)
        self.stretch = nn.Parameter(torch.zeros_like(self.scale))  # logarithm of the factor of the scale
        self.shift = nn.Parameter(torch.zeros_like(self.bias))  # change of the bias, in units of `_SHIFT * length`

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        weight = self.levels * (self.scale * self.stretch.exp())
        bias = self.bias + self.shift * (_SHIFT * self.length)
        a = self.node.attrs
        if a["groups"] == 1:
            return convolved(x, weight, bias, a)
        # Gradients of grouped convolutions with stride 2 take eight times longer in bfloat16 than in float32.
        with torch.autocast("cpu", enabled=False):
            return convolved(x.float(), weight, bias, a).to(x.dtype)

    def finished(self, steps: Steps) -> QuantLayer:
        """Return the trained layer, with scales and bias rounded for these quantization steps."""
        with torch.no_grad():
            scale = half_scale((self.scale * self.stretch.exp()).reshape(-1)).numpy()
            bias = (self.bias + self.shift * (_SHIFT * self.length)).numpy()
        # Training changes scales and biases by percents. Where a bias needs a larger scale, the weights hardly matter.
        scale = np.maximum(scale, least_scales(bias, steps, self.levels[0].numel(), spread=0))
        return QuantLayer(replace(self.start.weight, scale=scale), stored_bias(bias, scale, steps))


@on_usable_cpus
@with_gradients
def tune(
    network: Network,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    layers: Mapping[str, QuantLayer],
    batches: Iterable[Batch],
    *,
    progress: Progress = SILENT,
    checkpoint: Checkpoint | None = None,
) -> dict[str, QuantLayer]:
    """Train scales and biases of a quantized network.

    Args:
        network: the float network.
        record: its calibration record.
        plan: the plan that it was quantized by; its recipe gives the number of steps, of 16 crops each, and the seed
            for images and crops.
        layers: the rounded layers by name, from `edgeq.quantize`.
        batches: calibration images, float32 `[n, *shape]` each, of several inputs by their names; all are held in
            memory, in half precision if their values fit.
        progress: receives the number of finished steps.
        checkpoint: stores the state of training, and restores that of an interrupted run.

    Returns:
        The layers with tuned scales and biases; unchanged layers if the effort has no steps.

    Raises:
        ArtifactError: the record or the layers are of another network.
        DataError: no images, or images of another shape.

    Example:
        >>> tuned = edgeq.tune(network, record, plan, layers, batches)
        >>> bool((tuned["0"].weight.data == layers["0"].weight.data).all())  # the bytes stay
        True
    """
    steps, seed, work = plan.recipe.work.steps, plan.recipe.seed, f"tuning {plan.recipe.scheme}"
    if not (steps and layers):
        return dict(layers)
    ranges = record.activations if plan.act_bits == 8 else {}
    known = {node.name: node.inputs[0] for node in network.graph.layers}
    if unknown := layers.keys() - known.keys():
        raise ArtifactError(f"{min(unknown)} is no layer of this network; quantize this network")
    if ranges:
        require_ranges((known[name] for name in layers), ranges)
    held = [tuple(map(in_half, images.tensors(network))) for images in Images.each(network.graph, batches)]
    if not held:
        raise DataError("no calibration images; expected at least one")
    images = tuple(torch.cat(parts) for parts in zip(*held, strict=True))
    held.clear()  # so that the images are not held twice
    stored = {name: found for name, found in ranges.items() if name not in record.in_float}
    tasks = network.tasks({output.name: output.channels for output in record.outputs})
    trainer = _Trainer(_Teacher(network, tasks), stored, layers, images, steps, seed)
    checkpoint = checkpoint or Checkpoint()
    done = trainer.restore(checkpoint.under("tuned/"))
    for step in range(done, steps):
        trainer.step(step)
        trim_heap()
        if (step + 1) % _SAVED_EVERY == 0:
            checkpoint.put("tuned/", trainer.state(step + 1))
        progress.step(work, step + 1, steps)
    trainer.settle()
    return trainer.finished(record.activations, plan.act_bits)


class _Teacher(NamedTuple):
    """The float network, and the tasks that its outputs are compared by."""

    network: Network
    tasks: Tasks


class _Trainer:
    def __init__(
        self,
        teacher: _Teacher,
        ranges: Mapping[str, ActivationRange],
        layers: Mapping[str, QuantLayer],
        images: tuple[Tensor, ...],
        steps: int,
        seed: int,
    ) -> None:
        self.network, self.tasks = network, _ = teacher
        self.ranges, self.images, self.steps, self.seed = ranges, images, steps, seed
        nodes = network.graph.layers
        self.layers = {node.name: _TunedLayer(node, layers[node.name]) for node in nodes if node.name in layers}
        self.parameters = [p for layer in self.layers.values() for p in layer.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, betas=(0.9, 0.99))
        self.blocks = cuts(network.graph)
        self._answers, behind = network.graph.answers, network.graph.behind_answers()
        self._judged = [node for node in network.graph.nodes if node not in behind]
        with torch_threads(1):
            _, values = self._teach(self._crops(0))
        self.powers = {name: float(values[name].float().var(correction=0)) + _TINY for name in self.blocks}

    def step(self, number: int) -> None:
        """Take step `number`, with Adam, on a batch of crops."""
        rate = 0.5 * (1 + math.cos(math.pi * number / self.steps)) * min(1.0, (number + 1) / _WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = _RATE * rate
        self.optimizer.zero_grad()
        parts = zip(*(torch.split(x, _PART) for x in self._crops(number)), strict=True)
        for gradients in side_by_side(self._gradients, parts, at_once=2):
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self.optimizer.step()

    def _gradients(self, part: Crops) -> tuple[Tensor, ...]:
        """Return the gradients, by each parameter, of the part of a batch's loss that comes from some of its crops."""
        loss = self._loss(part) * (len(part[0]) / _BATCH)
        return torch.autograd.grad(loss, self.parameters, materialize_grads=True)

    def _loss(self, crops: Crops) -> Tensor:
        """Return the loss: divergence of the answers plus errors of the blocks' outputs, against the float network."""
        expected, targets = self._teach(crops)
        with _half_precision():
            found, values = self._run(crops, quantized=True)
        divergence = self.tasks.divergence(found, expected, "batchmean")
        errors = [F.mse_loss(values[name].float(), targets[name].float()) / self.powers[name] for name in self.blocks]
        return divergence + _BLOCKS * torch.stack(errors).sum() if errors else divergence

    def _crops(self, number: int) -> Crops:
        """Return the batch of a step, float32 `[_BATCH, *shape]` for each input, channels last.

        Inputs that are images are all cropped alike.
        """
        generator = torch.Generator().manual_seed(self.seed * _SEEDS + number)
        chosen = torch.randint(0, len(self.images[0]), (_BATCH,), generator=generator)
        state, made = generator.get_state(), []
        for images in self.images:
            generator.set_state(state)
            made.append(augmented(images[chosen], generator))
        return tuple(made)

    def _teach(self, crops: Crops) -> tuple[Answers, dict[str, Tensor]]:
        """Return answers and block outputs of the float network."""
        with torch.no_grad(), _half_precision():
            return self._run(crops, quantized=False)

    def _run(self, crops: Crops, quantized: bool) -> tuple[Answers, dict[str, Tensor]]:
        graph = self.network.graph
        ranges = self.ranges if quantized else {}
        values = {name: _stored(x, [], ranges.get(name)) for name, x in zip(graph.input_values, crops, strict=True)}
        kept = {}
        for node in self._judged:
            inputs = [values[name] for name in node.inputs]
            layer = self.layers.get(node.name) if quantized else None
            if layer is not None:
                y = layer(*inputs)
            else:
                y = inputs[0] if node.op == "clip" else self.network.run(node, inputs)
            y = _stored(y, [(0.0, node.attrs["max"])] if node.op == "clip" else [], ranges.get(node.name))
            values[node.name] = y
            if node.name in self.blocks:
                kept[node.name] = y
            for name in self.network.last_reads(node):
                if name not in self._answers:
                    del values[name]
        return self.tasks.answers([values[name].float() for name in self._answers]), kept

    def settle(self) -> None:
        """Set the parameters to the best point on the line from the start to the end of training."""
        ends = [parameter.detach().clone() for parameter in self.parameters]

        def go(share: float) -> None:
            for parameter, end in zip(self.parameters, ends, strict=True):
                parameter.copy_(share * end)

        def answers(number: int, quantized: bool) -> Answers:
            return self._run(self._crops(self.steps + number), quantized)[0]

        found = {}
        with torch.no_grad():
            expected = list(side_by_side(lambda number: answers(number, quantized=False), range(_CHECKS)))
            for share in _SHARES:
                go(share)
                given = side_by_side(lambda number: answers(number, quantized=True), range(_CHECKS))
                pairs = zip(given, expected, strict=True)
                found[share] = sum(float(self.tasks.divergence(*pair, "sum")) for pair in pairs)
            go(min(found, key=lambda share: found[share]))
        trim_heap()

    def state(self, done: int) -> dict[str, Tensor]:
        """Return the state of training after `done` steps, for `restore`."""
        found = {"done": torch.tensor(done)}
        for i, parameter in enumerate(self.parameters):
            found[f"{i}"] = parameter.detach()
            found |= {f"{i}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> int:
        """Restore a state, unless it is empty, and return the number of steps done."""
        if not state:
            return 0
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(state[f"{i}"])
                keys = [name for name in state if name.startswith(f"{i}.")]
                # Adam changes its state in place, so the checkpoint's tensors are cloned.
                self.optimizer.state[parameter] = {name.partition(".")[2]: state[name].clone() for name in keys}
        return int(state["done"])

    def finished(self, ranges: Mapping[str, ActivationRange], act_bits: int) -> dict[str, QuantLayer]:
        """Return all layers, rounded to storable values; `ranges` are those of the record."""
        graph = self.network.graph
        return {
            name: layer.finished(layer_steps(graph, layer.node, ranges, act_bits))
            for name, layer in self.layers.items()
        }


def _stored(y: Tensor, ends: list[tuple[float, float]], found: ActivationRange | None) -> Tensor:
    """Clip a value to `ends` and to its range, and round it as in uint8 if it has a range.

    Gradients pass straight through the rounding (straight-through estimator).
    """
    ends += [(found.low, found.high)] if found else []
    if ends:  # hardtanh: its gradient takes a third of clamp's time
        y = F.hardtanh(y, max(low for low, _ in ends), min(high for _, high in ends))
    if found:  # through `detach`, invisible to autograd; the zero point is not needed, as 0 is a level
        y.detach().div_(found.scale).round_().mul_(found.scale)
    return y


def _half_precision() -> torch.autocast:
    """Compute products in bfloat16 on CPUs with instructions for it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())
