"""The best width of every layer under a budget, found exactly, with the whole front of size against sensitivity.

One layer is added after the other. Of all ways to choose the widths of the layers so far, those are kept that no other
beats in both cost and sensitivity: whatever the later layers take, an optimum is made of such ways only (Nemhauser and
Ullmann, Management Science 15, 1969, doi:10.1287/mnsc.15.9.494). Costs are integers and never rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.artifacts.record import CalibrationRecord
from edgeq.numerics.weights import WIDTHS
from edgeq.planning.budget import Budget, allowed_divergence
from edgeq.planning.cost import bitops, codebook_bytes, stored_bytes

MAX_STATES: Final = 1 << 20
"""Ways kept after each layer. MobileNetV2 needs about 7 thousand, 160 layers of random sizes some 600 thousand."""

_BITS: Final = tuple(width.bits for width in WIDTHS)


@dataclass(frozen=True)
class Front:
    """All choices that no other beats in both cost and sensitivity.

    Attributes:
        costs: int64 `[n]`, increasing.
        sensitivities: float64 `[n]`, decreasing.
        steps: for each layer, int32 `[m]`: `choice * states before + state before` of each state after it.
    """

    costs: NDArray[np.int64]
    sensitivities: NDArray[np.float64]
    steps: tuple[NDArray[np.int32], ...]

    def choices(self, state: int) -> list[int]:
        """The column chosen for each layer on the way to a state."""
        found = []
        states_before = [1, *map(len, self.steps)][:-1]
        for step, before in zip(reversed(self.steps), reversed(states_before), strict=True):
            choice, state = divmod(int(step[state]), before)
            found.append(choice)
        return found[::-1]


def pareto_front(costs: NDArray[np.int64], sensitivities: NDArray[np.float64], max_states: int = MAX_STATES) -> Front:
    """Front of the sums over layers, one option of each taken.

    Args:
        costs: int64 `[layers, options]`.
        sensitivities: float64 `[layers, options]`, not negative.
        max_states: where more ways than that are left after a layer, the range of their sensitivities is cut into that
            many equal steps and the cheapest way of each kept. In place of a way that is lost stands one that costs no
            more and has at most 1 / `max_states` of the largest possible sensitivity more; `layers` times that bounds
            the error.
    """
    cost, sensitivity = np.zeros(1, np.int64), np.zeros(1)
    steps = []
    for layer_costs, layer_sensitivities in zip(costs, sensitivities, strict=True):
        all_costs = (layer_costs[:, None] + cost).ravel()
        all_sensitivities = (layer_sensitivities[:, None] + sensitivity).ravel()
        kept = _unbeaten(all_costs, all_sensitivities)
        if len(kept) > max_states:
            kept = kept[_first_of_each_step(all_sensitivities[kept], max_states)]
        cost, sensitivity = all_costs[kept], all_sensitivities[kept]
        steps.append(kept.astype(np.int32))
    return Front(cost, sensitivity, tuple(steps))


def _unbeaten(costs: NDArray[np.int64], sensitivities: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the points that no other beats, by increasing cost."""
    order = np.argsort(costs, kind="stable")  # a merge: each option's points are sorted already
    lowest = np.minimum.accumulate(sensitivities[order])
    front = order[np.append(True, lowest[1:] < lowest[:-1])]
    last = np.append(costs[front[1:]] > costs[front[:-1]], True)  # of equal costs, which has the least sensitivity
    return np.asarray(front[last], np.intp)


def _first_of_each_step(sensitivities: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Indices of the first, which is the cheapest, in each of `count` equal steps of decreasing sensitivities."""
    high, low = sensitivities[0], sensitivities[-1]
    step = np.minimum((high - sensitivities) / (high - low) * count, count - 1).astype(np.int64)
    return np.flatnonzero(np.append(True, step[1:] > step[:-1]))


def allocate(record: CalibrationRecord, act_bits: int, budget: Budget) -> tuple[dict[str, int], bool]:
    """Choose the widths of the least sensitivity within a budget or, where it limits the drop, make the smallest file.

    Returns:
        The width of each layer by name, and whether the budget is met. If it cannot be, the widths come as close to it
        as any do.
    """
    limit = allowed_divergence(record, budget.limit) if budget.kind == "drop" else budget.limit
    found = []
    for widths in _sets_of_widths(budget):
        front, fixed = _front(record, act_bits, budget, widths)
        costs = front.costs + fixed
        if budget.kind == "drop":
            state = min(int(np.count_nonzero(front.sensitivities > limit)), len(costs) - 1)
            missed = bool(front.sensitivities[state] > limit)
        else:
            state = max(int(np.searchsorted(costs, limit, side="right")) - 1, 0)
            missed = bool(costs[state] > limit)
        pair = int(costs[state]), float(front.sensitivities[state])
        by_cost = missed != (budget.kind == "drop")  # what is to be least comes first
        found.append((missed, pair if by_cost else pair[::-1], [widths[i] for i in front.choices(state)]))
    missed, _, bits = min(found)
    return {layer.name: width for layer, width in zip(record.layers, bits, strict=True)}, not missed


def _sets_of_widths(budget: Budget) -> Iterator[Sequence[int]]:
    """8 bits and some of the widths that take a codebook in the file; all of them where bytes do not matter."""
    packed = [bits for bits in _BITS if bits < 8]
    for count in range(len(packed) + 1) if budget.kind != "bitops" else [len(packed)]:
        for chosen in combinations(packed, count):
            yield (8, *chosen)


def _front(record: CalibrationRecord, act_bits: int, budget: Budget, widths: Sequence[int]) -> tuple[Front, int]:
    """The front of some widths, and what the network costs beside its layers."""
    if budget.kind == "bitops":
        fixed, costs = 0, [[bitops(layer, bits, act_bits) for bits in widths] for layer in record.layers]
    else:
        fixed = record.graph_bytes + codebook_bytes(widths)
        costs = [[stored_bytes(record, layer, bits) for bits in widths] for layer in record.layers]
    sensitivities = [[layer.sensitivity[bits] for bits in widths] for layer in record.layers]
    return pareto_front(np.array(costs, np.int64), np.array(sensitivities, np.float64)), fixed
