"""The weights of layers as the native engine's kernels read them: the packed bytes in another order."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from edgeq.native.program import DEPTH, LANES, up_to
from edgeq.numerics.weights import BitWidth


def unit_channels(width: BitWidth) -> int:
    """Output channels whose bytes are stored together; a byte never belongs to two units of a group."""
    return 48 if width.per_byte == 3 else 64


def convolution_bytes(packed: NDArray[np.uint8], shape: tuple[int, ...], groups: int, width: BitWidth) -> bytes:
    """The bytes of a convolution, unit by unit: `[depth / 4][byte rows][4]`, for each group.

    The inputs of an output channel are ordered as patches are: rows of the kernel, columns, channels; zeros fill them
    up to a multiple of 4. A byte whose channels belong to two groups is stored in both.

    Args:
        packed: uint8 `[ceil(out / K), fan-in]`, see `edgeq.numerics.weights.QuantTensor`.
        shape: of the weights, `[out, in / groups, rows, columns]`.
        groups: of the convolution.
        width: of the weights.
    """
    out, inputs, rows, columns = shape
    ordered = packed.reshape(-1, inputs, rows, columns).transpose(0, 2, 3, 1).reshape(len(packed), -1)
    ordered = np.pad(ordered, ((0, 0), (0, -ordered.shape[1] % DEPTH)))
    each, parts = out // groups, list[bytes]()
    for group in range(groups):
        for first in range(0, each, unit_channels(width)):
            start, channels = group * each + first, min(unit_channels(width), each - first)
            unit = ordered[start // width.per_byte : -(-(start + channels) // width.per_byte)]
            parts.append(unit.reshape(len(unit), -1, DEPTH).transpose(1, 0, 2).tobytes())
    return b"".join(parts)


def depthwise_bytes(packed: NDArray[np.uint8], shape: tuple[int, ...], width: BitWidth) -> bytes:
    """The bytes of a depthwise convolution, unit by unit: `[rows * columns][byte rows]`."""
    rows = unit_channels(width) // width.per_byte
    taps = prod(shape[1:])
    return b"".join(packed[i : i + rows].reshape(-1, taps).T.tobytes() for i in range(0, len(packed), rows))


def decoded_sizes(shape: tuple[int, ...], groups: int, width: BitWidth) -> list[int]:
    """Bytes of the decoded levels of each unit of a convolution."""
    depth, each, unit = up_to(prod(shape[1:]), DEPTH), shape[0] // groups, unit_channels(width)
    channels = [min(unit, each - first) for first in range(0, each, unit)] * groups
    return [up_to(count, LANES) * depth for count in channels]
