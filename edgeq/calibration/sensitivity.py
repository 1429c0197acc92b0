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
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.ir.batches import as_input
from edgeq.ir.network import Network, as_tensor, rounded_layer
from edgeq.ir.ops.registry import OPS
from edgeq.numerics.weights import WIDTHS, BitWidth, QuantLayer, packed_bytes
from edgeq.planning.allocate import pareto_front
from edgeq.system.threads import side_by_side

Widths = Mapping[str, Mapping[int, QuantLayer]]
"""Every layer, rounded to every width: `[name][bits]`."""

_TOGETHER: Final = 4  # images whose gradients are held at a time, so that weights are decoded once for all of them
_BATCH: Final = 8  # the fastest batch size on CPUs
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
    widths: Widths,
    images: NDArray[np.float32],
    generator: torch.Generator,
    done: Callable[[int], None] = lambda images: None,
) -> dict[str, dict[int, float]]:
    """Estimate the sensitivity of each layer at each width.

    Args:
        network: the float network.
        widths: its layers, rounded to every width.
        images: float32 `[n, *input_shape]`.
        generator: generator of the random signs, on the CPU.
        done: called with the number of images just finished.

    Returns:
        `[name][bits]`: estimated mean KL divergence, in nats, of the class probabilities from the float network's when
        only this layer is rounded. Not negative.
    """
    network = copy.deepcopy(network).requires_grad_()
    shape = (1, *network.answer_shape())
    totals = {name: dict.fromkeys(found, 0.0) for name, found in widths.items()}
    for start in range(0, len(images), _TOGETHER):
        together = images[start : start + _TOGETHER]
        drawn = ((image, random_signs(shape, generator)) for image in together)
        gradients = list(side_by_side(lambda found: _gradients(network, list(widths), *found), drawn))
        for i, (name, found) in enumerate(widths.items()):
            weights, biases = (torch.stack([gradient[2 * i + k] for gradient in gradients]) for k in (0, 1))
            for bits, layer in found.items():
                change = _change(network, name, layer)
                moved = torch.mv(weights, change[0]) + torch.mv(biases, change[1])
                totals[name][bits] += float(moved.double().square().sum()) / 2
        done(len(together))
    return {name: {bits: total / len(images) for bits, total in found.items()} for name, found in totals.items()}


def _gradients(network: Network, names: list[str], image: NDArray[np.float32], signs: Tensor) -> list[Tensor]:
    """Return the gradients of `v' answers` for one image, flat: by weights and bias of each layer in turn."""
    parameters = [p for name in names for p in _parameters(network, name)]
    answers = network.answers(as_input(network, image[None]))
    v = network.task.random_direction(answers.detach(), signs.to(answers))
    # A layer whose output reaches no answer has a gradient of zero.
    found = torch.autograd.grad(answers, parameters, v, materialize_grads=True)
    return [gradient.reshape(-1) for gradient in found]


def random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw random 1 and -1, int64 on the CPU."""
    return torch.randint(0, 2, shape, generator=generator) * 2 - 1


def _parameters(network: Network, name: str) -> tuple[Tensor, Tensor]:
    layer = cast(nn.Conv2d | nn.Linear, network.layer(name))
    return layer.weight, cast(Tensor, layer.bias)


def _change(network: Network, name: str, layer: QuantLayer) -> tuple[Tensor, Tensor]:
    """Return the change of weights and bias by rounding, flat."""
    weight, bias = network.weight_and_bias(name)
    rounded = torch.from_numpy(layer.weight.dequantize()), as_tensor(layer.bias)
    return (rounded[0].to(weight) - weight).reshape(-1), rounded[1].to(bias) - bias


def drops(
    network: Network,
    widths: Widths,
    sensitivity: Mapping[str, Mapping[int, float]],
    images: NDArray[np.float32],
    done: Callable[[int], None] = lambda images: None,
) -> tuple[tuple[float, float], ...]:
    """Estimate the loss of accuracy of mixed plans, from mostly 8 bits to mostly 2 bits, by their sensitivity.

    There are no labels, so the loss of accuracy is estimated as the mean of `p(float answer) - p(rounded answer)`, with
    the probabilities `p` of the float network; it is unbiased if these are calibrated. Activations are float, and each
    layer is rounded by itself: an export fits the layers to each other and loses less.

    Args:
        network: the float network.
        widths: its layers, rounded to every width.
        sensitivity: from `sensitivities`.
        images: float32 `[n, *input_shape]`.
        done: called after each plan with the number of images.

    Returns:
        Pairs of summed sensitivity in nats and loss of top-1 in percentage points, from `(0, 0)` on. The former
        increases strictly, the latter never decreases.
    """
    batches = [as_input(network, images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    with torch.inference_mode():
        trusted = list(side_by_side(lambda x: network.task.trust(network.answers(x)), batches))
        found = []
        for plan in mixed_plans(widths, sensitivity):
            rounded = rounded_network(network, {name: widths[name][bits] for name, bits in plan.items()})
            lost = _losses(rounded, batches, trusted)
            found.append(
                (sum(sensitivity[name][bits] for name, bits in plan.items()), 100 * float(torch.cat(lost).mean()))
            )
            done(len(images))
    points = [(0.0, 0.0)]
    for predicted, drop in sorted(found):
        if predicted > points[-1][0]:
            points.append((predicted, max(drop, points[-1][1])))
    return tuple(points)


def _losses(rounded: Network, batches: Sequence[Tensor], trusted: Sequence[Tensor]) -> list[Tensor]:
    pairs = zip(trusted, batches, strict=True)
    return list(side_by_side(lambda pair: rounded.task.loss(pair[0], rounded.answers(pair[1])), pairs))


def mixed_plans(widths: Widths, sensitivity: Mapping[str, Mapping[int, float]]) -> list[dict[str, int]]:
    """Return up to `PLANS` Pareto-optimal plans in bytes and sensitivity, from mostly 8 bits to mostly 2 bits.

    Each plan, as bits by layer name, has about three times the sensitivity of the one before.
    """
    bits = [width.bits for width in WIDTHS]
    sizes = [[packed_bytes(layer[b].weight.shape, BitWidth(b)) for b in bits] for layer in widths.values()]
    front = pareto_front(np.array(sizes, np.int64), np.array([[sensitivity[name][b] for b in bits] for name in widths]))
    rising = front.sensitivities[::-1]
    wanted = rising[-1] * 3.0 ** np.arange(1 - PLANS, 1)
    found = np.searchsorted(rising, np.minimum(wanted, rising[-1]))
    return [
        {name: bits[choice] for name, choice in zip(widths, front.choices(len(rising) - 1 - place), strict=True)}
        for place in np.unique(found)
    ]
