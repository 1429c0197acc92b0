"""The best width of every layer under a budget: an exact multiple-choice knapsack, by its whole Pareto front.

Layers are added one by one. Of all partial plans (widths of the layers so far), only those are kept that no other beats
in both cost and sensitivity: whatever widths later layers get, an optimal plan extends one of these (Nemhauser and
Ullmann, Management Science 15, 1969, doi:10.1287/mnsc.15.9.494). Costs are integers and never rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.artifacts.record import CalibrationRecord
from edgeq.numerics.weights import WIDTHS
from edgeq.planning.budget import Budget, allowed_divergence
from edgeq.planning.cost import bitops, stored_bytes, trellis_bytes

MAX_STATES: Final = 1 << 20
"""Most partial plans kept after a layer. MobileNetV2 needs about 13 000, 160 layers of random sizes some 600 000."""

_SLACK: Final = 1 - 1e-9  # of a bound, for the rounding of sums
_BITS: Final = tuple(width.bits for width in WIDTHS)  # 8 first


@dataclass(frozen=True)
class Front:
    """The Pareto front: all plans that no other beats in both cost and sensitivity.

    Attributes:
        costs: cost of each plan, int64 `[n]`, increasing.
        sensitivities: sensitivity of each plan, float64 `[n]`, decreasing.
        steps: for each layer, int32 `[m]`: how each partial plan after it was made from one of the `k` partial plans
            before it, as `option * k + index before`.
    """

    costs: NDArray[np.int64]
    sensitivities: NDArray[np.float64]
    steps: tuple[NDArray[np.int32], ...]

    def choices(self, state: int) -> list[int]:
        """Return the index of the option that a plan, given by its index, takes for each layer."""
        found = []
        states_before = [1, *map(len, self.steps)][:-1]
        for step, before in zip(reversed(self.steps), reversed(states_before), strict=True):
            choice, state = divmod(int(step[state]), before)
            found.append(choice)
        return found[::-1]


def pareto_front(costs: NDArray[np.int64], sensitivities: NDArray[np.float64], max_states: int = MAX_STATES) -> Front:
    """Return the Pareto front of the plans that take one option for each layer, with summed cost and sensitivity.

    Args:
        costs: cost of each option of each layer, int64 `[layers, options]`.
        sensitivities: sensitivity of each option, float64 `[layers, options]`, not negative.
        max_states: if more partial plans than that are left after a layer, the range of their sensitivities is divided
            into that many equal intervals, and only the cheapest of each interval is kept. It costs no more than those
            that are dropped, and its sensitivity is larger by at most 1 / `max_states` of the largest possible one. So
            the error of the front is at most `layers` times that.
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
    """Return the indices of the points on the Pareto front, by increasing cost."""
    order = np.argsort(costs, kind="stable")  # merges runs: the points of each option are sorted already
    lowest = np.minimum.accumulate(sensitivities[order])
    front = order[np.append(True, lowest[1:] < lowest[:-1])]
    last = np.append(costs[front[1:]] > costs[front[:-1]], True)  # of equal costs, the least sensitivity
    return np.asarray(front[last], np.intp)


