"""Records: the same bytes after a round trip, and one line for everything that damage can do to one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.artifact import write_json
from edgeq.errors import ArtifactError
from edgeq.quantize import ActivationRange
from edgeq.record import VERSION, CalibrationRecord, LayerInfo

FLOAT32 = st.floats(2.0**-100, 2.0**100, width=32)


def layer(name: str = "stem", position: int = 0) -> LayerInfo:
    scales = {bits: (0.1 / bits, 0.2 / bits) for bits in (8, 4, 2)}
    return LayerInfo(name, "conv", position, (2, 3, 1, 1), 600, scales, {8: 1e-5, 4: 0.01, 2: 0.3})


def record() -> CalibrationRecord:
    return CalibrationRecord(
        network={"model": "mobilenet_v2", "sha256": "ab", "classes": 10},
        preprocess={"resize": 96, "crop": 96},
        data={"source": "embedded", "split": "calib", "samples": 3},
        observer="percentile",
        layers=(layer(), layer("features.1.0", 1)),
        activations={"input": ActivationRange.covering(-1.5, 2.0), "stem": ActivationRange.covering(0.0, 6.0)},
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
    exact = LayerInfo("a", "linear", 0, (1, 1), 1, dict.fromkeys((8, 4, 2), (scale,)), dict.fromkeys((8, 4, 2), 0.0))
    stored = CalibrationRecord({}, {}, {}, "mse", (exact,), {"input": ActivationRange.covering(-low, high)})
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
    assert list(body["layers"][0]["scales"]) == ["8", "4", "2"]


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
    "no name": lambda body: body["layers"][0].pop("name"),
    "no shape": lambda body: body["layers"][0].update(shape=[]),
    "shape of text": lambda body: body["layers"][0].update(shape=["two", 3]),
    "infinite macs": lambda body: body["layers"][0].update(macs=float("inf")),
    "NaN scale": lambda body: body["layers"][0]["scales"].update({"4": [0.1, float("nan")]}),
    "infinite scale": lambda body: body["layers"][0]["scales"].update({"4": [0.1, float("inf")]}),
    "zero scale": lambda body: body["layers"][0]["scales"].update({"4": [0.1, 0.0]}),
    "negative scale": lambda body: body["layers"][0]["scales"].update({"4": [0.1, -0.1]}),
    "a scale too few": lambda body: body["layers"][0]["scales"].update({"4": [0.1]}),
    "no scales of 4 bits": lambda body: body["layers"][0]["scales"].pop("4"),
    "NaN error": lambda body: body["layers"][0]["errors"].update({"4": float("nan")}),
    "no error of 2 bits": lambda body: body["layers"][0]["errors"].pop("2"),
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
