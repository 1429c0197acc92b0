"""Quantized weights: bit widths, packed bytes, per-channel scales. NumPy only.

Below 8 bits a byte stands for K levels, which depend on the byte before it as well: see `edgeq.numerics.trellis`. The
tables of these codes are those that represent Gaussian weights best (`tools/make_trellises.py`). They leave 1 to 4 dB
less noise than the best uniform grid of as many bits. At 8 bits a byte is its own level.

The bytes of an input are cut into sequences that are coded each by itself, along the output channels.

The K weights of a byte belong to K neighbouring output channels and the same input, so each of them has the scale of
its own channel: the weight of output channel `c` is `level * scale[c]`, with zero point 0. Runtimes feed such weights
to their int8 kernels as they are, and a kernel that accumulates `q_w * q_x` needs no correction for a zero point of the
weights.

An activation `x` is stored as `q = clip(round(x / scale) + zero_point, 0, 255)`, one scale for a whole tensor. Zero is
exactly representable, because padding is zero (Jacob et al., arXiv:1712.05877, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.numerics.trellis import Step, Trellis, sequences

Float = NDArray[np.float32]

STEPS: Final[dict[float, tuple[Step, ...]]] = {
    4: (Step(4, 1, 255),) * 2,
    3: (*(Step(3, 1, 127),) * 2, Step(2, 1, 127)),
    2: (Step(4, 2, 255),) * 2,
    1.6: (*(Step(3, 2, 255),) * 2, Step(2, 1, 127)),
    1.33: (Step(4, 3, 255),) * 2,
    1: (Step(4, 4, 255),) * 2,
}
"""The steps of a byte, by bits."""

_PER_BYTE: Final[dict[float, int]] = {8: 1, 4: 2, 3: 3, 2: 4, 1.6: 5, 1.33: 6, 1: 8}
_UNITS: Final = {  # scale for Gaussian weights of variance 1 (make_trellises.py)
    4: 0.05738, 3: 0.04823, 2: 0.04481, 1.6: 0.0433, 1.33: 0.0401, 1: 0.0365,
}  # fmt: skip
_DEEPEST_CLIPPING: Final = 0.8  # smallest clipping limit tried at 8 bits, as a share of the largest weight
_CLIPPINGS: Final = 41
_REFINEMENTS: Final = 2
_ZEROS_SCALE: Final = 2.0**-20  # of an all-zero channel below 8 bits: few codes have only zeros
_FEWEST_HALF: Final = 2.0**-22  # smaller scales have fewer than 3 significant bits in float16
_LEAST_SCALE: Final = 2.0**-100  # the smallest scale of any channel, so that nothing is divided by 0
HIGHEST: Final = 127  # levels are symmetric, without -128, as runtimes expect
HIGHEST_REDUCED: Final = 63  # with `reduce_range`, and below 8 bits


@dataclass(frozen=True)
class BitWidth:
    """A bit width of weights: 8, 4, 3, 2, 1.6, 1.33 or 1 bits, of which a byte holds 1, 2, 3, 4, 5, 6 or 8 weights.

    So these are names: "3 bits" take 2.67, and "1.33 bits" a third of 4.

    Attributes:
        bits: 8, 4, 3, 2, 1.6, 1.33 or 1.
        reduce_range: whether 8-bit levels stay within -63..63. Kernels of x86 CPUs without VNNI add two products of a
            level and a uint8 in int16: 2 x 63 x 255 fits, 2 x 127 x 255 overflows. Below 8 bits no level is beyond 63.

    Raises:
        UnsupportedError: another number of bits.
    """

    bits: float
    reduce_range: bool = False

    def __post_init__(self) -> None:
        if self.bits not in _PER_BYTE:
            *names, last = map(str, _PER_BYTE)
            raise UnsupportedError(f"expected a width of {', '.join(names)} or {last} bits, found {self.bits}")
        object.__setattr__(self, "bits", next(bits for bits in _PER_BYTE if bits == self.bits))  # 2, where it was 2.0

    @property
    def per_byte(self) -> int:
        """Number of weights in one byte, K."""
        return _PER_BYTE[self.bits]

    @property
    def highest(self) -> int:
        """The largest level to use at 8 bits; the smallest is its negative."""
        return HIGHEST_REDUCED if self.reduce_range else HIGHEST

    @property
    def trellis(self) -> Trellis:
        """The code of the bytes, below 8 bits."""
        return _trellis(self.bits)


@cache
def _trellis(bits: float) -> Trellis:
    with (files("edgeq") / "assets" / f"trellis{bits}.npy").open("rb") as file:
        return Trellis(STEPS[bits], np.load(file))


WIDTHS: Final = tuple(BitWidth(bits) for bits in _PER_BYTE)


def packed_shape(shape: tuple[int, ...], width: BitWidth) -> tuple[int, int]:
    """Shape of the packed bytes of weights `[out, ...]`: `[rows, fan-in]`.

    There are at least `ceil(out / K)` rows: below 8 bits, as many as make equal sequences.
    """
    rows = -(-shape[0] // width.per_byte)
    return rows if width.bits == 8 else prod(sequences(rows)), prod(shape[1:])


def fills(shape: tuple[int, ...], width: BitWidth) -> bool:
    """Whether weights of this shape leave no room in their packed bytes."""
    return packed_shape(shape, width)[0] * width.per_byte == shape[0]


def packed_bytes(shape: tuple[int, ...], width: BitWidth) -> int:
    """Number of bytes that hold weights of this shape."""
    return prod(packed_shape(shape, width))


@dataclass(frozen=True)
class QuantTensor:
    """Quantized weights, packed into bytes.

    Attributes:
        data: uint8 `[rows, fan-in]`, see `packed_shape`. The byte in row `v` and column `i` holds the levels of output
            channels `v K` to `v K + K - 1` for input `i`. Levels beyond the last channel mean nothing.
        shape: shape of the weights, `[out, ...]`.
        scale: scale of each output channel, float32 `[out]`, positive.
        width: the bit width, which says how to decode the bytes.

    Raises:
        ArtifactError: the number of bytes or scales does not fit the shape.
    """

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    scale: Float
    width: BitWidth

    def __post_init__(self) -> None:
        expected = packed_shape(self.shape, self.width)
        if self.data.dtype != np.uint8 or self.data.shape != expected:
            raise ArtifactError(
                f"expected uint8{list(expected)} for {list(self.shape)} at {self.width.bits} bits, "
                f"found {self.data.dtype}{list(self.data.shape)}"
            )
        if self.scale.shape != self.shape[:1]:
            raise ArtifactError(f"expected {self.shape[0]} scales, found {list(self.scale.shape)}")

    def levels(self) -> NDArray[np.int8]:
        """Decode the bytes to levels, int8 of the weights' shape."""
        if self.width.bits == 8:
            return np.ascontiguousarray(self.data).view(np.int8).reshape(self.shape)
        cut = self.data.reshape(*sequences(len(self.data)), -1)
        levels = np.ascontiguousarray(self.width.trellis.decode(cut).transpose(0, 1, 3, 2))
        return levels.reshape(-1, self.data.shape[1])[: self.shape[0]].reshape(self.shape)

    def dequantize(self) -> Float:
        """Return `levels * scale`, float32 of the weights' shape."""
        return self.levels().astype(np.float32) * _per_channel(self.scale, len(self.shape))


