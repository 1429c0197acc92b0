"""Augmentations of the calibration images, against overfitting to them: random crops, and a blur of some images."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST: Final = 0.5  # smallest area of a crop, as a share of the image
_ASPECT: Final = 4 / 3  # largest aspect ratio of a crop, relative to the image; the smallest is its inverse
_BLURRED: Final = 0.5  # share of images that are blurred
_BLUR: Final = 1 / 150  # largest standard deviation of a blur, as a share of the shorter side: 1.5 pixels of 224
_REACH: Final = 3  # standard deviations of the largest blur that it reaches
_LEAST: Final = 1e-3  # least standard deviation of a blur, in pixels: it changes nothing


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop images, and blur some of them: `crops` and `blurred`."""
    return blurred(crops(images, generator), generator)


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


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur some of the images by a Gaussian of random width, as cameras and resizing do.

    Args:
        images: `[n, channels, height, width]`, float32; inputs of other shapes are returned as they are.
        generator: random generator on the CPU.

    Returns:
        float32 of the same shape.
    """
    if images.dim() != 4:
        return images
    count, largest = len(images), _BLUR * min(images.shape[2:])
    draw, width = torch.rand(2, count, generator=generator, dtype=torch.float32)
    chosen = draw < _BLURRED
    reach = math.ceil(_REACH * largest)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    width = (largest * width[chosen]).clamp(min=_LEAST)
    weights = torch.exp(-0.5 * (offsets / width[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True))[:, :, None, None, None]
    found, x = images.clone(), images[chosen]
    for dim, sides in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        wide, size = F.pad(x, sides, mode="replicate"), x.shape[dim]
        x = torch.zeros_like(x)
        for k, weight in enumerate(weights.unbind(1)):
            x.addcmul_(weight, wide.narrow(dim, k, size))
    found[chosen] = x
    return found


def in_half(x: Tensor) -> Tensor:
    """Convert to float16, unless a value is too large for it."""
    half = x.half()
    return half if half.isfinite().all() else x
