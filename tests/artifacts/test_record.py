"""Records: the same bytes after a round trip, and one line for everything that damage can do to one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.artifacts.files import write_json
from edgeq.artifacts.record import VERSION, CalibrationRecord, LayerInfo, OutputInfo
from edgeq.errors import ArtifactError
from edgeq.numerics.activations import ActivationRange

DAMAGE: dict[float, float] = {8: 0.0, 4: 0.01, 3: 0.05, 2: 0.3, 1.6: 0.5, 1.33: 0.7, 1: 1.0}
FLOAT32 = st.floats(2.0**-100, 2.0**100, width=32)


PREPROCESS: dict[str, Any] = {
    "resize": 96, "crop": [96, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
    "channel_order": "bgr",
}  # fmt: skip


def layer(name: str = "stem", position: int = 0) -> LayerInfo:
    scales = {bits: (0.1 / bits, 0.2 / bits) for bits in DAMAGE}
    return LayerInfo(name, "conv", position, (2, 3, 1, 1), 600, scales, DAMAGE, name)


def record() -> CalibrationRecord:
    return CalibrationRecord(
        network={"model": "mobilenet_v2", "weights": "w.pt", "sha256": "ab", "classes": 10}
        | {"preprocess": PREPROCESS},
        preprocess=PREPROCESS,
        data={"source": "embedded", "split": "calib", "samples": 3},
        observer="percentile",
        layers=(layer(), layer("features.1.0", 1)),
        activations={"input": ActivationRange.covering(-1.5, 2.0), "stem": ActivationRange.covering(0.0, 6.0)},
        outputs=(
            OutputInfo("logits", (10,), "classification", -3.0, 9.5, (), ()),
            OutputInfo("boxes", (2, 5), "regression", 0.0, 640.0, (0,), (100.0, 0.25)),
        ),
        in_float={"head": "its channels differ"},
        graph_bytes=3000,
        packed_layer_bytes=150,
        cut_layer_bytes=70,
        drops=((0.0, 0.0), (0.01, 0.0), (0.5, 12.5)),
    )


def test_save_load_save_gives_the_same_bytes(tmp_path: Path) -> None:
    record().save(tmp_path / "a")
    again = CalibrationRecord.load(tmp_path / "a")
    assert again == record()
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == record().to_json().encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=FLOAT32, low=FLOAT32, high=FLOAT32)
def test_no_digit_of_a_float32_is_lost(tmp_path: Path, scale: float, low: float, high: float) -> None:
    exact = LayerInfo("a", "conv", 0, (1, 1, 1, 1), 1, dict.fromkeys(DAMAGE, (scale,)), dict.fromkeys(DAMAGE, 0.0), "a")
    activations = {"input": ActivationRange.covering(-low, high)}
    stored = replace(record(), layers=(exact,), activations=activations)
    stored.save(tmp_path / "a")
    again = CalibrationRecord.load(tmp_path / "a")
    assert np.float32(again.layers[0].scales[8][0]) == np.float32(scale)
    assert again.activations == stored.activations


def test_counts_of_a_layer() -> None:
    assert (layer().weights, layer().channels) == (6, 2)


def test_the_head_says_what_it_is(tmp_path: Path) -> None:
    record().save(tmp_path / "a")
    body = json.loads((tmp_path / "a").read_text())
    assert (body["format"], body["version"]) == ("edgeq-record", VERSION)
    assert list(body["layers"][0]["scales"]) == ["8", "4", "3", "2", "1.6", "1.33", "1"]
    assert body["drops"] == [[0.0, 0.0], [0.01, 0.0], [0.5, 12.5]]


@pytest.mark.parametrize(
    ("kind", "version", "message"),
    [
        ("record", VERSION + 1, f"expected version {VERSION} of an edgeq record, found {VERSION + 1}"),
        ("plan", VERSION, "expected an edgeq record, found edgeq-plan"),
    ],
)
def test_other_versions_and_kinds(tmp_path: Path, kind: str, version: int, message: str) -> None:
    write_json(tmp_path / "a", kind, version, record().to_dict())
    with pytest.raises(ArtifactError, match=re.escape(message)):
        CalibrationRecord.load(tmp_path / "a")


def test_a_truncated_record(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(record().to_json()[:-20])
    with pytest.raises(ArtifactError, match="found something unreadable"):
        CalibrationRecord.load(tmp_path / "a")


Damage = Callable[[dict[str, Any]], object]
DAMAGES: dict[str, Damage] = {
    "no layers": lambda body: body.pop("layers"),
    "layers of text": lambda body: body.update(layers=["stem"]),
    "no network": lambda body: body.update(network=None),
    "weights that are a number": lambda body: body["network"].update(weights=5),
    "no name": lambda body: body["layers"][0].pop("name"),
    "no shape": lambda body: body["layers"][0].update(shape=[]),
    "shape of text": lambda body: body["layers"][0].update(shape=["two", 3]),
    "infinite macs": lambda body: body["layers"][0].update(macs=float("inf")),
    "NaN scale": lambda body: body["layers"][0]["scales"].update({"4": [0.1, float("nan")]}),
    "infinite scale": lambda body: body["layers"][0]["scales"].update({"4": [0.1, float("inf")]}),
    "zero scale": lambda body: body["layers"][0]["scales"].update({"4": [0.1, 0.0]}),
    "a scale too few": lambda body: body["layers"][0]["scales"].update({"4": [0.1]}),
    "no scales of 4 bits": lambda body: body["layers"][0]["scales"].pop("4"),
    "no scales of 3 bits": lambda body: body["layers"][0]["scales"].pop("3"),
    "NaN damage": lambda body: body["layers"][0]["damage"].update({"4": float("nan")}),
    "infinite damage": lambda body: body["layers"][0]["damage"].update({"2": float("inf")}),
    "negative damage": lambda body: body["layers"][0]["damage"].update({"8": -1e-9}),
    "no damage of 2 bits": lambda body: body["layers"][0]["damage"].pop("2"),
    "no damage of 1.33 bits": lambda body: body["layers"][0]["damage"].pop("1.33"),
    "a name of two lines": lambda body: body["layers"][0].update(name="a\nb"),
    "weights beyond any network": lambda body: body["layers"][0].update(shape=[2, 2**40]),
    "macs beyond any network": lambda body: body["layers"][0].update(macs=2**45),
    "files that are a number": lambda body: body.update(
        data={"source": "folder", "root": "x", "files": 3, "labels": None}
    ),
    "NaN in a preprocessing": lambda body: body["preprocess"].update(mean=[float("nan")] * 3),
    "no interpolation": lambda body: body["preprocess"].pop("interpolation"),
    "a resize of text": lambda body: body["preprocess"].update(resize="96"),
    "a negative crop": lambda body: body["preprocess"].update(crop=[96, -64]),
    "a network without preprocessing": lambda body: body["network"].pop("preprocess"),
    "no outputs": lambda body: body.pop("outputs"),
    "an output without a name": lambda body: body["outputs"][0].pop("name"),
    "an output without a task": lambda body: body["outputs"][0].pop("task"),
    "an output of NaN": lambda body: body["outputs"][0].update(low=float("nan")),
    "a unit of 0": lambda body: body["outputs"][1].update(units=[100.0, 0.0]),
    "an infinite unit": lambda body: body["outputs"][1].update(units=[100.0, float("inf")]),
    "axes of text": lambda body: body["outputs"][1].update(axes="first"),
    "no reasons": lambda body: body.pop("in_float"),
    "a reason that is a number": lambda body: body.update(in_float={"head": 3}),
    "no graph bytes": lambda body: body.pop("graph_bytes"),
    "negative graph bytes": lambda body: body.update(graph_bytes=-1),
    "graph bytes beyond any file": lambda body: body.update(graph_bytes=2**62),
    "infinite graph bytes": lambda body: body.update(graph_bytes=float("inf")),
    "negative bytes of a packed layer": lambda body: body.update(packed_layer_bytes=-1),
    "no drops": lambda body: body.update(drops=[]),
    "drops of text": lambda body: body.update(drops=["ab"]),
    "drops that do not start at 0": lambda body: body["drops"].pop(0),
    "two drops of the same damage": lambda body: body["drops"].insert(2, [0.01, 0.5]),
    "falling drops": lambda body: body["drops"].append([0.6, 12.4]),
    "NaN drop": lambda body: body["drops"].append([0.6, float("nan")]),
    "infinite drop": lambda body: body["drops"].append([0.6, float("inf")]),
    "drop of infinite damage": lambda body: body["drops"].append([float("inf"), 20.0]),
    "activations in a list": lambda body: body.update(activations=[]),
    "NaN activation scale": lambda body: body["activations"]["input"].update(scale=float("nan")),
    "zero activation scale": lambda body: body["activations"]["input"].update(scale=0),
    "infinite zero point": lambda body: body["activations"]["input"].update(zero_point=float("inf")),
    "zero point 256": lambda body: body["activations"]["input"].update(zero_point=256),
    "zero point -1": lambda body: body["activations"]["input"].update(zero_point=-1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damage_is_one_line(tmp_path: Path, damage: Damage) -> None:
    body = json.loads(record().to_json())
    damage(body)
    (tmp_path / "a").write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=rf"^{re.escape(str(tmp_path / 'a'))}: .*; calibrate again$") as caught:
        CalibrationRecord.load(tmp_path / "a")
    assert "\n" not in str(caught.value)
