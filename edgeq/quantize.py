"""The arithmetic of quantization: widths, scales, codes. NumPy only.

A weight `w` of output channel `c` is stored as the integer `q = clip(round(w / scale[c]), qmin, qmax)` and read back
as `q * scale[c]`: per channel, zero point 0. Runtimes feed such weights to their int8 kernels as they are, and a kernel
that accumulates `q_w * q_x` needs no correction term for the zero point of the weights. Below 8 bits a grid reaches
further down than up, so a scale may be negative: it turns the grid round for a channel whose long tail is positive.

An activation `x` is stored as `q = clip(round(x / scale) + zero_point, 0, 255)`, one scale for a whole tensor. Zero is
exactly representable, because padding is zero (Jacob et al., arXiv:1712.05877, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError

Float = NDArray[np.float32]

_GRIDS: Final = {8: (-127, 127, 1), 4: (-8, 7, 2), 3: (-3, 2, 3), 2: (-2, 1, 4)}  # lowest, highest, values in a byte
_DEEPEST_CLIPPING: Final = {8: 0.8, 4: 0.4, 3: 0.3, 2: 0.2}  # the fewer levels there are, the more pays clipping
_CLIPPINGS: Final = 41
_REFINEMENTS: Final = 2


@dataclass(frozen=True)
class BitWidth:
    """A signed integer grid of 8, 4, 3 or 2 bits and how many of its values share a byte.

    At 8 bits the grid is symmetric, -127..127, as runtimes expect. Below, no level can be spared, so at 4 and 2 bits
    the grid is the whole range of two's complement: -8..7 and -2..1. "3 bits" are the six levels -3..2: three such
    values fit in a byte, since 6^3 = 216 <= 256, and take 2.67 bits each; of eight levels a byte would hold but two.

    Raises:
        UnsupportedError: another number of bits.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in _GRIDS:
            raise UnsupportedError(f"expected a width of 8, 4, 3 or 2 bits, found {self.bits}")

    @property
    def qmin(self) -> int:
        """Lowest level."""
        return _GRIDS[self.bits][0]

    @property
    def qmax(self) -> int:
        """Highest level."""
        return _GRIDS[self.bits][1]

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return self.qmax - self.qmin + 1

    @property
    def per_byte(self) -> int:
        """Values in one packed byte."""
        return _GRIDS[self.bits][2]


WIDTHS: Final = tuple(BitWidth(bits) for bits in _GRIDS)


@dataclass(frozen=True)
class QuantTensor:
    """Integer weights.

    Attributes:
        codes: int8 `[out, ...]`, each within `[width.qmin, width.qmax]`.
        scale: float32 `[out]`, non-zero, may be negative.
        width: the grid.
    """

    codes: NDArray[np.int8]
    scale: Float
    width: BitWidth

    def dequantize(self) -> Float:
        """Return `codes * scale`, float32 of the codes' shape."""
        return self.codes.astype(np.float32) * _per_channel(self.scale, self.codes.ndim)


@dataclass(frozen=True)
class QuantLayer:
    """A layer ready to be packed.

    Attributes:
        weight: integer weights and scales.
        bias: float32 `[out]`.
    """

    weight: QuantTensor
    bias: Float


def quantize_weights(weight: Float, scale: Float, width: BitWidth) -> QuantTensor:
    """Round float32 weights `[out, ...]` to the nearest level under scales `[out]`."""
    levels = np.rint(weight / _per_channel(scale, weight.ndim))
    return QuantTensor(np.clip(levels, width.qmin, width.qmax).astype(np.int8), scale, width)


def mse_scales(weight: Float, width: BitWidth) -> Float:
    """Return the scale of each output channel that minimizes the squared rounding error, float32 `[out]`.

    Tries a range of clippings, from the largest weight down to a fraction of it, then improves the best by least
    squares: with the codes fixed, the best scale is `<w, q> / <q, q>` (Lloyd's alternation on a uniform grid). Where
    the grid is not symmetric, the same with the sign turned round, and the better of the two is negative or positive.
    All are numbers that float16 holds exactly, non-zero, and their errors are those after that rounding. A channel of
    zeros gets scale 1.
    """
    rows = weight.reshape(len(weight), -1)
    best, least = _positive_scales(rows, width)
    if width.qmin != -width.qmax:
        mirrored, error = _positive_scales(-rows, width)
        best = np.where(error < least, -mirrored, best)
    return np.where(rows.any(axis=1), best, np.float32(1)).astype(np.float32)


