"""Random crops: augmentations of the calibration images, against overfitting to them."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST: Final = 0.5  # smallest area of a crop, as a share of the image
_ASPECT: Final = 4 / 3  # largest aspect ratio of a crop, relative to the image; the smallest is its inverse


def crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop a random part of each image, resized to the full size and mirrored with a probability of one half.

    Args:
        images: `[n, channels, height, width]`, float32 or float16; inputs of other shapes are returned uncropped.
        generator: random generator on the CPU.

    Returns:
        float32 of the same shape, channels last.
    """
    if images.dim() != 4:
        return images.float()
    count = len(images)
    area, aspect, mirror, right, down = torch.rand(5, count, generator=generator, dtype=torch.float32)
    area, aspect = _SMALLEST + (1 - _SMALLEST) * area, _ASPECT ** (2 * aspect - 1)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    zero, sign = torch.zeros_like(area), 1 - 2 * (mirror < 0.5).float()
    rows = (
        torch.stack((width * sign, zero, (2 * right - 1) * (1 - width)), dim=1),
        torch.stack((zero, height, (2 * down - 1) * (1 - height)), dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    found = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)


def in_half(x: Tensor) -> Tensor:
    """Convert to float16, unless a value is too large for it."""
    half = x.half()
    return half if half.isfinite().all() else x
