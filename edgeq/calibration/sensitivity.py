"""The sensitivity of each layer to rounding its weights, and the accuracy that it costs.

If only the weights of one layer change, by `w`, the answers diverge by half the mean of `<g, w>^2`, up to higher
orders, where `g` is the gradient of the answers in a random direction whose covariance is the Hessian of the divergence
(`edgeq.tasks`; for classifiers the Fisher information of the logits). One backward pass for each image serves all
layers and all widths. FIT (arXiv:2210.08502) also measures sensitivity to quantization by a Fisher information.

`benchmarks/sensitivity.py` measures how well sums of sensitivities predict the divergence of mixed plans. Records and
plans call a sensitivity `damage`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgeq.ir.batches import Images
from edgeq.ir.network import Network, as_tensor, rounded_layer
from edgeq.ir.ops.registry import OPS
from edgeq.numerics.weights import WIDTHS, BitWidth, QuantLayer, packed_bytes
from edgeq.planning.allocate import pareto_front
from edgeq.rounding.layer import ROUNDED
from edgeq.system.threads import side_by_side
from edgeq.tasks.outputs import Answers, Tasks

Widths = Mapping[str, Mapping[float, QuantLayer]]
"""Every layer, rounded to the widths `edgeq.rounding.layer.ROUNDED`: `[name][bits]`."""

_TOGETHER: Final = 4  # images whose gradients are held at a time, so that weights are decoded once for all of them
_BATCH: Final = 2  # whose maps stay in a CPU's cache
PLANS: Final = 8
"""Most plans that `mixed_plans` returns."""


def rounded_network(network: Network, layers: Mapping[str, QuantLayer]) -> Network:
    """Return a float network with these rounded weights, by layer, and float activations."""
    device = next(network.parameters()).device
    made: dict[str, nn.Module] = {}
    for node in network.graph.nodes:
        if node.name in layers:
            made[node.name] = rounded_layer(node, layers[node.name]).to(device)
        elif OPS[node.op].has_module:
            made[node.name] = network.layer(node.name)
    return Network(network.graph, made).eval()


def sensitivities(
    network: Network,
    tasks: Tasks,
    widths: Widths,
    images: Images,
    generator: torch.Generator,
    done: Callable[[int], None] = lambda images: None,
) -> dict[str, dict[float, float]]:
    """Estimate the sensitivity of each layer at the widths that it is rounded to.

    Args:
        network: the float network.
        tasks: of its outputs.
        widths: its layers, rounded.
        images: its inputs for some images.
        generator: generator of the random signs, on the CPU.
        done: called with the number of images just finished.

    Returns:
        `[name][bits]`: estimated mean divergence of the answers from the float network's when only this layer is
        rounded; of class probabilities in nats. Not negative.
    """
    network = copy.deepcopy(network).requires_grad_()
    shapes = answer_shapes(network, tasks)
    totals = {name: dict.fromkeys(found, 0.0) for name, found in widths.items()}
    for start in range(0, len(images), _TOGETHER):
        together = images[start : start + _TOGETHER]
        drawn = ((image, random_signs(shapes, generator)) for image in together)
        gradients = list(side_by_side(lambda found: _gradients(network, tasks, list(widths), *found), drawn))
        moved = side_by_side(partial(_moved, network, gradients), enumerate(widths.items()))
        for (name, _), found in zip(widths.items(), moved, strict=True):
            for bits, power in found.items():
                totals[name][bits] += power / 2
        done(len(together))
    return {name: {bits: total / len(images) for bits, total in found.items()} for name, found in totals.items()}


def at_every_width(sensitivity: Mapping[float, float]) -> dict[float, float]:
    """Return the sensitivity of a layer at every width.

    Between those of `ROUNDED`, its logarithm is linear in the bits that a weight takes, as that of the noise of the
    codes is: 6 dB a bit, within 0.15 dB.
    """
    found, known = {}, [width.bits for width in ROUNDED]
    for width in WIDTHS:
        stored = 8 / width.per_byte
        above = min(bits for bits in known if bits >= stored)
        below = max(bits for bits in known if bits <= stored)
        share = (stored - below) / (above - below) if above > below else 0.0
        found[width.bits] = sensitivity[below] ** (1 - share) * sensitivity[above] ** share
    return found


def _moved(
    network: Network, gradients: Sequence[Sequence[Tensor]], of: tuple[int, tuple[str, Mapping[float, QuantLayer]]]
) -> dict[float, float]:
    """Return the squares of `<g, w>` for a layer, by bits, summed over images; `of` is its number, name and widths."""
    i, (name, found) = of
    weights, biases = (torch.stack([gradient[2 * i + k] for gradient in gradients]) for k in (0, 1))
    powers: dict[float, float] = {}
    for bits, layer in found.items():
        change = _change(network, name, layer)
        moved = torch.mv(weights, change[0]) + torch.mv(biases, change[1])
        powers[bits] = float(moved.double().square().sum())
    return powers


def _gradients(network: Network, tasks: Tasks, names: list[str], image: Images, signs: Answers) -> list[Tensor]:
    """Return the gradients of `v' answers` for one image, flat: by weights and bias of each layer in turn."""
    parameters = [p for name in names for p in _parameters(network, name)]
    answers = tasks.answers(network.answers(image.tensors(network)))
    v = tasks.random_direction(detached(answers), like(answers, signs))
    return [gradient.reshape(-1) for gradient in joint_gradients(answers, parameters, v)]


def joint_gradients(answers: Answers, values: Sequence[Tensor], v: Answers) -> tuple[Tensor, ...]:
    """Return the gradients of `v' answers` by some values; that of a value that reaches no answer is zero.

    What autograd needs for that is kept, so that it can be called again.
    """
    smooth = [pair for pair in zip(answers, v, strict=True) if pair[0].requires_grad]
    if not smooth:
        return tuple(torch.zeros_like(value) for value in values)
    outputs, directions = zip(*smooth, strict=True)
    return torch.autograd.grad(outputs, list(values), directions, retain_graph=True, materialize_grads=True)


def detached(answers: Answers) -> Answers:
    """Return answers that no gradient flows through."""
    return tuple(answer.detach() for answer in answers)


def like(answers: Answers, signs: Answers) -> Answers:
    """Return signs in the type of the answers, where these are."""
    return tuple(sign.to(answer) for sign, answer in zip(signs, answers, strict=True))


def answer_shapes(network: Network, tasks: Tasks) -> list[tuple[int, ...]]:
    """Return the shapes of the answers for one image, `[1, ...]` each."""
    shapes = network.graph.shapes()
    return [(1, *shape) for shape in tasks.shapes([shapes[name] for name in network.graph.answers])]


def random_signs(shapes: Sequence[tuple[int, ...]], generator: torch.Generator) -> Answers:
    """Draw random 1 and -1 of each shape, int64 on the CPU."""
    return tuple(torch.randint(0, 2, shape, generator=generator) * 2 - 1 for shape in shapes)


def _parameters(network: Network, name: str) -> tuple[Tensor, Tensor]:
    layer = network.convolution(name)
    return layer.weight, cast(Tensor, layer.bias)


def _change(network: Network, name: str, layer: QuantLayer) -> tuple[Tensor, Tensor]:
    """Return the change of weights and bias by rounding, flat."""
    weight, bias = network.weight_and_bias(name)
    rounded = torch.from_numpy(layer.weight.dequantize()), as_tensor(layer.bias)
    return (rounded[0].to(weight) - weight).reshape(-1), rounded[1].to(bias) - bias


def drops(
    network: Network,
    tasks: Tasks,
    widths: Widths,
    sensitivity: Mapping[str, Mapping[float, float]],
    images: Images,
    done: Callable[[int], None] = lambda images: None,
) -> tuple[tuple[float, float], ...]:
    """Estimate the loss of accuracy of mixed plans, from mostly 8 bits to mostly 1 bit, by their sensitivity.

    There are no labels. So the loss of accuracy of a classifier is estimated as the mean of `p(float answer) -
    p(rounded answer)`, with the probabilities `p` of the float network; it is unbiased if these are calibrated. That of
    other outputs is the share of their variation that is lost (`edgeq.tasks`). Activations are float, and each
    layer is rounded by itself: an export fits the layers to each other and loses less.

    Args:
        network: the float network.
        tasks: of its outputs.
        widths: its layers, rounded.
        sensitivity: from `sensitivities`.
        images: its inputs for some images.
        done: called after each plan with the number of images.

    Returns:
        Pairs of summed sensitivity in nats and loss of accuracy in percentage points, from `(0, 0)` on. The former
        increases strictly, the latter never decreases.
    """
    batches = [images[i : i + _BATCH].tensors(network) for i in range(0, len(images), _BATCH)]

    def answers(of: Network, inputs: Sequence[Tensor]) -> Answers:
        return tasks.answers(of.answers(inputs))

    with torch.inference_mode():
        trusted = list(side_by_side(lambda inputs: tasks.trust(answers(network, inputs)), batches))
        found = []
        for plan in mixed_plans(widths, sensitivity):
            rounded = rounded_network(network, {name: widths[name][bits] for name, bits in plan.items()})
            judged = partial(_loss, tasks, partial(answers, rounded))
            lost = list(side_by_side(judged, zip(trusted, batches, strict=True)))
            found.append(
                (sum(sensitivity[name][bits] for name, bits in plan.items()), 100 * float(torch.cat(lost).mean()))
            )
            done(len(images))
    points = [(0.0, 0.0)]
    for predicted, drop in sorted(found):
        if predicted > points[-1][0]:
            points.append((predicted, max(drop, points[-1][1])))
    return tuple(points)


def _loss(tasks: Tasks, answers: Callable[[Sequence[Tensor]], Answers], of: tuple[Answers, Sequence[Tensor]]) -> Tensor:
    trusted, inputs = of
    return tasks.loss(trusted, answers(inputs))


def mixed_plans(widths: Widths, sensitivity: Mapping[str, Mapping[float, float]]) -> list[dict[str, float]]:
    """Return up to `PLANS` Pareto-optimal plans in bytes and sensitivity, from mostly 8 bits to mostly 1 bit.

    Each plan, as bits by layer name, has about three times the sensitivity of the one before.
    """
    bits = [width.bits for width in ROUNDED]
    sizes = [[packed_bytes(layer[b].weight.shape, BitWidth(b)) for b in bits] for layer in widths.values()]
    front = pareto_front(np.array(sizes, np.int64), np.array([[sensitivity[name][b] for b in bits] for name in widths]))
    rising = front.sensitivities[::-1]
    wanted = rising[-1] * 3.0 ** np.arange(1 - PLANS, 1)
    found = np.searchsorted(rising, np.minimum(wanted, rising[-1]))
    return [
        {name: bits[choice] for name, choice in zip(widths, front.choices(len(rising) - 1 - place), strict=True)}
        for place in np.unique(found)
    ]
