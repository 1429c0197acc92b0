"""The sigmoid as ONNX Runtime computes it: a quotient of polynomials, with fused products and sums.

It is within a last bit or two of the exact value, as PyTorch's is, but not always on the same side. Where the value is
in the middle between two codes, that decides which one a table has.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_END: Final = np.float32(18)  # beyond it, the value does not change
_ABOVE: Final = (
    4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 2.48287947061529e-01,
)  # fmt: skip
_BELOW: Final = (
    6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03, 1.16817656904453e-01,
    9.93151921023180e-01,
)  # fmt: skip
"""Coefficients of the square, the highest first."""

Floats = NDArray[np.float32]


def logistic(values: Tensor) -> Tensor:
    """The sigmoid of float32 values."""
    x = np.clip(values.numpy(), -_END, _END)
    square = x * x
    found = _polynomial(_ABOVE, square) * x / _polynomial(_BELOW, square) + np.float32(0.5)
    return torch.from_numpy(np.clip(found, np.float32(0), np.float32(1)))


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """Each step rounded once: a product of two floats is exact in double."""
    found = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        found = (found.astype(np.float64) * x + np.float64(np.float32(coefficient))).astype(np.float32)
    return found
