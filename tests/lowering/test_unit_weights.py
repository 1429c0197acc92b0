"""The bytes of weights as the engine's kernels read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeq.lowering.weights import convolution_bytes, decoded_sizes, depthwise_bytes, unit_channels
from edgeq.native.program import DEPTH, LANES
from edgeq.numerics.weights import WIDTHS, BitWidth, QuantTensor


def drawn(shape: tuple[int, ...], width: BitWidth) -> QuantTensor:
    rows = -(-shape[0] // width.per_byte)
    data = np.random.default_rng(0).integers(0, 256, (rows, int(np.prod(shape[1:])))).astype(np.uint8)
    return QuantTensor(data, shape, np.ones(shape[0], np.float32), width)


def levels(data: NDArray[np.uint8], width: BitWidth) -> NDArray[np.int8]:
    """Bytes `[vectors, ...]` as levels `[vectors * K, ...]`."""
    if width.bits == 8:
        return data.view(np.int8)
    return np.moveaxis(width.codebook[data], -1, 1).reshape(-1, *data.shape[1:])


def read_convolution(content: bytes, shape: tuple[int, ...], groups: int, width: BitWidth) -> NDArray[np.int8]:
    """Levels `[out, rows, columns, in]` in the order of patches, as the kernel finds them."""
    out, inputs, rows, columns = shape
    each, depth = out // groups, -(-inputs * rows * columns // DEPTH) * DEPTH
    read, made = np.frombuffer(content, np.uint8), []
    for group in range(groups):
        for first in range(0, each, unit_channels(width)):
            start, channels = group * each + first, min(unit_channels(width), each - first)
            lead = start % width.per_byte
            vectors = -(-(lead + channels) // width.per_byte)
            unit, read = read[: vectors * depth], read[vectors * depth :]
            ordered = unit.reshape(depth // DEPTH, vectors, DEPTH).transpose(1, 0, 2).reshape(vectors, depth)
            made.append(levels(ordered, width)[lead : lead + channels, : inputs * rows * columns])
    assert not len(read)
    return np.concatenate(made).reshape(out, rows, columns, inputs)


@given(
    st.sampled_from(WIDTHS), st.integers(1, 3), st.integers(1, 150), st.integers(1, 5), st.integers(1, 3),
    st.integers(1, 3),
)  # fmt: skip
def test_a_kernel_finds_the_levels_of_a_convolution(
    width: BitWidth, groups: int, each: int, inputs: int, rows: int, columns: int
) -> None:
    weight = drawn((groups * each, inputs, rows, columns), width)
    content = convolution_bytes(weight.data, weight.shape, groups, width)
    found = read_convolution(content, weight.shape, groups, width)
    assert np.array_equal(found, weight.levels().reshape(weight.shape).transpose(0, 2, 3, 1))


@given(st.sampled_from(WIDTHS), st.integers(1, 150), st.integers(1, 4), st.integers(1, 4))
def test_a_kernel_finds_the_levels_of_each_channel_by_itself(
    width: BitWidth, channels: int, rows: int, columns: int
) -> None:
    weight, taps = drawn((channels, 1, rows, columns), width), rows * columns
    read, made = np.frombuffer(depthwise_bytes(weight.data, weight.shape, width), np.uint8), []
    for first in range(0, channels, unit_channels(width)):
        vectors = -(-min(unit_channels(width), channels - first) // width.per_byte)
        unit, read = read[: vectors * taps], read[vectors * taps :]
        made.append(levels(unit.reshape(taps, vectors).T, width))
    assert not len(read)
    assert np.array_equal(np.concatenate(made)[:channels], weight.levels().reshape(channels, taps))


def test_the_bytes_of_two_pixels_are_in_order_and_filled_up() -> None:
    """Two outputs of 8 bits, three inputs, two columns: six inputs, then two zeros."""
    packed = np.arange(1, 13, dtype=np.uint8).reshape(2, 6)  # input by input, of these the columns
    found = convolution_bytes(packed, (2, 3, 1, 2), 1, BitWidth(8))
    assert list(found) == [1, 3, 5, 2, 7, 9, 11, 8, 4, 6, 0, 0, 10, 12, 0, 0]


@pytest.mark.parametrize("width", WIDTHS, ids=lambda width: f"{width.bits} bits")
def test_decoded_units_fill_up_their_lanes_and_depth(width: BitWidth) -> None:
    unit = unit_channels(width)
    assert decoded_sizes((unit + 1, 3, 1, 1), 1, width) == [unit * DEPTH, LANES * DEPTH]
