"""Where networks run."""

from __future__ import annotations

import torch

from edgeq.errors import UnsupportedError


def check_device(device: str) -> None:
    """Refuse `cuda` where torch has none.

    Raises:
        UnsupportedError: there is no such GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("device cuda: expected a CUDA GPU that torch can use, found none; use --device cpu")
