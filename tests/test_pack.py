"""Packing: literal bytes, parity with ONNX's own sub-byte types, and round trips of ragged sizes."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgeq.errors import ArtifactError
from edgeq.pack import PackedTensor, codebook, pack, pack_codes, packed_bytes, unpack, unpack_codes
from edgeq.quantize import WIDTHS, BitWidth, QuantTensor

BY_BITS = [pytest.param(width, id=f"{width.bits} bits") for width in WIDTHS]


@st.composite
def tensors(draw: st.DrawFn, widths: tuple[BitWidth, ...] = WIDTHS) -> QuantTensor:
    """Codes of any width and of a shape whose size need not fill the last byte; every second scale is negative."""
    width = draw(st.sampled_from(widths))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    count = int(np.prod(shape))
    codes = draw(st.lists(st.integers(width.qmin, width.qmax), min_size=count, max_size=count))
    scale = (-1) ** np.arange(shape[0]) * np.arange(1, shape[0] + 1)
    return QuantTensor(np.array(codes, np.int8).reshape(shape), scale.astype(np.float32), width)


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (4, [1, -8, 7, -1, 0], "81f700"),
        (2, [1, 0, -1, -2, 1], "b101"),
        (3, [1, -3, 2, -1], "5b05"),  # 1 + 3 * 6 + 2 * 36 = 91
        (3, [-1, -1, -1], "d7"),  # 5 + 5 * 6 + 5 * 36 = 215, the largest byte in use
        (3, [-2, 0, -3, 2, 1], "7008"),  # 4 + 0 + 3 * 36 = 112; 2 + 1 * 6 = 8
        (8, [1, -127, 127, -1, 0], "01817fff00"),
        (4, [-1], "0f"),
        (2, [-2, -2, -2, -2], "aa"),
        (2, [], ""),
    ],
)
def test_known_bytes(bits: int, codes: list[int], expected: str) -> None:
    packed = pack_codes(np.array(codes, np.int8), BitWidth(bits))
    assert packed.tobytes().hex() == expected
    assert unpack_codes(packed, len(codes), BitWidth(bits)).tolist() == codes


@given(tensors())
def test_round_trip(tensor: QuantTensor) -> None:
    packed = pack(tensor)
    assert packed.data.dtype == np.uint8
    assert packed.data.size == -(-tensor.codes.size // {8: 1, 4: 2, 3: 3, 2: 4}[tensor.width.bits])
    again = unpack(packed)
    assert again.codes.dtype == np.int8
    np.testing.assert_array_equal(again.codes, tensor.codes)
    np.testing.assert_array_equal(again.scale, tensor.scale)
    assert again.width == tensor.width


@given(tensors((BitWidth(8), BitWidth(4), BitWidth(2))))
def test_bytes_are_those_of_onnx(tensor: QuantTensor) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    name = f"int{tensor.width.bits}"
    typed = tensor.codes.astype(np.int8 if tensor.width.bits == 8 else getattr(ml_dtypes, name))
    assert pack_codes(tensor.codes, tensor.width).tobytes() == numpy_helper.from_array(typed).raw_data


def test_codes_in_any_memory_layout_are_read_row_major() -> None:
    codes = np.array([[1, 2, 3], [4, 5, 6]], np.int8)
    assert pack_codes(np.asfortranarray(codes), BitWidth(4)).tobytes().hex() == "214365"
    assert pack_codes(codes.T, BitWidth(4)).tobytes().hex() == "415263"


@pytest.mark.parametrize("width", BY_BITS)
def test_codebook_is_every_byte_decoded(width: BitWidth) -> None:
    book = codebook(width)
    assert (book.dtype, book.shape) == (np.dtype(np.int8), (256, width.per_byte))
    # Against counting: bytes go up through all values in the order 0, .., qmax, qmin, .., -1, the last place slowest.
    lowest = -128 if width.bits == 8 else width.qmin
    digits = [*range(width.qmax + 1), *range(lowest, 0)]
    rows = [list(reversed(places)) for places in product(digits, repeat=width.per_byte)]
    assert book.tolist() == rows + [[0] * width.per_byte] * (256 - len(rows))


@pytest.mark.parametrize(
    ("count", "expected"), [(0, (0, 0, 0, 0)), (1, (1, 1, 1, 1)), (5, (5, 3, 2, 2)), (8, (8, 4, 3, 2))]
)
def test_packed_bytes(count: int, expected: tuple[int, ...]) -> None:
    assert tuple(packed_bytes(count, width) for width in WIDTHS) == expected


@pytest.mark.parametrize("found", [2, 4])
def test_a_wrong_number_of_bytes_is_not_unpacked(found: int) -> None:
    message = f"expected 3 bytes for 5 values at 4 bits, found {found}"
    with pytest.raises(ArtifactError, match=f"^{message}$"):
        unpack_codes(np.zeros(found, np.uint8), 5, BitWidth(4))


def test_bytes_that_stand_for_no_values_are_refused() -> None:
    width, message = BitWidth(3), "expected bytes of at most 215 at 3 bits, found 216; export the network again"
    data = np.array([215, 216], np.uint8)
    assert unpack_codes(data[:1], 3, width).tolist() == [-1, -1, -1]
    with pytest.raises(ArtifactError, match=f"^{message}$"):
        unpack_codes(data, 5, width)
    with pytest.raises(ArtifactError, match=f"^{message}$"):
        PackedTensor(data, (1, 5), np.ones(1, np.float32), width)


@pytest.mark.parametrize(
    ("data", "scales", "message"),
    [
        (np.zeros(2, np.uint8), 2, "expected 3 bytes for [2, 3] at 4 bits, found uint8[2]"),
        (np.zeros((3, 1), np.uint8), 2, "expected 3 bytes for [2, 3] at 4 bits, found uint8[3, 1]"),
        (np.zeros(3, np.int8), 2, "expected 3 bytes for [2, 3] at 4 bits, found int8[3]"),
        (np.zeros(3, np.uint8), 3, "expected 2 scales, found [3]"),
    ],
    ids=["too few bytes", "two dimensions", "signed", "scales"],
)
def test_packed_tensors_that_do_not_fit_together(data: np.ndarray, scales: int, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        PackedTensor(data, (2, 3), np.ones(scales, np.float32), BitWidth(4))
