"""Choose the integer weights: sequentially, each layer making up for the damage that was done before it.

Layers are rounded in order of execution. For each, the patches `y` that it reads in the network quantized so far are
sampled from views of the calibration images, with what it should make of them: its output `t` in the float network. A
layer whose output is added to a value that was computed before also makes up for what is wrong with that value. Then

1. the float weights `V` that make the most of `y` are solved for: they minimize `E|t - V y|^2 + r|V - W|^2`, a ridge
   regression (the correction of asymmetric inputs of GPTAQ, arXiv:2504.02692, in closed form). The ridge `r` is the one
   that does best on images that were left out (cross-validation on two halves of them);
2. `V` is rounded so that the error of the output, not that of the weights, is small: see `edgeq.rounding.gptq`;
3. the bias absorbs what is left in the mean (bias correction, arXiv:1906.04721), and is rounded to the grid
   `input scale x weight scale` in which integer kernels add it, then to half precision, in which files hold it.

All three need only means and second moments, never the images at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from math import prod, sqrt
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import ArtifactError, DataError
from edgeq.ir.batches import checked_batch
from edgeq.ir.graph import INPUT, Node
from edgeq.ir.network import Network, rounded_layer, with_gradients
from edgeq.numerics.weights import BitWidth, Float, QuantLayer, QuantTensor, starting_scales
from edgeq.packed.activations import ActivationQuantizer
from edgeq.planning.cost import FLOAT_BITS
from edgeq.planning.plan import PrecisionPlan
from edgeq.quantization.augment import crops, in_half
from edgeq.quantization.streams import Stream
from edgeq.rounding.gptq import DAMPING, best_rounding
from edgeq.rounding.moments import Moments, by_group, isotropic, patches, sample_positions
from edgeq.rounding.steps import Steps, layer_steps, least_scales, stored_bias
from edgeq.system.heap import give_back
from edgeq.system.progress import SILENT, Progress
from edgeq.system.threads import on_usable_cpus, side_by_side, torch_threads

_MIN_ROWS: Final = 4096
_POSITIONS: Final = 8  # of an image, where they suffice; images that are not needed save time in the first layers
_SEEDS: Final = 1_000_003  # between the seeds of two layers or views, so that each depends on no other
_RIDGES: Final = tuple(0.003 * 2.0**k for k in range(14))  # of the mean variance of a patch
_HALVES: Final = 2


@on_usable_cpus
@with_gradients
def quantize(
    network: Network,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    batches: Iterable[NDArray[np.float32]],
    *,
    progress: Progress = SILENT,
    checkpoint: Checkpoint | None = None,
) -> dict[str, QuantLayer]:
    """Quantize the weights of every layer to the width that the plan gives it.

    Args:
        network: the float network that the record was made of.
        record: its calibration record.
        plan: the width of every layer; its recipe says how much work to put in, and seeds the choice of positions and
            augmentations.
        batches: calibration images, float32 `[n, *input_shape]` each; all views are held, in uint8 or half precision.
        progress: is told about each layer that is done.
        checkpoint: where finished layers are kept, and taken from.

    Returns:
        A `QuantLayer` for each layer, by name; nothing where the plan says 32 bits.

    Raises:
        ArtifactError: record or plan are of another network.
        DataError: no images, or images of another shape.

    Example:
        >>> layers = edgeq.quantize(network, record, plan, batches)
        >>> layers["0"].weight.shape, layers["0"].weight.data.shape  # 8 filters of 3 x 3 x 3, two to a byte
        ((8, 3, 3, 3), (4, 27))
    """
    layers = network.graph.layers
    if [n.name for n in layers] != [item.layer.name for item in plan.layers]:
        raise ArtifactError("the plan is of another network: its layers are not those of this one; plan again")
    widths = {name: BitWidth(bits, plan.recipe.reduce_range) for name, bits in plan.bits.items() if bits != FLOAT_BITS}
    effort, seed, work = plan.recipe.work, plan.recipe.seed, f"quantizing to {plan.recipe.scheme}"
    views = effort.views
    held = [in_half(checked_batch(network, batch)) for batch in batches]
    if not held:
        raise DataError("no calibration images; expected at least one")
    ranges = record.activations if plan.act_bits == 8 else {}
    stored = ActivationQuantizer(ranges[INPUT].scale, ranges[INPUT].zero_point).codes if ranges else in_half
    inputs: list[Tensor] = []
    for view in range(views):
        inputs += [stored(_view(x, view, (seed * views + view) * _SEEDS + i)) for i, x in enumerate(held)]
        give_back()
    firsts = [0, *accumulate(len(x) for x in held)][:-1] * views  # the number of the first image of each batch
    images = sum(len(x) for x in inputs)
    # What the ranges clip is lost whatever the weights do. Were the original not clipped too, the layers would try to
    # make up for the few values that are, at the cost of all the others.
    original, rounded = (Stream(network, inputs, ranges, rounded=rounded) for rounded in (False, True))
    del held, inputs  # the streams let them go when no layer needs them any more
    skips = network.graph.skips()
    checkpoint = checkpoint or Checkpoint()
    done: dict[str, QuantLayer] = {}
    with torch.inference_mode():
        for i, node in enumerate(network.graph.nodes):
            if node.name in widths:
                width, kept = widths[node.name], checkpoint.under(f"rounded.{node.name}/")
                if kept:
                    done[node.name] = layer_of_tensors(kept, tuple(network.weight_and_bias(node.name)[0].shape), width)
                else:
                    generator = torch.Generator().manual_seed(seed + i * _SEEDS)
                    sampler = _Sampler(network, node, skips.get(node.name), effort.rows, generator)
                    halves = sampler.halves(original, rounded, firsts, images)
                    steps = layer_steps(network.graph, node, record.activations, plan.act_bits)
                    with torch_threads(1):
                        done[node.name] = _quantize_layer(network, node, halves, width, steps)
                    checkpoint.put(f"rounded.{node.name}/", tensors_of_layer(done[node.name]))
                rounded.replace(node.name, rounded_layer(node, done[node.name]))
                give_back()
                progress.step(work, len(done), len(widths))
            original.advance(node)
            rounded.advance(node)
    return done


def _view(images: Tensor, view: int, seed: int) -> Tensor:
    """A batch itself as the first view, or random crops of it, in float32."""
    return crops(images, torch.Generator().manual_seed(seed)) if view else images.float()


class _Half:
    """Moments over one half of the images, of the patches that a layer reads and of what it should make of them."""

    def __init__(self) -> None:
        self.own, self.target = Moments(), Moments()


class _Sampler:
    """Collects the moments of one layer at some positions of some views."""

    def __init__(self, network: Network, node: Node, skip: str | None, rows: int, generator: torch.Generator) -> None:
        self.node, self.skip, self.generator = node, skip, generator
        self.layer = network.layer(node.name)
        self.weight = by_group(network.weight_and_bias(node.name)[0], int(node.attrs.get("groups", 1)))
        self.rows = max(rows * self.weight.shape[2], _MIN_ROWS)

    def halves(self, original: Stream, rounded: Stream, firsts: Sequence[int], images: int) -> tuple[_Half, _Half]:
        """Go over as many batches as needed: `firsts` are the numbers of their first images, of `images` in all."""
        found = _Half(), _Half()
        every = max(images * min(_POSITIONS, prod(self.node.shape[1:])) // self.rows, 1)
        every -= 1 - every % _HALVES  # odd, so that batches of one image are of both halves
        count = -(-self.rows * every // images)
        chosen = list(enumerate(firsts))[::every]
        inputs = side_by_side(lambda at: [s.value(self.node.inputs[0], at[0]) for s in (original, rounded)], chosen)
        for (i, first), (x, y) in zip(chosen, inputs, strict=True):
            positions = sample_positions(self.layer, x, count, self.generator)
            target = self.weight @ patches(self.layer, x, positions)
            if self.skip is not None:
                missing = original.value(self.skip, i) - rounded.value(self.skip, i)
                target += _at(missing, positions).reshape(target.shape)
            after = patches(self.layer, y, positions)
            for place, half in enumerate(found):
                mine = (torch.arange(len(x)) + first) % _HALVES == place
                rows = mine.repeat_interleave(len(positions))
                if rows.any():
                    read = after[:, :, rows]
                    half.own.add(read, read)
                    half.target.add(target[:, :, rows], read)
        return found


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """Values `[n, out(, h, w)]` at some positions, `[out, n * positions]`, in the order of `patches`."""
    if x.dim() == 4:
        x = x[:, :, positions[:, 0], positions[:, 1]]
    return x.movedim(1, 0).reshape(x.shape[1], -1)


def chosen_ridge(weight: Tensor, hessians: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Choose the ridge of the regression by how well weights fitted to one half of the images do on the other.

    Args:
        weight: float32 `[groups, out, fan-in]`, to which the ridge draws.
        hessians: second moments of the inputs for each half, `[groups, fan-in, fan-in]`.
        targets: second moments of wanted outputs and inputs for each half, `[groups, out, fan-in]`.

    Returns:
        The ridge for both halves together, in units of the mean variance of the inputs: half of what suits each, since
        what the ridge keeps in bounds, the noise of the moments, is half.
    """
    diagonals = [isotropic(hessian) for hessian in hessians]

    @cache
    def error(i: int) -> float:
        found = 0.0
        for mine, other in ((0, 1), (1, 0)):
            factor = torch.linalg.cholesky(hessians[mine] + _RIDGES[i] * diagonals[mine])
            wanted = targets[mine] + _RIDGES[i] * weight * diagonals[mine][:, :1, :1]
            solved = torch.cholesky_solve(wanted.transpose(1, 2), factor).transpose(1, 2)
            found += float(((solved @ hessians[other] - 2 * targets[other]) * solved).sum())
        return found

    # The error falls up to some ridge and rises behind it, so half of them need not be tried.
    best = len(_RIDGES) // 2
    for step in (4, 2, 1):
        best = min((i for i in (best - step, best, best + step) if 0 <= i < len(_RIDGES)), key=error)
    return _RIDGES[best] / 2


