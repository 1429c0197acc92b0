"""Plans: fixed schemes, sums by hand, what the position rule and the mix promise, and budgets that are missed."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import DAMAGE, layer, record_of

from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import UnsupportedError
from edgeq.planning.plan import plan
from edgeq.planning.recipe import FIXED, SCHEMES, Recipe


def record(*kinds: str) -> CalibrationRecord:
    """Layers of these kinds: 4 channels of 16 weights each, computed at 10 positions."""
    return record_of([layer(i, kind) for i, kind in enumerate(kinds)])


MOBILE = record("conv", *["depthwise", "conv", "conv"] * 6, "conv")
# Large enough for tables to pay; the first layer is 100 times as sensitive as the second.
LOWEST = (2, 1.6, 1.33, 1)
SHARES = {8: 0.0, 4: 0.01, 3: 0.05, 2: 0.2, 1.6: 10.0, 1.33: 10.0, 1: 10.0}
LOPSIDED = record_of(
    [
        layer(i, sensitivity={bits: worth * share for bits, share in SHARES.items()}, shape=(64, 100, 1, 1))
        for i, worth in enumerate([1.0, 0.01, 0.1, 0.02])
    ]
)


@pytest.mark.parametrize(("scheme", "bits"), [("8bit", 8), ("4bit", 4), ("2bit", 2), ("fp32", 32)])
def test_fixed_schemes_give_every_layer_the_same(scheme: str, bits: int) -> None:
    found = plan(MOBILE, scheme)
    assert [item.bits for item in found.layers] == [bits] * 20
    assert found.act_bits == (32 if scheme == "fp32" else 8)
    assert (found.recipe, found.policy, found.missed) == (Recipe(scheme), None, None)


def test_sums_by_hand() -> None:
    found = plan(record("conv", "conv"), "4bit")
    # 64 weights at 4 bits are 32 bytes, and 4 channels have a float16 scale and bias each: 48 bytes a layer.
    assert found.bytes == 2 * (32 + 16)
    # The graph, the table and a matrix for sequences of 2 bytes with their heads, and what decodes two layers.
    assert found.file_bytes == 1000 + (255 + 560) + (4 + 32) + found.bytes + 2 * 30
    assert found.bitops == 2 * 640 * 4 * 8
    assert found.sensitivity == pytest.approx(0.04)
    assert found.drop == pytest.approx(0.4)
    assert plan(record("conv", "conv"), Recipe("4bit", act_bits=32)).bitops == 2 * 640 * 4 * 32
    assert plan(record("conv", "conv"), Recipe("fp32", act_bits=8)).bitops == 2 * 640 * 32 * 32


def test_the_printed_plan_adds_up() -> None:
    found = plan(MOBILE, Recipe("adaptive", policy="position"))
    body = json.loads(json.dumps(found.to_dict()))
    assert body["bytes"] == found.bytes == sum(item["bytes"] for item in body["layers"])
    assert body["bitops"] == found.bitops == sum(item["bitops"] for item in body["layers"])
    assert body["macs"] == 20 * 640
    # UNIQ adds bw + ba + log2(16) bits to each product: at 8 bits of activations bw + 12.
    assert body["bitops_with_accumulator"] == found.bitops + sum(640 * (item["bits"] + 12) for item in body["layers"])
    assert {item["name"]: item["bits"] for item in body["layers"]} == found.bits
    assert [item["damage"] for item in body["layers"]] == [DAMAGE[item["bits"]] for item in body["layers"]]
    assert body["damage"] == pytest.approx(sum(item["damage"] for item in body["layers"]))
    assert (body["file_bytes"], body["drop"]) == (found.file_bytes, found.drop)
    assert (body["policy"], body["budget"], body["missed"]) == ("position", None, None)


def test_float_layers_do_no_sensitivity() -> None:
    found = plan(MOBILE, "fp32")
    assert (found.sensitivity, found.drop, found.worst) == (0.0, 0.0, frozenset())


def test_the_worst_layers_do_half_of_the_sensitivity() -> None:
    # At 2 bits 0.2, 0.002, 0.02, 0.004: the first alone does more than half.
    assert plan(LOPSIDED, "2bit").worst == {"layer0"}
    even = record_of(
        [layer(i, sensitivity={**DAMAGE, 2: sensitivity}) for i, sensitivity in enumerate([1.0, 2.0, 3.0, 4.0])]
    )
    assert plan(even, "2bit").worst == {"layer3", "layer2"}


# --- by position ----------------------------------------------------------------------------------------------------


def test_the_position_rule_uses_all_widths_on_a_deep_network() -> None:
    deep = record("conv", *["depthwise", "conv"] * 32)
    found = plan(deep, Recipe("adaptive", policy="position"))
    free = [item.bits for item in found.layers if item.layer.kind == "conv"][1:]
    assert free == [8] * 8 + [4] * 22 + [2] * 2  # a quarter and a sixteenth of 32
    assert plan(deep, "2bit").bytes < found.bytes < plan(deep, "8bit").bytes
    assert plan(deep, "2bit").bitops < found.bitops < plan(deep, "8bit").bitops


@given(st.lists(st.sampled_from(["conv", "depthwise"]), min_size=1, max_size=60))
def test_the_position_rule(kinds: list[str]) -> None:
    """Stem and depthwise layers keep 8 bits; the others never get wider with depth."""
    found = plan(record(*kinds), Recipe("adaptive", policy="position"))
    assert [item.layer.position for item in found.layers] == list(range(len(kinds)))
    fixed = [item for item in found.layers if item.layer.position == 0 or item.layer.kind == "depthwise"]
    free = [item.bits for item in found.layers if item not in fixed]
    assert {item.bits for item in fixed} == {8}
    assert free == sorted(free, reverse=True)
    assert set(free) <= {8, 4, 2}
    assert all(item.reason for item in found.layers)


# --- the mix --------------------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 64), st.integers(1, 64))


@given(st.lists(st.tuples(sizes, st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_without_a_budget_it_is_as_small_as_by_position_and_no_worse(
    layers: list[tuple[tuple[int, int], float, float]],
) -> None:
    several = record_of(
        [
            layer(
                i,
                sensitivity={8: 0.01 * a, 4: a * b, 3: a} | dict.fromkeys(LOWEST, 2 * a),
                shape=(*shape, 1, 1),
            )
            for i, (shape, a, b) in enumerate(layers)
        ]
    )
    by_position, mixed = plan(several, Recipe("adaptive", policy="position")), plan(several, "adaptive")
    assert mixed.file_bytes <= by_position.file_bytes
    assert mixed.sensitivity <= by_position.sensitivity + 1e-12
    assert (mixed.policy, mixed.recipe.budget, mixed.missed) == ("mix", None, None)


def test_bits_go_where_they_spare_most() -> None:
    # Layers of 6400 weights and 64 channels: 4 x 6656 bytes at 8 bits, and 3 x 3200 fewer here. The graph has 1000
    # bytes, the table and the matrix of sequences of 16 bytes 1103, and 3 layers are decoded.
    found = plan(LOPSIDED, Recipe("adaptive", budget="size=19.3kB"))
    assert found.file_bytes == 4 * 6656 - 3 * 3200 + 1000 + 1103 + 3 * 30 <= 19_300
    assert [item.bits for item in found.layers] == [8, 4, 4, 4]
    assert [item.reason for item in found.layers] == ["kept at 8 bits", *["saves 3.2 kB"] * 3]
    assert found.sensitivity == pytest.approx(0.0013)
    assert found.missed is None
    assert found.recipe.budget == "size=19.3kB"


def test_a_limit_of_bitops() -> None:
    found = plan(LOPSIDED, Recipe("adaptive", budget="bitops=0.1M"))  # at 8 bits all layers have 4 x 640 x 64
    assert found.bitops == 640 * 8 * (8 + 4 + 4 + 3) <= 100_000
    assert found.layers[0].reason == "kept at 8 bits"
    assert found.layers[1].reason == f"saves {640 * 8 * 5 / 1e6:.0f} MBitOps"


def test_the_smallest_file_within_a_drop() -> None:
    found = plan(LOPSIDED, Recipe("adaptive", budget="drop=1.0"))  # 0.1 nats by DROPS
    assert found.sensitivity <= 0.1
    assert found.drop <= 1.0
    assert [item.bits for item in found.layers][1:] == [2, 2, 2]
    assert plan(LOPSIDED, Recipe("adaptive", budget="drop=0.5")).file_bytes > found.file_bytes


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ("size=5kB", "a file of at most 5,000 bytes, the least possible is 7,020"),
        ("bitops=0.01M", "at most 0.01 M BitOps, the least possible is 0.02048 M"),
        ("drop=0.001", "an estimated drop of at most 0.001 points, the least possible is 0.02"),
    ],
)
def test_a_budget_that_cannot_be_met(budget: str, text: str) -> None:
    several = record("conv", "conv") if budget.startswith("drop") else LOPSIDED
    found = plan(several, Recipe("adaptive", budget=budget))
    assert found.missed is not None
    assert found.missed.startswith(f"budget {budget}: expected {text}")
    assert found.missed.endswith("; allow a little more than that")
    assert {item.bits for item in found.layers} == ({8} if budget.startswith("drop") else {1})


# --- reduced range --------------------------------------------------------------------------------------------------


def test_a_plan_of_a_reduced_range_knows_that_8_bits_do_more_sensitivity() -> None:
    """Steps of 127 / 63 the size do damage with their square; lower widths are as they were."""
    several = record("conv", "conv")
    for scheme, factor in [("8bit", (127 / 63) ** 2), ("4bit", 1), ("2bit", 1)]:
        usual, reduced = plan(several, scheme), plan(several, Recipe(scheme, reduce_range=True))
        assert (usual.recipe.reduce_range, reduced.recipe.reduce_range) == (False, True)
        assert reduced.sensitivity == pytest.approx(factor * usual.sensitivity)
        assert (reduced.bits, reduced.file_bytes, reduced.bitops) == (usual.bits, usual.file_bytes, usual.bitops)
    assert json.loads(json.dumps(plan(several, Recipe("8bit", reduce_range=True)).to_dict()))["portable"] is True


def test_a_mix_of_a_reduced_range_stays_within_its_drop() -> None:
    """At 0.02 points 8 bits are enough only where they may use the full range."""
    several = record("conv", "conv")
    usual = plan(several, Recipe("adaptive", budget="drop=0.02"))
    reduced = plan(several, Recipe("adaptive", budget="drop=0.02", reduce_range=True))
    assert usual.missed is None
    assert reduced.missed is not None
    assert reduced.recipe.reduce_range


@pytest.mark.parametrize(("scheme", "act_bits"), [("8bit", 32), ("fp32", 8)])
def test_floats_have_no_reduced_range(scheme: str, act_bits: int) -> None:
    message = "reduced range: expected weights and activations in integers, found float; leave it out"
    with pytest.raises(UnsupportedError, match=f"^{message}$"):
        plan(MOBILE, Recipe(scheme, act_bits, reduce_range=True))


# --- options --------------------------------------------------------------------------------------------------------


def test_an_unknown_scheme() -> None:
    assert (*FIXED, "adaptive") == SCHEMES
    message = "unknown scheme '3bit'; expected one of fp32, 8bit, 4bit, 2bit, adaptive"
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        plan(MOBILE, "3bit")


@pytest.mark.parametrize("act_bits", [0, 4, 16])
def test_unknown_activations(act_bits: int) -> None:
    with pytest.raises(UnsupportedError, match=f"^activations of {act_bits} bits; expected 8 or 32$"):
        plan(MOBILE, Recipe("8bit", act_bits))


@pytest.mark.parametrize(
    ("scheme", "budget", "policy", "message"),
    [
        ("adaptive", None, "magic", "unknown policy 'magic'; expected one of mix, position"),
        ("4bit", None, "position", "policy position: expected scheme adaptive, found 4bit; leave out one of them"),
        ("4bit", "drop=1", "mix", "budget drop=1: expected scheme adaptive with policy mix, found scheme 4bit"),
        ("fp32", "drop=1", "mix", "budget drop=1: expected scheme adaptive with policy mix, found scheme fp32"),
        ("adaptive", "drop=1", "position",
         "budget drop=1: expected scheme adaptive with policy mix, found policy position"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(scheme: str, budget: str | None, policy: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        plan(MOBILE, Recipe(scheme, budget=budget, policy=policy))


@pytest.mark.parametrize(("scheme", "budget"), [("adaptive", "size=1.3"), ("4bit", "size=1.3")])
def test_a_budget_that_cannot_be_read(scheme: str, budget: str) -> None:
    with pytest.raises(UnsupportedError, match=r"^budget 'size=1\.3': expected size="):
        plan(MOBILE, Recipe(scheme, budget=budget))
