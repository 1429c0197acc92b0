"""Rounding of layers in the kernels' library: the passes of `edgeq.rounding.gptq`, number by number the same."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.native.encoder import Encoder, Encoding
from edgeq.native.library import library
from edgeq.numerics.trellis import sequences
from edgeq.numerics.weights import BitWidth, packed_shape

Float = NDArray[np.float32]

_AT_8_BITS: Final = 32  # outputs that are rounded together, by the way only


class _Layer(ctypes.Structure):
    """`eq_layer` of round.c."""

    _fields_ = (
        ("encoding", Encoding),
        ("levels", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("per_byte", "highest", "outputs", "of_group", "inputs")),
    )


class Rounder:
    """The passes over the weights of a layer.

    Args:
        width: bit width of the weights.
        shape: of the weights, `[groups, out, fan-in]`.
        threads: how many threads share the outputs; results do not depend on it.
    """

    def __init__(self, width: BitWidth, shape: tuple[int, int, int], threads: int) -> None:
        groups, of_group, inputs = shape
        outputs = groups * of_group
        self._shape, self._threads = packed_shape((outputs, inputs), width), threads
        levels, per_byte = None, 1
        if width.bits == 8:
            encoding, rows = Encoding(bytes=_AT_8_BITS), _AT_8_BITS
        else:
            self._encoder, self._levels = Encoder(width.trellis), width.trellis.decoder  # whose places are held
            rows, per_byte, levels = sequences(self._shape[0])[1], width.per_byte, self._levels.ctypes.data
            encoding = self._encoder.encoding(rows)
        self._sets = -(-self._shape[0] // rows)
        self._layer = _Layer(encoding, levels, per_byte, width.highest, outputs, of_group, inputs)

    def gptq(self, weight: Float, factor: Float, scale: Float) -> NDArray[np.uint8]:
        """Return bytes `[rows, fan-in]`, see `edgeq.rounding.gptq.gptq`.

        Args:
            weight: float32 `[groups, out, fan-in]`, in the order in which inputs are rounded.
            factor: of the same order, `[groups, fan-in, fan-in]`.
            scale: `[groups, out]`.
        """
        return self._run(library().eq_gptq, weight, factor, scale, np.zeros(self._shape, np.uint8))

    def descend(self, slope: Float, hessian: Float, scale: Float, start: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return other bytes `[rows, fan-in]`, see `edgeq.rounding.gptq.descend`.

        Args:
            slope: half of the slope of the errors by the weights, float32 `[groups, out, fan-in]`.
            hessian: `[groups, fan-in, fan-in]`.
            scale: `[groups, out]`.
            start: bytes to start from, `[rows, fan-in]`.
        """
        return self._run(library().eq_descend, slope, hessian, scale, start.copy())

    def _run(
        self, kernel: Callable[..., Any], array: Float, matrix: Float, scale: Float, made: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        array, matrix, scale = (np.ascontiguousarray(one, np.float32) for one in (array, matrix, scale))
        layer, parts = ctypes.byref(self._layer), min(self._threads, self._sets)

        def part(number: int) -> None:
            start, end = (self._sets * i // parts for i in (number, number + 1))
            memory = np.empty(library().eq_round_bytes(layer), np.uint8)
            places = (one.ctypes.data for one in (array, matrix, scale, memory, made))
            kernel(layer, start, end - start, *places)

        if parts == 1:
            part(0)
        else:
            with ThreadPoolExecutor(parts) as pool:
                list(pool.map(part, range(parts)))
        return made
