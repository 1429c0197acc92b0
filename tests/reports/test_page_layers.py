"""What the report says of layers: costs of other widths are those of the cost model, by hand and file by file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from records import layer, record_of

from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.record import Bins, CalibrationRecord
from edgeq.numerics.activations import ActivationRange
from edgeq.planning.cost import file_bytes
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.reports.page.folder import belongs
from edgeq.reports.page.layers import layers_of
from edgeq.reports.page.model_explorer import node_data

RANGE = ActivationRange.covering(0.0, 6.0)
BINS = Bins(-0.5, 0.25, (1, 2, 0, 3))


def record() -> CalibrationRecord:
    """Three layers; the first is stored in 8 bits, the last is the most sensitive."""
    last = layer(2, sensitivity={8: 0.002, 4: 0.06, 3: 0.3, 2: 0.5, 1.6: 0.6, 1.33: 0.7, 1: 0.8}, shape=(64, 64, 1, 1))
    found = record_of([layer(0), layer(1, kind="depthwise", shape=(16, 1, 3, 3)), last])
    return replace(found, activations={"layer0": RANGE}, histograms={"layer0": BINS})


def manifest_of(recipe: Recipe, made: CalibrationRecord, **fields: Any) -> Manifest:
    body: Any = {
        **json.loads(json.dumps(plan(made, recipe).to_dict())), "in_float": {}, "slow_kernels": {}, "layer_sqnr_db": {},
    }  # fmt: skip
    return cast(Manifest, body | fields)


def widened(made: CalibrationRecord, bits: Mapping[str, float], name: str, to: float) -> int:
    """What a width changes of the predicted size of the file."""
    return file_bytes(made, {**bits, name: to}) - file_bytes(made, bits)


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit", "fp32"])
def test_bytes_of_other_widths_are_those_of_the_predicted_file(scheme: str) -> None:
    made = record()
    bits = plan(made, scheme).bits
    for found in layers_of(manifest_of(Recipe(scheme), made), made):
        name = found.row["name"]
        wider = [width for width in (1, 1.33, 1.6, 2, 3, 4, 8, 32) if width > bits[name]]
        assert [change.bits for change in found.changes] == wider
        assert [change.bytes for change in found.changes] == [widened(made, bits, name, to) for to in wider]


def test_sensitivity_and_drop_of_other_widths_by_hand() -> None:
    """At 4 bits the sum is 0.02 + 0.02 + 0.06 = 0.1, which costs 1 point; each further 0.1 to 0.5 costs 4.75."""
    made = record()
    first, _, last = layers_of(manifest_of(Recipe("4bit"), made), made)
    assert last.share == pytest.approx(0.6)
    assert last.wider is not None
    assert last.wider.bits == 8
    assert last.wider.damage == pytest.approx(-0.058)
    assert last.wider.drop == pytest.approx(-0.58)
    assert last.excluded is not None
    assert last.excluded.bits == 32
    assert last.excluded.drop == pytest.approx(-0.6)
    assert first.excluded is not None
    assert first.excluded.damage == pytest.approx(-0.02)


def test_what_a_layer_is_stored_as() -> None:
    made = record()
    first, second, _ = layers_of(manifest_of(Recipe("4bit"), made), made)
    assert (first.range, first.seen) == (RANGE, BINS)
    assert (second.range, second.seen) == (None, None)
    assert layers_of(manifest_of(Recipe("4bit", act_bits=32), made), made)[0].range is None


def test_what_a_manifest_says_without_a_record() -> None:
    fields = {
        "in_float": {"layer1": "its channels differ"}, "slow_kernels": {"layer2": "small groups"},
        "layer_sqnr_db": {"layer0": 25.0, "layer1": None},
    }  # fmt: skip
    first, second, third = layers_of(manifest_of(Recipe("8bit"), record(), **fields), None)
    assert (first.sqnr, second.sqnr, third.sqnr) == (25.0, None, None)
    assert (first.float_reason, second.float_reason) == (None, "its channels differ")
    assert third.slow_reason == "small groups"
    assert first.changes == ()
    assert first.wider is None
    assert first.excluded is None
    assert first.sensitivity is None


def test_which_exports_belong_to_a_record() -> None:
    made = record()
    for recipe in (Recipe("fp32"), Recipe("4bit"), Recipe("8bit", reduce_range=True), Recipe("adaptive")):
        assert belongs(made, manifest_of(recipe, made)), recipe
    other = replace(
        made,
        layers=(layer(0, sensitivity={8: 0.1, 4: 0.2, 3: 0.3, 2: 0.4, 1.6: 0.5, 1.33: 0.6, 1: 0.7}), *made.layers[1:]),
    )
    assert not belongs(other, manifest_of(Recipe("4bit"), made))
    assert not belongs(replace(made, layers=made.layers[:2]), manifest_of(Recipe("4bit"), made))


def test_sensitivities_at_8_bits_are_those_of_the_reduced_range() -> None:
    made = record()
    (first, *_) = layers_of(manifest_of(Recipe("8bit", reduce_range=True), made), made)
    assert first.sensitivity is not None
    assert first.sensitivity[8] == pytest.approx(0.001 * (127 / 63) ** 2)
    assert first.row["damage"] == first.sensitivity[8]


def test_node_data_of_model_explorer() -> None:
    made = record()
    found = {name: json.loads(text) for name, text in node_data(manifest_of(Recipe("4bit"), made), made)}
    assert found["bits"]["results"] == {f"layer{i}": {"value": 4} for i in range(3)}
    assert found["sensitivity"]["results"]["layer2"] == {"value": 0.06}
    assert found["sensitivity_at_2"]["results"]["layer2"] == {"value": 0.5}
    assert found["wider_bytes"]["results"]["layer2"] == {"value": widened(made, plan(made, "4bit").bits, "layer2", 8)}
    assert "sqnr_db" not in found
    assert [one["stop"] for one in found["bits"]["gradient"]] == [0, 1]
    alone = dict(node_data(manifest_of(Recipe("4bit"), made), None))
    assert {"bits", "bytes", "macs", "sensitivity"} == alone.keys()
