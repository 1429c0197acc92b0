"""Integer weights to bytes and back.

`K = 8 / bits` values share a byte, the first in the lowest bits, in two's complement, row-major over the tensor; a
last byte that is not full is filled with zero bits. This is also the order of ONNX INT4 and INT2 raw data.

    4 bits: [1, -8, 7, -1, 0]   -> 81 f7 00
    2 bits: [1, 0, -1, -2, 1]   -> b1 01
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
        data: uint8 `[ceil(prod(shape) * bits / 8)]`.
        shape: shape of the weights, `[out, ...]`.
        scale: float32 `[out]`.
        width: the grid.

    Raises:
        ArtifactError: the number of bytes or scales does not fit the shape.
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
    flat = codes.reshape(-1).view(np.uint8) & np.uint8((1 << width.bits) - 1)
    padded = np.zeros(packed_bytes(flat.size, width) * width.per_byte, np.uint8)
    padded[: flat.size] = flat
    shifts = np.arange(width.per_byte, dtype=np.uint8) * np.uint8(width.bits)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, width.per_byte) << shifts, axis=1)
    return packed


def unpack_codes(data: NDArray[np.uint8], count: int, width: BitWidth) -> NDArray[np.int8]:
    """Read `count` codes back as int8 `[count]`.

    Raises:
        ArtifactError: `data` does not hold exactly the bytes of `count` values.
    """
    if data.size != packed_bytes(count, width):
        raise ArtifactError(
            f"expected {packed_bytes(count, width)} bytes for {count} values at {width.bits} bits, found {data.size}"
        )
    return codebook(width)[data].reshape(-1)[:count]


def codebook(width: BitWidth) -> NDArray[np.int8]:
    """Return int8 `[256, K]`: row `v` holds the K values that byte `v` stands for, the lowest bits first."""
    shifts = np.arange(width.per_byte) * width.bits
    raw = (np.arange(256)[:, None] >> shifts) & ((1 << width.bits) - 1)
    return np.where(raw > width.qmax, raw - (1 << width.bits), raw).astype(np.int8)