def _quantize_layer(
    network: Network, node: Node, halves: tuple[_Half, _Half], width: BitWidth, steps: Steps
) -> QuantLayer:
    weight, bias = network.weight_and_bias(node.name)
    grouped = by_group(weight, int(node.attrs.get("groups", 1)))
    seen = [half for half in halves if half.own.rows]
    shares = [half.own.rows / sum(half.own.rows for half in seen) for half in seen]

    def together(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)

    hessians, targets = [half.own.covariance() for half in seen], [half.target.covariance() for half in seen]
    ridge = chosen_ridge(grouped, hessians, targets) if len(seen) == _HALVES else _RIDGES[-1]
    hessian = together(hessians)
    diagonal = isotropic(hessian)
    wanted = together(targets) + ridge * grouped * diagonal[:, :1, :1]
    corrected = torch.linalg.solve(hessian + ridge * diagonal, wanted.transpose(1, 2)).transpose(1, 2)
    output, patch = (together([half.target.means()[k] for half in seen]) for k in (0, 1))

    def centred(weights: Tensor) -> Float:
        """The bias with which weights make what the layer should make, on average."""
        return np.asarray((bias + (output - (weights @ patch[:, :, None])[:, :, 0]).reshape(-1)).numpy())

    spread = sqrt(float(hessian.diagonal(dim1=1, dim2=2).sum(1).max()))
    least = torch.from_numpy(least_scales(centred(corrected), steps, weight[0].numel(), spread))
    start = torch.from_numpy(starting_scales(corrected.reshape(len(weight), -1).numpy(), width))
    hessian += DAMPING * diagonal
    start, least = (scales.reshape(grouped.shape[:2]) for scales in (start, least))
    index, scales = best_rounding(corrected, hessian, start, width, least)
    scale = scales.reshape(-1).numpy()
    quantized = QuantTensor(index.to(torch.uint8).numpy(), tuple(weight.shape), scale, width)
    rounded = torch.from_numpy(quantized.dequantize()).reshape(grouped.shape)
    return QuantLayer(quantized, stored_bias(centred(rounded), scale, steps))


def tensors_of_layer(layer: QuantLayer) -> dict[str, Tensor]:
    """A layer as the tensors `packed`, `scale` and `bias`."""
    arrays = {"packed": layer.weight.data, "scale": layer.weight.scale, "bias": layer.bias}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def layer_of_tensors(tensors: Mapping[str, Tensor], shape: tuple[int, ...], width: BitWidth) -> QuantLayer:
    """Inverse of `tensors_of_layer`; `shape` is that of the weights."""
    packed, scale, bias = (tensors[name].numpy() for name in ("packed", "scale", "bias"))
    return QuantLayer(QuantTensor(packed, shape, scale, width), bias)
