"""Quantize the weights layer by layer, in order of execution; each layer compensates errors made before it.

What a layer reads in the network quantized so far, and what it should make of it, is sampled from augmentations of the
calibration images (`edgeq.quantization.sampling`). `edgeq.rounding.layer` then rounds the layer from the first and
second moments of these samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import ArtifactError, DataError
from edgeq.ir.analysis import quantizer_groups, require_ranges
from edgeq.ir.batches import Batch, Images
from edgeq.ir.network import Network, rounded_layer, with_gradients
from edgeq.numerics.weights import BitWidth, QuantLayer
from edgeq.packed.activations import ActivationQuantizer
from edgeq.planning.cost import FLOAT_BITS
from edgeq.planning.plan import PrecisionPlan
from edgeq.quantization.augment import augmented, blurred, in_half
from edgeq.quantization.sampling import Sampler
from edgeq.quantization.streams import Stream
from edgeq.rounding.layer import layer_of_tensors, quantize_layer, tensors_of_layer
from edgeq.rounding.steps import layer_steps
from edgeq.system.heap import trim_heap
from edgeq.system.progress import SILENT, Progress
from edgeq.system.threads import on_usable_cpus, side_by_side, torch_threads

_SEEDS: Final = 1_000_003  # distance of the seeds of two layers or augmentations, which are thus independent


@on_usable_cpus
@with_gradients
def quantize(
    network: Network,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    batches: Iterable[Batch],
    *,
    progress: Progress = SILENT,
    checkpoint: Checkpoint | None = None,
) -> dict[str, QuantLayer]:
    """Quantize the weights of every layer to the width that the plan gives it.

    Args:
        network: the float network that the record was made of.
        record: its calibration record.
        plan: the width of every layer; its recipe gives the effort, and the seed for positions and augmentations.
        batches: calibration images, float32 `[n, *shape]` each, of several inputs by their names; all augmentations are
            held in memory, in uint8 or half precision.
        progress: receives the number of rounded layers.
        checkpoint: stores finished layers, and restores those of an interrupted run.

    Returns:
        A `QuantLayer` by name for each layer, except those that the plan keeps at 32 bits.

    Raises:
        ArtifactError: the record or the plan is of another network.
        DataError: no images, or images of another shape.

    Example:
        >>> layers = edgeq.quantize(network, record, plan, batches)
        >>> layers["0"].weight.shape, layers["0"].weight.data.shape  # 8 filters of 3 x 3 x 3, two to a byte
        ((8, 3, 3, 3), (4, 27))
    """
    layers = network.graph.layers
    if [n.name for n in layers] != [item.layer.name for item in plan.layers]:
        raise ArtifactError("the plan is of another network: its layers are not those of this one; plan again")
    require_ranges((name for group in quantizer_groups(network.graph) for name in group), record.activations)
    widths = {name: BitWidth(bits, plan.recipe.reduce_range) for name, bits in plan.bits.items() if bits != FLOAT_BITS}
    effort, seed, work = plan.recipe.work, plan.recipe.seed, f"quantizing to {plan.recipe.scheme}"
    held = [tuple(map(in_half, images.tensors(network))) for images in Images.each(network.graph, batches)]
    if not held:
        raise DataError("no calibration images; expected at least one")
    ranges = record.activations if plan.act_bits == 8 else {}
    values = network.graph.input_values
    stored = [
        ActivationQuantizer(ranges[name].scale, ranges[name].zero_point).codes if name in ranges else in_half
        for name in values
    ]
    inputs: dict[str, list[Tensor]] = {name: [] for name in values}
    for number in range(effort.augmentations):
        start = (seed * effort.augmentations + number) * _SEEDS
        for name, store, batches_of in zip(values, stored, zip(*held, strict=True), strict=True):
            made = partial(_augmented, store, number, start)
            inputs[name] += side_by_side(made, enumerate(batches_of))
        trim_heap()
    sizes = [len(first) for first, *_ in held]
    firsts = [0, *accumulate(sizes)][:-1] * effort.augmentations  # index of the first image of each batch
    images = sum(sizes) * effort.augmentations
    # No weights can restore what the ranges clip. So the float network is clipped, too; otherwise layers would try to
    # compensate for the few clipped values, at the cost of all others.
    original, rounded = (Stream(network, inputs, ranges, rounded=rounded) for rounded in (False, True))
    del held, inputs  # the streams free them when no layer needs them any more
    checkpoint, threads = checkpoint or Checkpoint(), torch.get_num_threads()
    done: dict[str, QuantLayer] = {}
    with torch.inference_mode():
        for i, node in enumerate(network.graph.nodes):
            if node.name in widths:
                width, kept = widths[node.name], checkpoint.under(f"rounded.{node.name}/")
                if kept:
                    done[node.name] = layer_of_tensors(kept, tuple(network.weight_and_bias(node.name)[0].shape), width)
                else:
                    generator = torch.Generator().manual_seed(seed + i * _SEEDS)
                    sampler = Sampler(network, node, effort, width.bits, generator)
                    halves = sampler.halves(original, rounded, firsts, images)
                    steps = layer_steps(network.graph, node, record.activations, plan.act_bits)
                    with torch_threads(1):
                        done[node.name] = quantize_layer(network, node, halves, width, steps, threads)
                    checkpoint.put(f"rounded.{node.name}/", tensors_of_layer(done[node.name]))
                rounded.replace(node.name, rounded_layer(node, done[node.name]))
                trim_heap()
                progress.step(work, len(done), len(widths))
            original.advance(node)
            rounded.advance(node)
    return done


def _augmented(store: Callable[[Tensor], Tensor], number: int, start: int, of: tuple[int, Tensor]) -> Tensor:
    """Return an augmentation of a batch, as it is stored: number 0 is the whole images, others are random crops."""
    i, images = of
    generator = torch.Generator().manual_seed(start + i)
    return store(augmented(images, generator) if number else blurred(images.float(), generator))
