"""Integer weights to bytes and back.

`K` values share a byte, row-major over the tensor. They are its digits in base `L`, the number of levels: the first
value is the lowest digit, a negative value is stored as the digit `value + L` (two's complement where `L` is a power of
two), and a last byte that is not full is filled with zeros. At 4 and 2 bits these are the bytes of ONNX INT4 and INT2.

    4 bits, K = 2, L = 16: [1, -8, 7, -1, 0]   -> 81 f7 00
    3 bits, K = 3, L = 6:  [1, -3, 2, -1]      -> 5b 05        (1 + 3 * 6 + 2 * 36, 5)
    2 bits, K = 4, L = 4:  [1, 0, -1, -2, 1]   -> b1 01

At 8 bits a byte is an int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError
from edgeq.quantize import BitWidth, Float, QuantTensor


@dataclass(frozen=True)
class PackedTensor:
    """Integer weights as bytes.

    Attributes:
        data: uint8 `[ceil(prod(shape) / K)]`.
        shape: shape of the weights, `[out, ...]`.
        scale: float32 `[out]`.
        width: the grid.

    Raises:
        ArtifactError: the number of bytes or scales does not fit the shape, or a byte stands for no values.
    """

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    scale: Float
    width: BitWidth

    def __post_init__(self) -> None:
        expected = packed_bytes(prod(self.shape), self.width)
        if self.data.dtype != np.uint8 or self.data.shape != (expected,):
            raise ArtifactError(
                f"expected {expected} bytes for {list(self.shape)} at {self.width.bits} bits, "
                f"found {self.data.dtype}{list(self.data.shape)}"
            )
        if self.scale.shape != self.shape[:1]:
            raise ArtifactError(f"expected {self.shape[0]} scales, found {list(self.scale.shape)}")
        _check_bytes(self.data, self.width)


def packed_bytes(count: int, width: BitWidth) -> int:
    """Bytes that `count` values take."""
    return -(-count // width.per_byte)


def pack(tensor: QuantTensor) -> PackedTensor:
    """Pack the codes of a tensor."""
    return PackedTensor(pack_codes(tensor.codes, tensor.width), tensor.codes.shape, tensor.scale, tensor.width)


def unpack(packed: PackedTensor) -> QuantTensor:
    """Inverse of `pack`."""
    codes = unpack_codes(packed.data, prod(packed.shape), packed.width).reshape(packed.shape)
    return QuantTensor(codes, packed.scale, packed.width)


def pack_codes(codes: NDArray[np.int8], width: BitWidth) -> NDArray[np.uint8]:
    """Pack int8 codes of any shape into uint8 `[ceil(n / K)]`."""
    digits = np.zeros(packed_bytes(codes.size, width) * width.per_byte, np.uint16)
    digits[: codes.size] = codes.reshape(-1).astype(np.int16) % _base(width)
    return (digits.reshape(-1, width.per_byte) @ _places(width)).astype(np.uint8)


def unpack_codes(data: NDArray[np.uint8], count: int, width: BitWidth) -> NDArray[np.int8]:
    """Read `count` codes back as int8 `[count]`.

    Raises:
        ArtifactError: `data` does not hold exactly the bytes of `count` values, or a byte that stands for no values.
    """
    if data.size != packed_bytes(count, width):
        raise ArtifactError(
            f"expected {packed_bytes(count, width)} bytes for {count} values at {width.bits} bits, found {data.size}"
        )
    _check_bytes(data, width)
    return codebook(width)[data].reshape(-1)[:count]


def codebook(width: BitWidth) -> NDArray[np.int8]:
    """Return int8 `[256, K]`: row `v` holds the K values that byte `v` stands for, zeros if it stands for none."""
    base, bytes_in_use = _base(width), _bytes_in_use(width)
    digits = np.arange(256)[:, None] // _places(width) % base
    digits[bytes_in_use:] = 0
    return np.where(digits > width.qmax, digits - base, digits).astype(np.int8)


def _base(width: BitWidth) -> int:
    """Of the digits: the number of levels, or 256 where a value has its byte for itself."""
    return 256 if width.per_byte == 1 else width.levels


def _places(width: BitWidth) -> NDArray[np.uint16]:
    """What each digit of a byte counts, the first value's first."""
    return (_base(width) ** np.arange(width.per_byte)).astype(np.uint16)


def _bytes_in_use(width: BitWidth) -> int:
    """Bytes from here up to 255 stand for no values."""
    return int(_base(width) ** width.per_byte)


def _check_bytes(data: NDArray[np.uint8], width: BitWidth) -> None:
    largest = _bytes_in_use(width) - 1
    if data.max(initial=0) > largest:
        raise ArtifactError(
            f"expected bytes of at most {largest} at {width.bits} bits, found {data.max()}; export the network again"
        )
