"""Random crops: other views of the same images, so that what is fitted to a thousand images also fits the next one."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST: Final = 0.5  # of the area of an image in a crop
_ASPECT: Final = 4 / 3  # of a crop, or its inverse, at most


def crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut a random part out of each image, stretched to the full size and, every second time, mirrored.

    Args:
        images: `[n, channels, height, width]`; of other shapes they are returned as they are.
        generator: of the choice, on the CPU.

    Returns:
        float32, channels last, of the same shape.
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
    """In float16, unless a value is too large for it."""
    half = x.half()
    return half if half.isfinite().all() else x
