"""Allocation: every answer against trying all choices, on instances small enough for that."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from records import layer, record_of

from edgeq.artifacts.record import CalibrationRecord
from edgeq.numerics.weights import WIDTHS
from edgeq.planning.allocate import allocate, pareto_front
from edgeq.planning.budget import Budget, Kind, allowed_divergence
from edgeq.planning.cost import bitops, file_bytes

BITS = tuple(width.bits for width in WIDTHS)
# Multiples of 1/1024 add up exactly, so that sums in another order are equal.
sensitivities = st.integers(0, 512).map(lambda value: value / 1024)


@st.composite
def instances(draw: st.DrawFn, options: int = 3) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    count = draw(st.integers(0, 5))
    costs = draw(
        st.lists(st.lists(st.integers(0, 20), min_size=options, max_size=options), min_size=count, max_size=count)
    )
    losses = draw(st.lists(st.lists(sensitivities, min_size=options, max_size=options), min_size=count, max_size=count))
    return np.array(costs, np.int64).reshape(count, options), np.array(losses, np.float64).reshape(count, options)


def all_sums(costs: NDArray[np.int64], losses: NDArray[np.float64]) -> Iterator[tuple[int, float]]:
    rows = range(len(costs))
    for choice in product(range(costs.shape[1]), repeat=len(costs)):
        yield int(costs[rows, choice].sum()), float(losses[rows, choice].sum())


@given(instances())
def test_the_front_is_all_that_nothing_beats(instance: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    sums = set(all_sums(*instance))
    unbeaten = sorted(
        point
        for point in sums
        if not any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in sums)
    )
    front = pareto_front(*instance)
    assert list(zip(front.costs.tolist(), front.sensitivities.tolist(), strict=True)) == unbeaten


@given(instances())
def test_the_choices_of_a_state_add_up_to_it(instance: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    costs, losses = instance
    front = pareto_front(costs, losses)
    for state in range(len(front.costs)):
        picked = (range(len(costs)), front.choices(state))
        assert (costs[picked].sum(), losses[picked].sum()) == (front.costs[state], front.sensitivities[state])


@given(instances(), st.integers(1, 4))
def test_a_thinned_front_keeps_its_bound(instance: tuple[NDArray[np.int64], NDArray[np.float64]], states: int) -> None:
    costs, losses = instance
    exact, thin = pareto_front(costs, losses), pareto_front(costs, losses, states)
    assert len(thin.costs) <= states
    allowed = len(costs) / states * losses.max(axis=1, initial=0).sum() + 1e-12
    for cost, sensitivity in zip(exact.costs, exact.sensitivities, strict=True):
        affordable = thin.sensitivities[thin.costs <= cost]
        assert len(affordable)
        assert affordable[-1] <= sensitivity + allowed


def test_costs_are_not_rounded() -> None:
    """Float32 could not tell these BitOps apart."""
    costs = np.array([[10**13 + 1, 10**13], [10**13 + 1, 10**13]])
    front = pareto_front(costs, np.array([[0.0, 1.0], [0.0, 2.0]]))
    assert front.costs.tolist() == [2 * 10**13, 2 * 10**13 + 1, 2 * 10**13 + 2]
    assert front.sensitivities.tolist() == [3.0, 1.0, 0.0]


# --- a record under a budget ----------------------------------------------------------------------------------------


@st.composite
def records(draw: st.DrawFn) -> CalibrationRecord:
    """Up to three layers, small enough that a table of hundreds of bytes pays for some of them only."""
    layers = [
        layer(
            position,
            sensitivity=dict(zip(BITS, draw(st.tuples(*[sensitivities] * len(BITS))), strict=True)),
            shape=(draw(st.integers(1, 8)), draw(st.integers(1, 300)), 1, 1),
            macs=draw(st.integers(1, 10**6)),
        )
        for position in range(draw(st.integers(1, 3)))
    ]
    return record_of(layers, drops=((0.0, 0.0), (1.0, 10.0), (2.0, 40.0)))


def tried(record: CalibrationRecord) -> Iterator[tuple[int, int, float]]:
    """File size, BitOps and damage of every choice of widths."""
    for chosen in product(BITS, repeat=len(record.layers)):
        yield measured(record, {item.name: bits for item, bits in zip(record.layers, chosen, strict=True)})


def measured(record: CalibrationRecord, bits: dict[str, float]) -> tuple[int, int, float]:
    return (
        file_bytes(record, bits),
        sum(bitops(item.macs, bits[item.name], 8) for item in record.layers),
        sum(item.sensitivity[bits[item.name]] for item in record.layers),
    )


@settings(max_examples=60)
@given(records(), st.sampled_from(["size", "bitops"]), st.floats(0.5, 1.2))
def test_least_sensitivity_within_a_cost(record: CalibrationRecord, kind: Kind, share: float) -> None:
    column = ("size", "bitops").index(kind)
    choices = list(tried(record))
    limit = share * np.median([choice[column] for choice in choices])
    bits, met = allocate(record, 8, Budget("", kind, limit))
    found = measured(record, bits)
    within = [choice for choice in choices if choice[column] <= limit]
    assert met == bool(within)
    if met:
        assert found[column] <= limit
        assert found[2] == min(choice[2] for choice in within)
    else:
        assert found[column] == min(choice[column] for choice in choices)


@settings(max_examples=60)
@given(records(), st.floats(0.1, 60.0))
def test_smallest_file_within_a_drop(record: CalibrationRecord, drop: float) -> None:
    choices = list(tried(record))
    limit = allowed_divergence(record, drop)
    bits, met = allocate(record, 8, Budget("", "drop", drop))
    found = measured(record, bits)
    within = [choice for choice in choices if choice[2] <= limit]
    assert met == bool(within)
    if met:
        assert found[2] <= limit
        assert found[0] == min(choice[0] for choice in within)
    else:
        assert found[2] == min(choice[2] for choice in choices)


def test_a_lax_budget_leaves_8_bits() -> None:
    record = record_of([layer(i) for i in range(5)])
    assert allocate(record, 8, Budget("", "size", 10**9)) == ({f"layer{i}": 8 for i in range(5)}, True)


def test_a_table_that_costs_more_than_it_saves_is_left_out() -> None:
    """64 weights: 2 bits save 48 bytes and cost a table of 510, so 8 bits make the smallest file."""
    record = record_of([layer()])
    assert allocate(record, 8, Budget("", "size", 1.0)) == ({"layer0": 8}, False)


@pytest.mark.parametrize(("act_bits", "met"), [(8, True), (32, False)])
def test_bitops_depend_on_the_activations(act_bits: int, met: bool) -> None:
    record = record_of([layer()])
    assert allocate(record, act_bits, Budget("", "bitops", 640 * 2 * 8))[1] == met
