"""Trellis codes: the windows of bytes by hand, their tables, and the lengths of sequences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.numerics.trellis import PAIRS, Step, Trellis, sequences
from edgeq.numerics.weights import WIDTHS, BitWidth

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "trellises.json"
LOW_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in WIDTHS if width.bits < 8]


@pytest.mark.parametrize("width", LOW_BITS)
def test_tables(width: BitWidth) -> None:
    """Levels up to 63: two products with a uint8 add up to 2 x 63 x 255 = 32130, within int16."""
    code = width.trellis
    assert sum(step.bits for step in code.steps) == 8
    assert code.per_byte == width.per_byte
    assert (code.table.dtype, code.decoder.dtype) == (np.dtype(np.int8), np.dtype(np.int8))
    assert code.decoder.shape == (PAIRS, width.per_byte)
    assert np.abs(code.table.astype(int)).max() == 63
    with pytest.raises(ValueError, match="read-only"):
        code.decoder[0, 0] = 1


@pytest.mark.parametrize(
    ("bits", "vectors"),
    [
        (4, [[4, 4], [19, -14], [-16, -4]]),
        (3, [[-15, -15, 22], [-22, 10, 28], [5, -1, -21]]),
        (2, [[23, 52, 23, 52], [-43, -15, 8, -14], [-18, 0, 7, -24]]),
    ],
)
def test_packed_files_hold_no_table_so_it_stays_as_it_is(bits: int, vectors: list[list[int]]) -> None:
    assert BitWidth(bits).trellis.decoder[[0, 224 * 100 + 200, PAIRS - 1]].tolist() == vectors


def test_windows_by_hand() -> None:
    """Two steps of 4 bits: 0xab behind 0x4f is U = 224 x 79 + 171 = 17867. The first window is U >> 4 = 1116, the
    second U mod 3584 = 3531; by 255, the remainders are 96 and 216."""
    code = Trellis((Step(4, 1, 255), Step(4, 1, 255)), np.arange(255, dtype=np.int16))
    assert code.lefts == (4, 0)
    assert code.moduli == (PAIRS, 3584)
    assert code.index(np.array([17867])).tolist() == [[96, 216]]


def test_windows_of_steps_with_tables_of_their_own_by_hand() -> None:
    """0xab behind 0x4f: U >> 5 = 558; (U >> 2) mod 1792 = 4466 mod 1792 = 882; U mod 896 = 843, in the second table."""
    code = BitWidth(3).trellis
    assert code.starts == (0, 0, 127)
    assert code.index(np.array([17867])).tolist() == [[558 % 127, 882 % 127, 127 + 843 % 127]]


def test_windows_of_steps_of_several_weights_by_hand() -> None:
    """0xab behind 0x4f: the two weights of a step are in the same place of the two halves of its table; that of the
    last step is behind the table of 2 x 255."""
    code = BitWidth(1.6).trellis
    assert [step.weights for step in code.steps] == [2, 2, 1]
    first, second = 558 % 255, 882 % 255
    assert code.index(np.array([17867])).tolist() == [[first, 255 + first, second, 255 + second, 510 + 843 % 127]]


@pytest.mark.parametrize("width", LOW_BITS)
def test_nodes_know_all_that_the_levels_behind_them_depend_on(width: BitWidth) -> None:
    """The levels of all pairs of bytes, walked through the trellis step by step."""
    code = width.trellis
    previous, byte = (values.reshape(-1) for values in np.meshgrid(np.arange(256), np.arange(256), indexing="ij"))
    node, found = previous, []
    for number, (step, left) in enumerate(zip(code.steps, code.lefts, strict=True)):
        first, entries = code.lookup(number)
        fresh = byte >> left & (1 << step.bits) - 1
        found.append(entries[first[node] + fresh])
        node = (node << step.bits | fresh) & 255
    np.testing.assert_array_equal(np.concatenate(found, axis=1), code.decoder[224 * previous + byte])


@pytest.mark.parametrize("width", LOW_BITS)
def test_every_node_matters_and_so_does_every_new_bit(width: BitWidth) -> None:
    """Of most pairs of nodes, the next levels differ."""
    decoder = width.trellis.decoder[224 * np.arange(256)[:, None] + np.arange(256)].reshape(256, -1)
    assert len(np.unique(decoder, axis=0)) == 256


@given(st.integers(1, 5000))
def test_sequences(rows: int) -> None:
    """They hold all rows, waste few, and what they hold is cut as it was."""
    count, length = sequences(rows)
    assert count * length >= rows
    assert length <= 31
    assert length >= min(rows, 16)
    assert (count - 1) * length < rows
    assert count * length - rows <= max(rows // 30, 1)
    assert sequences(count * length) == (count, length)


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, (1, 1)), (31, (1, 31)), (32, (2, 16)), (37, (2, 19)), (334, (21, 16)), (250, (10, 25))]
)
def test_sequences_by_hand(rows: int, expected: tuple[int, int]) -> None:
    assert sequences(rows) == expected


@pytest.mark.parametrize("width", LOW_BITS)
def test_a_sequence_is_closed(width: BitWidth) -> None:
    data = np.array([[1, 2, 3], [3, 1, 2]], np.uint8)
    first, second = width.trellis.decode(data)
    np.testing.assert_array_equal(np.roll(first, 1, axis=0), second)


@pytest.mark.parametrize("width", LOW_BITS)
def test_the_noise_that_was_measured_is_between_that_of_a_grid_and_the_least_possible(width: BitWidth) -> None:
    """No code leaves less than 2^-2b of the power of Gaussian values. A grid of 3 levels has more than 1.33 bits."""
    (row,) = (r for r in json.loads(MEASURED.read_text())["trellises"] if r["weights_a_byte"] == width.per_byte)
    least = 20 * np.log10(2) * row["bits"]
    assert least - 1.1 < row["db"] < least
    assert row["db"] > row["uniform_db"] + (2 if width.bits >= 2 else 0.2)
