"""The bytes of weights as the engine's kernels read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeq.lowering.weights import convolution_bytes, decoded_sizes, depthwise_bytes, trellis_bytes, unit_channels
from edgeq.native.program import DEPTH, LANES
from edgeq.numerics.weights import WIDTHS, BitWidth, QuantTensor, packed_shape


def drawn(shape: tuple[int, ...], width: BitWidth) -> QuantTensor:
    data = np.random.default_rng(0).integers(0, 256, packed_shape(shape, width)).astype(np.uint8)
    return QuantTensor(data, shape, np.ones(shape[0], np.float32), width)


def read_convolution(content: bytes, shape: tuple[int, ...], groups: int, width: BitWidth) -> NDArray[np.uint8]:
    """Bytes `[rows, kernel rows, columns, in]` in the order of patches, as the kernel finds them."""
    out, inputs, rows, columns = shape
    each, depth = out // groups, -(-inputs * rows * columns // DEPTH) * DEPTH
    read = np.frombuffer(content, np.uint8)
    counts = [len(read) // depth]
    if width.bits == 8:
        counts = [min(unit_channels(width), each - first) for first in range(0, each, unit_channels(width))] * groups
    units = np.split(read, np.cumsum(counts)[:-1] * depth)
    made = [
        unit.reshape(depth // DEPTH, count, DEPTH).transpose(1, 0, 2).reshape(count, depth)
        for unit, count in zip(units, counts, strict=True)
    ]
    return np.concatenate(made)[:, : inputs * rows * columns].reshape(-1, rows, columns, inputs)


@given(
    st.sampled_from(WIDTHS), st.integers(1, 3), st.integers(1, 150), st.integers(1, 5), st.integers(1, 3),
    st.integers(1, 3),
)  # fmt: skip
def test_a_kernel_finds_the_bytes_of_a_convolution(
    width: BitWidth, groups: int, each: int, inputs: int, rows: int, columns: int
) -> None:
    weight = drawn((groups * each, inputs, rows, columns), width)
    content = convolution_bytes(weight.data, weight.shape, groups, width)
    found = read_convolution(content, weight.shape, groups, width)
    expected = weight.data.reshape(-1, inputs, rows, columns).transpose(0, 2, 3, 1)
    assert np.array_equal(found, expected)


@given(st.sampled_from(WIDTHS), st.integers(1, 150), st.integers(1, 4), st.integers(1, 4))
def test_a_kernel_finds_the_bytes_of_each_channel_by_itself(
    width: BitWidth, channels: int, rows: int, columns: int
) -> None:
    weight = drawn((channels, 1, rows, columns), width)
    found = np.frombuffer(depthwise_bytes(weight.data), np.uint8).reshape(rows * columns, -1)
    assert np.array_equal(found.T, weight.data)


@pytest.mark.parametrize(
    ("bits", "size"),
    [
        (4, 512 + 270),
        (3, 768 + 134 + 130),
        (2, 512 + 2 * 270),
        (1.6, 768 + 2 * 262 + 130),
        (1.33, 512 + 3 * 270),
        (1, 512 + 4 * 270),
    ],
)
def test_a_kernel_finds_the_levels_of_bytes(bits: float, size: int) -> None:
    """As `trellis.h` reads them: where the levels of each node start, for each step, then the levels."""
    code = BitWidth(bits).trellis
    content = trellis_bytes(code)
    assert len(content) == size
    first_table = code.lookup(0)[1].nbytes
    for number in range(len(code.steps)):
        first, entries = code.lookup(number)
        assert content[256 * number :][:256] == bytes(first.tolist())
        start = 256 * len(code.steps) + (first_table if code.starts[number] else 0)
        assert content[start:].startswith(entries.tobytes())


def test_the_bytes_of_two_pixels_are_in_order_and_filled_up() -> None:
    """Two outputs of 8 bits, three inputs, two columns: six inputs, then two zeros."""
    packed = np.arange(1, 13, dtype=np.uint8).reshape(2, 6)  # input by input, of these the columns
    found = convolution_bytes(packed, (2, 3, 1, 2), 1, BitWidth(8))
    assert list(found) == [1, 3, 5, 2, 7, 9, 11, 8, 4, 6, 0, 0, 10, 12, 0, 0]


@pytest.mark.parametrize("width", WIDTHS, ids=lambda width: f"{width.bits} bits")
def test_decoded_units_fill_up_their_lanes_and_depth(width: BitWidth) -> None:
    unit = unit_channels(width)
    assert decoded_sizes((unit + 1, 3, 1, 1), 1, width) == [unit * DEPTH, LANES * DEPTH]
