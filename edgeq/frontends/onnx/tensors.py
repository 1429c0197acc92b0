"""Tensors of ONNX files in PyTorch: all floats as float32, all integers as int64."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
import torch
from torch import Tensor

from edgeq.errors import UnsupportedError

_KINDS: Final = {
    "f": (np.float32, torch.float32),
    "i": (np.int64, torch.int64),
    "u": (np.int64, torch.int64),
    "b": (np.bool_, torch.bool),
}


def as_tensor(tensor: onnx.TensorProto) -> Tensor:
    """The values of a tensor, which is in the file itself.

    Raises:
        UnsupportedError: it is text, complex, or damaged.
    """
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # NumPy and onnx raise many types
        raise UnsupportedError(
            f"tensor {tensor.name}: expected as many values as its shape has, found others"
        ) from error
    kind = "f" if array.dtype.kind == "V" or array.dtype.name == "bfloat16" else array.dtype.kind
    if kind not in _KINDS:
        raise UnsupportedError(f"tensor {tensor.name}: expected numbers, found {array.dtype.name}")
    return torch.from_numpy(np.array(array, _KINDS[kind][0], order="C"))
