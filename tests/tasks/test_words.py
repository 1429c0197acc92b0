"""Tables, figures and messages speak of what the outputs of a network are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from records import layer, record_of
from rich.console import Console

from edgeq.artifacts.record import CalibrationRecord, OutputInfo
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.reports import figures, tables

VARIANCE = "points of the outputs' variance"
AVERAGED = "points of top-1 and variance, averaged over the outputs"
LEGENDS = {
    ("classification",): "nats: sensitivity, the KL divergence when only this layer is rounded; *: half of the sum",
    ("regression", "regression"): (
        "error: sensitivity, half the outputs' squared error over their variance when only this layer is rounded; "
        "*: half of the sum"
    ),
    ("regression", "classification"): (
        "sum: sensitivity, of class scores the KL divergence, of others half the squared error over the variance, "
        "when only this layer is rounded; *: half of the sum"
    ),
}


def record(tasks: Sequence[str]) -> CalibrationRecord:
    outputs = tuple(OutputInfo(f"out{i}", (4,), task, 0.0, 1.0, (), ()) for i, task in enumerate(tasks))
    return replace(record_of([layer(0), layer(1)]), outputs=outputs)


def shown(table: object) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    ("tasks", "unit", "points"),
    [
        (("classification",), "nats", "points"),
        (("regression", "regression"), "error", VARIANCE),
        (("regression", "classification"), "sum", AVERAGED),
    ],
)
def test_plans_and_records_and_figures(tasks: tuple[str, ...], unit: str, points: str) -> None:
    found = plan(record(tasks), "4bit")
    table = shown(tables.plan_table(found))
    assert table.splitlines()[1].split()[5:7] == ["BitOps", unit]
    assert table.split()[-1] == "4.0e-02", "the sum is below the column"
    legend, cost = tables.plan_text(found).splitlines()
    assert legend == LEGENDS[tasks]
    assert cost.endswith(f"estimated drop 0.4 {points}")
    headers = shown(tables.content_table("record", record(tasks).to_dict())).splitlines()[1]
    assert f" {unit} at 8 " in headers
    (axes,) = figures.sensitivity_figure(found, "net").axes
    assert axes.get_ylabel() == f"sensitivity of one layer, {unit}"


def test_a_missed_budget_names_what_it_counts() -> None:
    for tasks, points in ((("classification",), "points"), (("regression",), VARIANCE)):
        found = plan(record(tasks), Recipe("adaptive", budget="drop=0.01"))
        assert found.missed == (
            f"budget drop=0.01: expected an estimated drop of at most 0.01 {points}, the least possible is 0.02; "
            "allow a little more than that"
        )