def half_precision(values: Float) -> Float:
    """Round float32 values to numbers that float16 holds; all stay as they are if one is too large for it (65504)."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(np.float32)
    return rounded if np.isfinite(rounded).all() else values


def stored_bias(bias: Float, scale: Float, input_step: float | None) -> Float:
    """Round a bias to what files and kernels hold, float32 `[out]`.

    Args:
        bias: float32 `[out]`.
        scale: of the weights, `[out]`.
        input_step: scale of the layer's quantized input: integer kernels add the bias in units of both; None if the
            input is float.
    """
    if input_step is not None:
        unit = scale * np.float32(input_step)
        bias = np.rint(bias / unit) * unit
    return half_precision(bias.astype(np.float32))


def as_stored(values: Float) -> NDArray[np.float16] | Float:
    """The form in which files hold float32 scales and biases: float16 if that loses nothing, else float32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half, values) else values


def _positive_scales(rows: Float, width: BitWidth) -> tuple[Float, Float]:
    """The best positive scale of each row, and its squared error."""
    reach = np.maximum(rows.max(axis=1) / width.qmax, rows.min(axis=1) / width.qmin)
    best = _storable(reach)
    least = _rounding_error(rows, best, width)
    for shrink in np.linspace(1.0, _DEEPEST_CLIPPING[width.bits], _CLIPPINGS, dtype=np.float32)[1:]:
        best, least = _keep_better(rows, best, least, reach * shrink, width)
    for _ in range(_REFINEMENTS):
        codes = np.clip(np.rint(rows / best[:, None]), width.qmin, width.qmax)
        power = np.einsum("ij,ij->i", codes, codes)
        fitted = np.einsum("ij,ij->i", rows, codes) / np.maximum(power, 1)
        best, least = _keep_better(rows, best, least, fitted, width)
    return best, least


def _storable(scale: Float) -> Float:
    """The nearest positive numbers of float16."""
    half = np.finfo(np.float16)
    return half_precision(np.clip(scale, half.smallest_subnormal, half.max).astype(np.float32))


def _keep_better(rows: Float, best: Float, least: Float, candidate: Float, width: BitWidth) -> tuple[Float, Float]:
    candidate = _storable(candidate)
    error = _rounding_error(rows, candidate, width)
    better = error < least
    return np.where(better, candidate, best).astype(np.float32), np.where(better, error, least).astype(np.float32)


def _rounding_error(rows: Float, scale: Float, width: BitWidth) -> Float:
    codes = np.clip(np.rint(rows / scale[:, None]), width.qmin, width.qmax)
    residual = rows - codes * scale[:, None]
    return np.asarray(np.einsum("ij,ij->i", residual, residual), dtype=np.float32)


def _per_channel(scale: Float, rank: int) -> Float:
    """`[out]` -> `[out, 1, ...]`, to broadcast over a tensor of this rank."""
    return scale.reshape(-1, *[1] * (rank - 1))


@dataclass(frozen=True)
class ActivationRange:
    """How one activation tensor is stored in uint8.

    Attributes:
        low, high: the range that is represented, `low <= 0 <= high`.
        scale: `(high - low) / 255`, a float32 number.
        zero_point: the code of 0.
    """

    low: float
    high: float
    scale: float
    zero_point: int

    @staticmethod
    def covering(low: float, high: float) -> ActivationRange:
        """The range that covers `[low, high]` and 0, moved by less than a step so that 0 falls on a level.

        A tensor that is always zero gets scale 1 / 255.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            high = 1.0
        scale = max(np.float32((high - low) / 255.0), np.finfo(np.float32).tiny)  # a subnormal one may divide as 0
        zero_point = int(np.clip(np.rint(-low / scale), 0, 255))
        return ActivationRange(float(-zero_point * scale), float((255 - zero_point) * scale), float(scale), zero_point)
