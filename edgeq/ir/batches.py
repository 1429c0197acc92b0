"""Batches of images on their way into a network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.errors import DataError
from edgeq.ir.network import Network, as_tensor


def as_input(network: Network, images: NDArray[np.float32]) -> Tensor:
    """Images `[n, *input_shape]` as a float32 tensor where the network is, channels last."""
    x = as_tensor(np.ascontiguousarray(images, dtype=np.float32)).to(next(network.parameters()).device)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def checked_batch(network: Network, batch: NDArray[np.float32]) -> Tensor:
    """A batch as a tensor on the network's device, channels last.

    Raises:
        DataError: it is no array, not `[n, *input_shape]`, or not finite.
    """
    expected = network.graph.input_shape
    if not isinstance(batch, np.ndarray):
        raise DataError(
            f"expected batches of images as NumPy arrays, found {type(batch).__name__}; "
            "of what a loader yields, take images.numpy()"
        )
    if batch.shape[1:] != expected:
        raise DataError(f"expected batches of images {list(expected)}, found {list(batch.shape[1:])}")
    if not np.isfinite(batch).all():
        raise DataError("a batch of images holds NaN or infinite values; expected finite ones")
    return as_input(network, batch)
