"""The encoder of trellis codes: against all paths, against NumPy, and the noise that it leaves."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.native import encoder as module
from edgeq.native.encoder import Encoder
from edgeq.native.library import is_compiled
from edgeq.numerics.trellis import Trellis
from edgeq.numerics.weights import WIDTHS, BitWidth, starting_scales

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "trellises.json"
LOW_WIDTHS = [width for width in WIDTHS if width.bits < 8]
LOW_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in LOW_WIDTHS]
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)

compiled = pytest.mark.skipif(not is_compiled(), reason="the kernels were not compiled: there is no C compiler")


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[module.Float, module.Float]:
    """Targets, some of them far outside of the tables, and importances over a factor of 10000, some of them 0."""
    targets = rng.normal(0, 20, shape) * np.where(rng.random(shape) < 0.1, 30, 1)
    importances = 10 ** rng.uniform(-4, 0, shape) * (rng.random(shape) > 0.1)
    return targets.astype(np.float32), importances.astype(np.float32)


def cost(
    code: Trellis,
    data: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    targets: module.Float,
    importances: module.Float,
) -> module.Float:
    """Of the levels of some bytes, `[sequences]`."""
    return np.asarray((importances * np.square(targets - code.decode(data))).sum((1, 2)))


@compiled
@settings(max_examples=60)
@given(rng=seeds, width=st.sampled_from(LOW_WIDTHS), count=st.integers(1, 4), size=st.integers(1, 31))
def test_numpy_finds_the_same_bytes(rng: np.random.Generator, width: BitWidth, count: int, size: int) -> None:
    targets, importances = drawn(rng, (count, size, width.per_byte))
    encoder = Encoder(width.trellis)
    found = encoder.encode(targets, importances)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_compiled", lambda: False)
        np.testing.assert_array_equal(encoder.encode(targets, importances), found)


@pytest.mark.parametrize("width", LOW_BITS)
def test_the_best_of_all_bytes_and_of_all_pairs(width: BitWidth) -> None:
    """Sequences of one and of two bytes, of which every node is tried as a start."""
    code, rng = width.trellis, np.random.default_rng(0)
    for size in (1, 2):
        targets, importances = drawn(rng, (3, size, width.per_byte))
        every = np.array(list(product(range(256), repeat=size)), np.uint8)
        costs = np.array([
            cost(code, every, target[None], importance[None])
            for target, importance in zip(targets, importances, strict=True)
        ])  # fmt: skip
        found = cost(code, Encoder(code).encode(targets, importances), targets, importances)
        np.testing.assert_allclose(found, costs.min(axis=1), rtol=1e-5)


@pytest.mark.parametrize("width", LOW_BITS)
@pytest.mark.parametrize("size", [4, 9, 16, 31])
def test_levels_are_found_again(width: BitWidth, size: int) -> None:
    """Of any bytes; others that have the same levels are as good."""
    code = width.trellis
    data = np.random.default_rng(size).integers(0, 256, (20, size), np.uint8)
    levels = code.decode(data)
    found = Encoder(code).encode(levels.astype(np.float32), np.ones(levels.shape, np.float32))
    same = (code.decode(found) == levels).all(axis=(1, 2))
    assert same.mean() > 0.9


@pytest.mark.parametrize("width", LOW_BITS)
def test_normal_values_leave_as_little_noise_as_measured(width: BitWidth) -> None:
    (row,) = (r for r in json.loads(MEASURED.read_text())["trellises"] if r["weights_a_byte"] == width.per_byte)
    values = np.random.default_rng(0).normal(size=(300, 24, width.per_byte)).astype(np.float32)
    unit = np.float32(row["unit"])
    left = values - unit * width.trellis.decode(Encoder(width.trellis).encode(values / unit, np.ones_like(values)))
    assert 10 * np.log10(np.square(values).mean() / np.square(left).mean()) > row["db"] - 0.1
    assert starting_scales(np.ones((1, 8), np.float32), width) == pytest.approx(row["unit"], rel=1e-3)
