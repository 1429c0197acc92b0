"""The weights of layers as the native engine's kernels read them: the packed bytes in another order."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from edgeq.native.program import DEPTH, LANES, up_to
from edgeq.numerics.trellis import Trellis
from edgeq.numerics.weights import BitWidth


def unit_channels(width: BitWidth) -> int:
    """Output channels that are decoded together: as many as whole bytes hold, or else 64."""
    return 48 if width.per_byte in (3, 6) else 64


def convolution_bytes(packed: NDArray[np.uint8], shape: tuple[int, ...], groups: int, width: BitWidth) -> bytes:
    """The bytes of a convolution.

    The inputs of an output channel are ordered as patches are: rows of the kernel, columns, channels; zeros fill them
    up to a multiple of 4. At 8 bits, bytes follow each other unit by unit, `[depth / 4][channels][4]`, for each group.
    Below, they are `[depth / 4][rows][4]`.

    Args:
        packed: uint8 `[rows, fan-in]`, see `edgeq.numerics.weights.QuantTensor`.
        shape: of the weights, `[out, in / groups, rows, columns]`.
        groups: of the convolution.
        width: of the weights.
    """
    out, inputs, rows, columns = shape
    ordered = packed.reshape(-1, inputs, rows, columns).transpose(0, 2, 3, 1).reshape(len(packed), -1)
    ordered = np.pad(ordered, ((0, 0), (0, -ordered.shape[1] % DEPTH)))
    if width.bits < 8:
        return _by_depth(ordered)
    units = [slice(i, i + unit_channels(width)) for i in range(0, out // groups, unit_channels(width))]
    return b"".join(_by_depth(group[unit]) for group in np.split(ordered, groups) for unit in units)


def _by_depth(rows: NDArray[np.uint8]) -> bytes:
    return rows.reshape(len(rows), -1, DEPTH).transpose(1, 0, 2).tobytes()


def depthwise_bytes(packed: NDArray[np.uint8]) -> bytes:
    """The bytes of a depthwise convolution, `[rows * columns][byte rows]`."""
    return packed.reshape(len(packed), -1).T.tobytes()


def trellis_bytes(trellis: Trellis) -> bytes:
    """What tells the engine what bytes stand for, see `trellis.h`."""
    found = [trellis.lookup(number) for number in range(len(trellis.steps))]
    tables = {step: levels.tobytes() for step, (_, levels) in zip(trellis.steps, found, strict=True)}
    return b"".join([*(first.astype(np.uint8).tobytes() for first, _ in found), *tables.values()])


def decoded_sizes(shape: tuple[int, ...], groups: int, width: BitWidth) -> list[int]:
    """Bytes of the decoded levels of each unit of a convolution."""
    depth, each, unit = up_to(prod(shape[1:]), DEPTH), shape[0] // groups, unit_channels(width)
    channels = [min(unit, each - first) for first in range(0, each, unit)] * groups
    return [up_to(count, LANES) * depth for count in channels]
