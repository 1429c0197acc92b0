"""From any image to the float array that a network was trained on.

Colour images become what torchvision's transforms make of them. Where those would clip (16 bits a channel), edgeq
scales; where the range of the pixels is not known (floats, signed integers), it refuses.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq import glyphs
from edgeq.errors import ArtifactError, DataError, UnsupportedError

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

LEVELS: Final = 255
"""Of a pixel above black."""

_MAX_PIXELS: Final = 89_478_485


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side (bilinear, antialiased), crop the centre square, then `(x / 255 - mean) / std`.

    Bit for bit what torchvision's Resize, CenterCrop, ToTensor and Normalize make of a PIL image. `resize` and
    `crop` are pixels, `mean` and `std` are for R, G, B in 0..1.

    Raises:
        UnsupportedError: not 1 <= crop <= resize, a mean or std that is not finite, or a std that is not above 0.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise UnsupportedError(f"expected 1 <= crop <= resize, found crop {self.crop} and resize {self.resize}")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise UnsupportedError(f"expected finite mean and std, std above 0, found mean {self.mean}, std {self.std}")

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Return float32 `[3, crop, crop]`, channels R, G, B.

        Raises:
            DataError: pixels without a defined range (float, 32-bit integer), or so long and thin an image that
                resizing its shorter side would blow it up beyond 89 million pixels.
        """
        pixels = np.asarray(self._cropped(_to_rgb(image)), dtype=np.float32) / np.float32(LEVELS)
        normalized = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalized.transpose(2, 0, 1))

    def _cropped(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        short = min(width, height)
        if short != self.resize:
            width, height = self.resize * width // short, self.resize * height // short
            check_size(width, height)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return image.crop((left, top, left + self.crop, top + self.crop))

    def to_pixels(self) -> Preprocess:
        """The same, but that pixels stay what they are, in 0..1."""
        return replace(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def pixels(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the normalization back: float32 `[n, 3, h, w]`, the nearest of the levels of pixels in 0..1."""
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        levels: NDArray[np.float32] = np.rint((normalized * std + mean) * np.float32(LEVELS)) / np.float32(LEVELS)
        return levels

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` returned, or from the JSON of it.

        Raises:
            ArtifactError: a field is missing, of another type or out of range.
        """
        try:
            return cls(
                operator.index(body["resize"]),
                operator.index(body["crop"]),
                _triple(body["mean"]),
                _triple(body["std"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, UnsupportedError) as error:
            raise ArtifactError(f"expected resize, crop, mean and std of a preprocessing, found {body!r}") from error


IMAGENET: Final = Preprocess(256, 224, IMAGENET_MEAN, IMAGENET_STD)
EMBEDDED: Final = Preprocess(glyphs.SIZE, glyphs.SIZE, IMAGENET_MEAN, IMAGENET_STD)


def interleaved(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels as cameras and image files have them: float32 `[n, 3, h, w]` in 0..1 to uint8 `[n, h, w, 3]`."""
    return np.ascontiguousarray(np.rint(images * np.float32(LEVELS)).astype(np.uint8).transpose(0, 2, 3, 1))


def planar(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Inverse of `interleaved`."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(LEVELS))


def check_size(width: int, height: int) -> None:
    """Refuse sizes at which Pillow would warn of a decompression bomb: 256 MiB of RGB.

    Raises:
        DataError: more than 89 million pixels.
    """
    if width * height > _MAX_PIXELS:
        raise DataError(f"too large: {width} x {height} pixels, at most {_MAX_PIXELS} in all can be handled")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB as Pillow (and so torchvision) does, but scale 16-bit pixels where it clips."""
    if image.mode == "F":
        raise DataError("floating-point pixels, whose white is anybody's guess")
    if image.mode.startswith("I"):  # I;16 and its byte orders, or I (int32), as which 16-bit files can also open
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise DataError("32-bit or signed pixels, whose white is anybody's guess")
        wide = levels.astype(np.uint32)
        wide += 128  # in place, as the largest images have 89 million pixels
        wide //= 257
        return Image.fromarray(wide.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; straight to RGB, Pillow would warn
    return image.convert("RGB")


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
