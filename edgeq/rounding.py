"""Choose the integer weights: sequentially, each layer making up for the damage that was done before it.

Layers are rounded in order of execution. For each, the patches `x` that it reads in the float network and `y`, the
same patches in the network quantized so far, are sampled from the calibration images. Then

1. the float weights `V` that make the most of `y` are solved for: they minimize `E|W x - V y|^2 + r|V - W|^2`, a ridge
   regression (the correction of asymmetric inputs of GPTAQ, arXiv:2504.02692, in closed form);
2. `V` is rounded so that the error of the output, not that of the weights, is small: see `edgeq.gptq`;
3. the bias absorbs what is left in the mean (bias correction, arXiv:1906.04721), and is rounded to the grid
   `input scale x weight scale` in which integer kernels add it, then to half precision, in which files hold it.

All three need only means and second moments, never the images at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.calibrate import checked_batch
from edgeq.checkpoint import Checkpoint
from edgeq.cost import FLOAT_BITS
from edgeq.errors import ArtifactError, DataError
from edgeq.gptq import DAMPING, best_rounding
from edgeq.graph import Node
from edgeq.moments import Moments, by_group, isotropic, patches, sample_positions
from edgeq.network import Network, rounded_layer
from edgeq.plan import PrecisionPlan
from edgeq.quantize import BitWidth, QuantLayer, QuantTensor, mse_scales, stored_bias
from edgeq.record import CalibrationRecord
from edgeq.streams import Stream

_ROWS_PER_INPUT: Final = 20  # patches sampled for a layer, over all images, for each weight of an output
_MIN_ROWS: Final = 4096
_SEEDS: Final = 1_000_003  # between the seeds of two layers, so that a layer's positions depend on no other
_RIDGE: Final = 3.0  # of the mean variance of a patch: some hundred images must not decide on thousands of weights


def quantize(
    network: Network,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    batches: Iterable[NDArray[np.float32]],
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, QuantLayer]:
    """Quantize the weights of every layer to the width that the plan gives it.

    Args:
        network: the float network that the record was made of.
        record: its calibration record.
        plan: the width of every layer.
        batches: calibration images, float32 `[n, *input_shape]` each.
        seed: of the choice of sampled positions.
        progress: called with each layer's name when it is done.
        checkpoint: where finished layers are kept, and taken from.

    Returns:
        A `QuantLayer` for each layer, by name; nothing where the plan says 32 bits.

    Raises:
        ArtifactError: record or plan are of another network.
        DataError: no images, or images of another shape.
    """
    layers = network.graph.layers
    if [n.name for n in layers] != [item.layer.name for item in plan.layers]:
        raise ArtifactError("the plan is of another network: its layers are not those of this one; plan again")
    widths = {name: BitWidth(bits) for name, bits in plan.bits.items() if bits != FLOAT_BITS}
    inputs = [checked_batch(network, batch) for batch in batches]
    if not inputs:
        raise DataError("no calibration images; expected at least one")
    ranges = record.activations if plan.act_bits == 8 else {}
    # What the ranges clip is lost whatever the weights do. Were the original not clipped too, the layers would try to
    # make up for the few values that are, at the cost of all the others.
    original, rounded = Stream(network, inputs, ranges, rounded=False), Stream(network, inputs, ranges, rounded=True)
    images = sum(len(x) for x in inputs)
    del inputs  # the streams hold them in fewer bits
    checkpoint = checkpoint or Checkpoint()
    done: dict[str, QuantLayer] = {}
    with torch.inference_mode():
        for i, node in enumerate(network.graph.nodes):
            if node.name in widths:
                width, kept = widths[node.name], checkpoint.under(f"rounded.{node.name}/")
                if kept:
                    done[node.name] = layer_of_tensors(kept, width)
                else:
                    fan_in = network.weight_and_bias(node.name)[0][0].numel()
                    count = -(-max(_ROWS_PER_INPUT * fan_in, _MIN_ROWS) // images)
                    generator = torch.Generator().manual_seed(seed + i * _SEEDS)
                    moments = _moments(node, network.layer(node.name), original, rounded, count, generator)
                    step = ranges[node.inputs[0]].scale if ranges else None
                    done[node.name] = _quantize_layer(network, node, moments, width, step)
                    checkpoint.put(f"rounded.{node.name}/", tensors_of_layer(done[node.name]))
                rounded.replace(node.name, rounded_layer(node, done[node.name]))
                if progress:
                    progress(node.name)
            original.advance(node)
            rounded.advance(node)
    return done


def _moments(
    node: Node, layer: nn.Module, original: Stream, rounded: Stream, count: int, generator: torch.Generator
) -> tuple[Moments, Moments]:
    """Moments of the patches in the rounded network, and of those in the original against them."""
    own, cross = Moments(), Moments()
    for i in range(original.batches):
        x, y = original.value(node.inputs[0], i), rounded.value(node.inputs[0], i)
        positions = sample_positions(layer, x, count, generator)
        before, after = patches(layer, x, positions), patches(layer, y, positions)
        own.add(after, after)
        cross.add(before, after)
    return own, cross


def _quantize_layer(
    network: Network,
    node: Node,
    moments: tuple[Moments, Moments],
    width: BitWidth,
    input_step: float | None,
) -> QuantLayer:
    own, cross = moments
    weight, bias = network.weight_and_bias(node.name)
    grouped = by_group(weight, int(node.attrs.get("groups", 1)))
    hessian = own.covariance()
    diagonal = isotropic(hessian)
    target = grouped @ (cross.covariance() + _RIDGE * diagonal)
    corrected = torch.linalg.solve(hessian + _RIDGE * diagonal, target.transpose(1, 2)).transpose(1, 2)
    start = torch.from_numpy(mse_scales(corrected.reshape(weight.shape).numpy(), width)).reshape(grouped.shape[:2])
    codes, grouped_scale = best_rounding(corrected, hessian + DAMPING * diagonal, start, width)
    scale = grouped_scale.reshape(-1).numpy()
    before, after = cross.means()[0], own.means()[1]
    rounded = codes * grouped_scale[:, :, None]
    shift = (grouped @ before[:, :, None] - rounded @ after[:, :, None]).reshape(-1)
    quantized = QuantTensor(codes.to(torch.int8).reshape(weight.shape).numpy(), scale, width)
    return QuantLayer(quantized, stored_bias((bias + shift).numpy(), scale, input_step))


def tensors_of_layer(layer: QuantLayer) -> dict[str, Tensor]:
    """A layer as the tensors `codes`, `scale` and `bias`."""
    arrays = {"codes": layer.weight.codes, "scale": layer.weight.scale, "bias": layer.bias}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def layer_of_tensors(tensors: Mapping[str, Tensor], width: BitWidth) -> QuantLayer:
    """Inverse of `tensors_of_layer`."""
    codes, scale, bias = (tensors[name].numpy() for name in ("codes", "scale", "bias"))
    return QuantLayer(QuantTensor(codes, scale, width), bias)
