"""Choose the range of every activation by how clipping and rounding it change the answers of the network.

A narrow range clips the largest values, a wide one has large steps. Which is worse depends on the network: outliers of
some maps decide the answer, those of others do not matter. As for weights (`edgeq.calibration.sensitivity`), an error
`e` of an activation causes a divergence of half the mean of `<g, e>^2`, where `g` is the gradient of the answers in a
random direction. For clipped values, `e` is known exactly. Rounding errors are assumed to be independent, with a
variance of a twelfth of the squared step; zeros have no error.

Clipped values often occur in few images, so the mean over images does not average out the randomness of the direction.
Each image therefore gets two directions, chosen to cancel each other's variance (`Task.random_directions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log10, prod
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.calibration.observers import Histogram
from edgeq.calibration.sensitivity import answer_shapes, detached, joint_gradients, like, random_signs
from edgeq.errors import UnsupportedError
from edgeq.ir.analysis import never_clipped, quantizer_groups
from edgeq.ir.batches import Images
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network
from edgeq.ir.ops.registry import OPS
from edgeq.numerics.activations import LEVELS, ActivationRange
from edgeq.system.threads import side_by_side
from edgeq.tasks.outputs import Answers, Tasks
from edgeq.tasks.regression import Spread

RangeChoice = Literal["damage", "minmax", "percentile", "mse"]
"""How to choose ranges: by `least_divergence`, or from a histogram by `edgeq.calibration.observers.choose_range`."""

_SHARES: Final = 2.0 ** -np.arange(0, 4.25, 0.25)  # candidates for the ends of a range, as shares of the extremes
_LEAST_RATIO: Final = 10.0  # of a channel's standard deviation to that of rounding: 20 dB
_ROUNDING: Final = 1 / 12  # variance of a rounding error, in squared steps, where nothing is special
_HALVES: Final = 1.5  # times as much, and values lie halfway between steps; up to three times is possible
_WIDER: Final = 8  # 255ths by which a range may be widened for that
_FINEST: Final = 128  # most steps of an average of `n` values within `input step / n`; kernels allow less than 256


def least_divergence(
    network: Network,
    tasks: Tasks,
    histograms: Mapping[str, Histogram],
    images: Images,
    generator: torch.Generator,
    done: Callable[[int], None] = lambda images: None,
) -> dict[str, ActivationRange]:
    """Choose the range of every value that gets a quantizer and may be clipped (`edgeq.ir.analysis.never_clipped`).

    Args:
        network: the float network.
        tasks: of its outputs.
        histograms: histograms of these values, by name, for their extremes.
        images: its inputs for some images.
        generator: generator of the random directions, on the CPU.
        done: called with the number of images just finished.

    Returns:
        The range of each value by name; values that share a quantizer have the same range.

    Raises:
        UnsupportedError: gradients overflow float32.
    """
    whole = never_clipped(network.graph)
    groups = [group for group in quantizer_groups(network.graph) if whole.isdisjoint(group)]
    ends = [
        (min(histograms[name].low for name in group), max(histograms[name].high for name in group)) for group in groups
    ]
    found = [_Divergence(low, high) for low, high in ends]
    inputs = {node.name: {*node.inputs} for node in network.graph.nodes if OPS[node.op].same_scale}
    own = [  # a value that an op only rearranges has no error of its own, unless its inputs have another scale
        [name for name in group if name not in inputs or not inputs[name] <= {*group}] for group in groups
    ]

    def clipped(drawn: tuple[Images, Sequence[Answers]]) -> list[_Clipping]:
        values = _gradients(network, tasks, *drawn)
        with np.errstate(over="ignore", invalid="ignore"):
            return [
                sensitivity.of([values[name] for name in names]) for names, sensitivity in zip(own, found, strict=True)
            ]

    shapes = answer_shapes(network, tasks)
    drawn = ((image, [random_signs(shapes, generator) for _ in range(2)]) for image in images)
    for of_image in side_by_side(clipped, drawn):
        for sensitivity, clipping in zip(found, of_image, strict=True):
            sensitivity.add(clipping)
        done(1)
    for group, sensitivity in zip(groups, found, strict=True):
        if not np.isfinite(sensitivity.clipping.sum() + sensitivity.power):
            raise UnsupportedError(
                f"layer {group[0]}: how the answers depend on its output is beyond float32; look at the weights behind"
            )
    return {name: sensitivity.best() for group, sensitivity in zip(groups, found, strict=True) for name in group}


def off_halves(graph: Graph, images: Images, ranges: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
    """Widen the ranges of inputs whose values lie halfway between the steps.

    Pixels that are normalized to -1..1 do so, by the range that fits them: each is off by half a step, which leaves 7
    bits of 8. By a range that is a 255th wider, errors are those of any numbers, a third of that variance.

    Args:
        graph: of the float network.
        images: its inputs for some images.
        ranges: of every value that gets a quantizer, by name.

    Returns:
        The ranges of all values.
    """
    found, alone = dict(ranges), {group[0] for group in quantizer_groups(graph) if len(group) == 1}
    for one, values in zip(graph.inputs, images.arrays, strict=True):
        if one.value in alone:
            given = ranges[one.value]
            if _rounded_off(values, given) > _HALVES * _ROUNDING * given.scale**2:
                ends = ((1 + wider / LEVELS) * np.array([given.low, given.high]) for wider in range(1, _WIDER + 1))
                wider = [ActivationRange.covering(*map(float, pair)) for pair in ends]
                found[one.value] = min((given, *wider), key=lambda candidate: _rounded_off(values, candidate))
    return found


def _rounded_off(values: NDArray[np.float32], by: ActivationRange) -> float:
    """The mean square of what rounding changes, of values within a range."""
    steps = values[(values >= by.low) & (values <= by.high)] / np.float32(by.scale)
    return float(np.square(steps - np.rint(steps)).mean(dtype=np.float64)) * by.scale**2 if steps.size else 0.0


def resolvable(graph: Graph, ranges: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
    """Widen the ranges of averages whose steps are finer than an average of quantized values can resolve.

    The average of `n` quantized values is a multiple of `step / n`. An average with a range far below that is 0 except
    for rounding errors, such as the mean of a normalized map. Kernels refuse such scales.

    Args:
        graph: graph of the float network.
        ranges: range of every value that gets a quantizer, by name.

    Returns:
        The ranges of all values; values that share a quantizer still have the same range.
    """
    found, shapes = dict(ranges), graph.shapes()
    groups = {name: group for group in quantizer_groups(graph) for name in group}
    for node in graph.nodes:
        (source, *_), name = node.inputs, node.name
        if OPS[node.op].averaging and {source, name} <= groups.keys():
            least = found[source].scale / prod(shapes[source][1:]) / _FINEST
            if found[name].scale < least:
                found |= dict.fromkeys(groups[name], ActivationRange.covering(0.0, 255 * least))
    return found


def of_many_ranges(
    graph: Graph, spreads: Mapping[str, Spread], ranges: Mapping[str, ActivationRange]
) -> dict[str, str]:
    """Find the inputs and the values of last layers that one scale is too coarse for, in one of their channels.

    Rounding to the steps of the widest channel would be most of what is left of a narrow one: coordinates of 0..640 and
    scores of 0..1 are an example, and so is a channel that varies little around a large number.

    Args:
        graph: of the float network.
        spreads: of the channels of each of these values, by name.
        ranges: of these values.

    Returns:
        By name, why such a value is kept in float, and all that share its scale.
    """
    found: dict[str, str] = {}
    groups = {name: group for group in quantizer_groups(graph) for name in group}
    for name, spread in ((name, spread) for name, spread in spreads.items() if name in ranges):
        noise = ranges[name].scale / 12**0.5
        varying = [deviation for deviation in spread.deviations() if deviation]
        if varying and min(varying) < _LEAST_RATIO * noise:
            left = 20 * log10(min(varying) / noise)
            found |= dict.fromkeys(groups[name], f"8 bits would leave {left:.0f} dB of one of its channels")
    return found


_Flat = NDArray[np.float32]


def _gradients(
    network: Network, tasks: Tasks, image: Images, drawn: Sequence[Answers]
) -> dict[str, tuple[_Flat, list[_Flat]]]:
    """Return all values of the network for one image, and for each of two directions `v` the gradients of `v' answers`.

    Values and gradients are flat arrays, by the name of the node.
    """
    graph = network.graph
    values = {name: x.requires_grad_() for name, x in zip(graph.input_values, image.tensors(network), strict=True)}
    behind = graph.behind_answers()
    for node in graph.nodes:
        if node not in behind:
            values[node.name] = network.run(node, [values[name] for name in node.inputs])
    answers = tasks.answers([values[name] for name in graph.answers])
    smooth = {name: value for name, value in values.items() if value.requires_grad}  # not the outputs of comparisons
    directions = tasks.random_directions(detached(answers), *(like(answers, signs) for signs in drawn))
    gradients = [dict(zip(smooth, joint_gradients(answers, [*smooth.values()], v), strict=True)) for v in directions]
    return {
        name: (_flat(x), [_flat(of.get(name, torch.zeros_like(x))) for of in gradients]) for name, x in values.items()
    }


def _flat(x: Tensor) -> _Flat:
    """Flatten in memory order, without a copy: the order of the values does not matter here."""
    x = x.detach().cpu()
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(-1).numpy()


_Clipping = tuple[NDArray[np.float64], float]
"""Summed over some gradients: `<g, e>^2 / 2` of clipping for each pair of ends, and the squared norm of the gradient
where values are rounded."""


class _Divergence:
    """The divergence that each pair of ends of a range causes, for values between `low` and `high`."""

    def __init__(self, low: float, high: float) -> None:
        self.lows, self.highs = min(low, 0.0) * _SHARES, max(high, 0.0) * _SHARES
        self.power = 0.0
        # `<g, e>^2 / 2` of clipping for each pair of ends, summed over the gradients.
        self.clipping = np.zeros((len(_SHARES), len(_SHARES)))

    def of(self, found: Sequence[tuple[_Flat, list[_Flat]]]) -> _Clipping:
        """Evaluate the gradients of one image: pairs of a value and its gradients, for values that share a range."""
        # Most maps come from a ReLU and have no negative values, so clipping from below is skipped.
        below = above = np.zeros((1, len(_SHARES)))
        if self.lows[0] < 0:
            below = sum((_clipped(-x, [-g for g in gradients], -self.lows) for x, gradients in found), below)
        if self.highs[0] > 0:
            above = sum((_clipped(x, gradients, self.highs) for x, gradients in found), above)
        power = sum(float(np.square(g * rounded).sum()) for x, gs in found for rounded in [x != 0] for g in gs)
        return np.square(below[:, :, None] + above[:, None]).sum(0) / 2, power

    def add(self, found: _Clipping) -> None:
        """Add the result of `of`."""
        clipping, power = found
        self.clipping += clipping
        self.power += power

    def best(self) -> ActivationRange:
        """Return the range with the least divergence."""
        step = np.subtract.outer(self.highs, self.lows).T / 255
        total = self.clipping + self.power * step**2 / 24
        low, high = np.unravel_index(total.argmin(), total.shape)
        return ActivationRange.covering(float(self.lows[low]), float(self.highs[high]))


def _clipped(x: _Flat, gradients: Sequence[_Flat], ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `<g, e>` of clipping values from above at some positive, decreasing ends, float64 `[gradients, ends]`."""
    found = np.zeros((len(gradients), len(ends)))
    for i, end in reversed(list(enumerate(ends))):
        beyond = np.flatnonzero(x > end)
        x, gradients = x[beyond], [gradient[beyond] for gradient in gradients]
        found[:, i] = [end * gradient.sum() - x @ gradient for gradient in gradients]
    return found
