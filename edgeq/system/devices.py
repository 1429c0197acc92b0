"""The device that networks run on."""

from __future__ import annotations

import torch

from edgeq.errors import UnsupportedError


def check_device(device: str) -> None:
    """Refuse `cuda` if torch has no CUDA GPU.

    Raises:
        UnsupportedError: the device is `cuda` and there is no such GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("device cuda: expected a CUDA GPU that torch can use, found none; use --device cpu")
