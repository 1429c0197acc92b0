"""Plans: fixed schemes, sums by hand, and what the position rule promises."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import UnsupportedError
from edgeq.plan import FIXED, SCHEMES, plan
from edgeq.record import CalibrationRecord, LayerInfo

ERRORS = {8: 0.001, 4: 0.02, 2: 0.4}


def record(*kinds: str) -> CalibrationRecord:
    """Layers of these kinds: 4 channels of 16 weights each, computed at 10 positions."""
    layers = tuple(
        LayerInfo(f"layer{i}", kind, i, (4, 16, 1, 1), 640, dict.fromkeys(ERRORS, (0.1,) * 4), ERRORS)
        for i, kind in enumerate(kinds)
    )
    return CalibrationRecord({}, {}, {}, "percentile", layers, {})


MOBILE = record("conv", *["depthwise", "conv", "conv"] * 6, "linear")


@pytest.mark.parametrize(("scheme", "bits"), [("8bit", 8), ("4bit", 4), ("2bit", 2), ("fp32", 32)])
def test_fixed_schemes_give_every_layer_the_same(scheme: str, bits: int) -> None:
    found = plan(MOBILE, scheme)
    assert [item.bits for item in found.layers] == [bits] * 20
    assert found.act_bits == (32 if scheme == "fp32" else 8)
    assert found.scheme == scheme


def test_sums_by_hand() -> None:
    found = plan(record("conv", "conv"), "4bit")
    # 64 weights at 4 bits are 32 bytes, and 4 channels have a float32 scale and bias each: 64 bytes a layer.
    assert found.bytes == 2 * (32 + 32)
    assert found.bitops == 2 * 640 * 4 * 8
    assert plan(record("conv", "conv"), "4bit", act_bits=32).bitops == 2 * 640 * 4 * 32
    assert plan(record("conv", "conv"), "fp32", act_bits=8).bitops == 2 * 640 * 32 * 32


def test_the_printed_plan_adds_up() -> None:
    found = plan(MOBILE, "adaptive")
    body = found.to_dict()
    assert body["bytes"] == found.bytes == sum(item["bytes"] for item in body["layers"])
    assert body["bitops"] == found.bitops == sum(item["bitops"] for item in body["layers"])
    assert body["macs"] == 20 * 640
    # UNIQ adds bw + ba + log2(16) bits to each product: at 8 bits of activations bw + 12.
    assert body["bitops_with_accumulator"] == found.bitops + sum(640 * (item["bits"] + 12) for item in body["layers"])
    assert {item["name"]: item["bits"] for item in body["layers"]} == found.bits
    assert [item["error"] for item in body["layers"]] == [ERRORS[item["bits"]] for item in body["layers"]]


def test_float_layers_have_no_error() -> None:
    assert {item["error"] for item in plan(MOBILE, "fp32").to_dict()["layers"]} == {0.0}


def test_the_position_rule_uses_all_widths_on_a_deep_network() -> None:
    deep = record("conv", *["depthwise", "conv"] * 32)
    found = plan(deep, "adaptive")
    free = [item.bits for item in found.layers if item.layer.kind == "conv"][1:]
    assert free == [8] * 8 + [4] * 22 + [2] * 2  # a quarter and a sixteenth of 32
    assert plan(deep, "2bit").bytes < found.bytes < plan(deep, "8bit").bytes
    assert plan(deep, "2bit").bitops < found.bitops < plan(deep, "8bit").bitops


@given(st.lists(st.sampled_from(["conv", "depthwise", "linear"]), min_size=1, max_size=60))
def test_the_position_rule(kinds: list[str]) -> None:
    """Stem and depthwise layers keep 8 bits; the others never get wider with depth."""
    found = plan(record(*kinds), "adaptive")
    assert [item.layer.position for item in found.layers] == list(range(len(kinds)))
    fixed = [item for item in found.layers if item.layer.position == 0 or item.layer.kind == "depthwise"]
    free = [item.bits for item in found.layers if item not in fixed]
    assert {item.bits for item in fixed} == {8}
    assert free == sorted(free, reverse=True)
    assert set(free) <= {8, 4, 2}
    assert all(item.reason for item in found.layers)


def test_an_unknown_scheme() -> None:
    assert (*FIXED, "adaptive") == SCHEMES
    message = "unknown scheme '3bit'; expected one of fp32, 8bit, 4bit, 2bit, adaptive"
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        plan(MOBILE, "3bit")


@pytest.mark.parametrize("act_bits", [0, 4, 16])
def test_unknown_activations(act_bits: int) -> None:
    with pytest.raises(UnsupportedError, match=f"^activations of {act_bits} bits; expected 8 or 32$"):
        plan(MOBILE, "8bit", act_bits)