def _first_of_each_step(sensitivities: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the index of the first (cheapest) point in each of `count` equal intervals of the sensitivities."""
    high, low = sensitivities[0], sensitivities[-1]
    step = np.minimum((high - sensitivities) / (high - low) * count, count - 1).astype(np.int64)
    return np.flatnonzero(np.append(True, step[1:] > step[:-1]))


def allocate(record: CalibrationRecord, act_bits: int, budget: Budget) -> tuple[dict[str, float], bool]:
    """Choose the widths with the least sensitivity within a budget, or the smallest file if the budget limits the drop.

    Each width below 8 bits costs a table, so there is a front for each set of widths. Sets are tried in the order of a
    bound of what their plans reach, up to the first that cannot be better than what has been found.

    Returns:
        The width of each layer by name, and whether the budget is met. If no widths meet it, those that come closest.
    """
    limit = allowed_divergence(record, budget.limit) if budget.kind == "drop" else budget.limit
    sets = list(_sets_of_widths(record, act_bits, budget))
    bounds = [_bound(one, budget, limit) for one in sets]
    found = list[tuple[bool, tuple[float, float], list[float]]]()
    for i in sorted(range(len(sets)), key=bounds.__getitem__):
        if found and (min(found)[0], min(found)[1][0]) < bounds[i]:
            break
        front = pareto_front(sets[i].costs, sets[i].sensitivities)
        costs = front.costs + sets[i].fixed
        if budget.kind == "drop":
            state = min(int(np.count_nonzero(front.sensitivities > limit)), len(costs) - 1)
            missed = bool(front.sensitivities[state] > limit)
        else:
            state = max(int(np.searchsorted(costs, limit, side="right")) - 1, 0)
            missed = bool(costs[state] > limit)
        pair = int(costs[state]), float(front.sensitivities[state])
        by_cost = missed != (budget.kind == "drop")  # `min` compares the first of the pair first
        found.append((missed, pair if by_cost else pair[::-1], [sets[i].widths[k] for k in front.choices(state)]))
    missed, _, bits = min(found)
    return {layer.name: width for layer, width in zip(record.layers, bits, strict=True)}, not missed


class _Options(NamedTuple):
    """Some widths, the cost and sensitivity of each layer at each of them, and the cost of what is in no layer."""

    widths: Sequence[float]
    costs: NDArray[np.int64]
    sensitivities: NDArray[np.float64]
    fixed: int


def _sets_of_widths(record: CalibrationRecord, act_bits: int, budget: Budget) -> Iterator[_Options]:
    """Yield the sets of widths to choose from: 8 bits with any of the widths below, as each costs a table.

    Tables cost no BitOps, so for such a budget the only set is that of all widths.
    """
    form, every = (-1, len(_BITS)), list(product(record.layers, _BITS))
    sensitivities = np.array([layer.sensitivity[bits] for layer, bits in every], np.float64).reshape(form)
    if budget.kind == "bitops":
        costs = np.array([bitops(layer.macs, bits, act_bits) for layer, bits in every], np.int64).reshape(form)
        yield _Options(_BITS, costs, sensitivities, 0)
        return
    sizes = np.array([stored_bytes(record, layer, bits) for layer, bits in every], np.int64).reshape(form)
    for count in range(len(_BITS)):
        for others in combinations(range(1, len(_BITS)), count):
            columns = [0, *others]
            widths = [_BITS[column] for column in columns]
            fixed = record.graph_bytes + trellis_bytes(record.layers, widths)
            yield _Options(widths, sizes[:, columns], sensitivities[:, columns], fixed)


def _bound(options: _Options, budget: Budget, limit: float) -> tuple[bool, float]:
    """Return whether the budget is missed, and a number that what the plans reach is not below: by the knapsack whose
    items may be divided (Sinha and Zoltners, Operations Research 27, 1979, doi:10.1287/opre.27.3.503)."""
    if budget.kind == "drop":
        least, reached = _divided(options.sensitivities, options.costs.astype(np.float64), limit)
        return (True, least) if reached is None else (False, reached + options.fixed)
    least, reached = _divided(options.costs.astype(np.float64), options.sensitivities, limit - options.fixed)
    return (True, least + options.fixed) if reached is None else (False, reached)


def _divided(limited: NDArray[np.float64], value: NDArray[np.float64], limit: float) -> tuple[float, float | None]:
    """Return the least sum of what is limited, and, if that is within the limit, the least sum of values."""
    first, steps = np.zeros(2), list[NDArray[np.float64]]()
    for points in np.stack([limited, value], axis=2):
        hull = list[NDArray[np.float64]]()
        for point in points[np.lexsort(points.T[::-1])]:
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
                hull.pop()
            if not hull or point[1] < hull[-1][1]:
                hull.append(point)
        first += hull[0]
        steps += [after - before for before, after in pairwise(hull)]
    if first[0] > limit:
        return float(first[0]) * _SLACK, None
    steps.sort(key=lambda step: step[1] / step[0])
    ways = np.cumsum([first, *steps], axis=0)
    return float(first[0]), float(np.interp(limit, ways[:, 0], ways[:, 1])) * _SLACK


def _slope(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    return float((end[1] - start[1]) / (end[0] - start[0]))