@dataclass(frozen=True)
class QuantLayer:
    """The quantized weights and the bias of one layer.

    Attributes:
        weight: levels and scales of the weights.
        bias: float32 `[out]`.
    """

    weight: QuantTensor
    bias: Float


def starting_scales(weight: Float, width: BitWidth) -> Float:
    """Return the scale of each output channel that suits the weights alone, float32 `[out]`.

    At 8 bits it minimizes the squared error of round-to-nearest: clipping limits from the largest weight down to a
    fraction of it are tried, and the best is refined by least squares (with the levels fixed, the best scale is
    `<w, q> / <q, q>`). Below 8 bits it is the best scale for Gaussian weights of the same mean square. All scales are
    rounded as by `storable`. An all-zero channel gets 1 at 8 bits, where its levels are 0, else a negligible scale.

    Args:
        weight: float32 `[out, ...]`.
        width: of the weights.
    """
    rows = weight.reshape(len(weight), -1)
    if width.bits == 8:
        return np.where(rows.any(axis=1), _mse_scales(rows, width.highest), np.float32(1)).astype(np.float32)
    root_mean_square = np.sqrt(np.square(rows, dtype=np.float32).mean(axis=1))
    found = storable(root_mean_square * np.float32(_UNITS[width.bits]))
    return np.where(rows.any(axis=1), found, np.float32(_ZEROS_SCALE)).astype(np.float32)


def half_precision(values: Float, tolerance: float = float("inf")) -> Float:
    """Round float32 values to numbers that float16 represents exactly.

    All values stay unchanged if one is too large for float16 (65504) or would change by more than the tolerance.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(np.float32)
    moved = np.abs(rounded - values).max(initial=0)
    return rounded if np.isfinite(rounded).all() and moved <= tolerance else values


def as_stored(values: Float) -> NDArray[np.float16] | Float:
    """Convert float32 scales or biases to the type in which files store them: float16 if exact, else float32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half, values) else values


def storable(scale: Float) -> Float:
    """Round positive float32 scales to float16 numbers; scales outside of its normal precision stay float32."""
    scale = np.maximum(scale, np.float32(_LEAST_SCALE)).astype(np.float32)
    fits = (scale >= _FEWEST_HALF) & (scale <= np.finfo(np.float16).max)
    return np.where(fits, np.where(fits, scale, 1).astype(np.float16).astype(np.float32), scale)


def _mse_scales(rows: Float, highest: int) -> Float:
    reach = np.abs(rows).max(axis=1) / highest
    best = storable(reach)
    least = _rounding_error(rows, best, highest)
    for shrink in np.linspace(1.0, _DEEPEST_CLIPPING, _CLIPPINGS, dtype=np.float32)[1:]:
        best, least = _keep_better(rows, best, least, reach * shrink, highest)
    for _ in range(_REFINEMENTS):
        levels = _nearest(rows, best, highest)
        power = np.einsum("ij,ij->i", levels, levels)
        fitted = np.einsum("ij,ij->i", rows, levels) / np.maximum(power, 1)
        fitted = np.where(fitted > 0, fitted, best)
        best, least = _keep_better(rows, best, least, fitted, highest)
    return best


def _keep_better(rows: Float, best: Float, least: Float, candidate: Float, highest: int) -> tuple[Float, Float]:
    candidate = storable(candidate)
    error = _rounding_error(rows, candidate, highest)
    better = error < least
    return np.where(better, candidate, best).astype(np.float32), np.where(better, error, least).astype(np.float32)


def _nearest(rows: Float, scale: Float, highest: int) -> Float:
    return np.asarray(np.clip(np.rint(rows / scale[:, None]), -highest, highest), dtype=np.float32)


def _rounding_error(rows: Float, scale: Float, highest: int) -> Float:
    residual = rows - _nearest(rows, scale, highest) * scale[:, None]
    return np.asarray(np.einsum("ij,ij->i", residual, residual), dtype=np.float32)


def _per_channel(scale: Float, rank: int) -> Float:
    """Reshape `[out]` to `[out, 1, ...]`, to broadcast over a tensor of this rank."""
    return scale.reshape(-1, *[1] * (rank - 1))
