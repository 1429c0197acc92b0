"""Preprocessing: convert any image to the float array that a network expects.

Images give the same values as with torchvision's ImageFolder and transforms: without alpha, and in their stored
orientation, whatever their EXIF data say. There are two differences: where Pillow would clip 16-bit pixels, edgeq
scales them, and pixels of unknown range (floats, signed integers) are an error.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.data import glyphs
from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.numerics.activations import LEVELS

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

Size = int | tuple[int, int]
"""A size in pixels: one side, or rows and columns."""

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's resampling filters; all but `nearest` are antialiased."""

ChannelOrder = Literal["rgb", "bgr", "gray"]
"""The channels of a network; `gray` is one, Pillow's `L`: 0.299 R + 0.587 G + 0.114 B."""

Layout = Literal["channels_first", "channels_last"]

_ORDERS: Final[dict[str, list[int]]] = {"rgb": [0, 1, 2], "bgr": [2, 1, 0], "gray": [0]}

_MAX_PIXELS: Final = 89_478_485
_SMALLEST: Final = float(np.finfo(np.float32).tiny)


def _size(value: Any) -> Size:
    if isinstance(value, tuple | list):
        rows, columns = map(operator.index, value)
        return rows, columns
    return operator.index(value)


def _pair(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _text(value: Size | tuple[float, ...] | str) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop the centre, reorder the channels, then compute `(x / 255 - mean) / std`.

    The result is bit for bit that of torchvision's Resize, CenterCrop, ToTensor, a reordering of the channels, and
    Normalize on a PIL image; of a gray image, on `image.convert("L")`. A network that takes 0..255 has a mean of 0 and
    a standard deviation of 1 / 255.

    Attributes:
        resize: size of the shorter side, keeping the aspect ratio; or rows and columns.
        crop: size of both sides, or rows and columns. At most `resize`; beyond it, torchvision would pad with black.
        mean: mean of each channel, in the network's channel order, in 0..1: three numbers, or one for gray images.
        std: standard deviation of each channel, in the same order, above 0 and at most 1.
        interpolation: filter for resizing.
        channel_order: order in which the network takes the channels.
        layout: whether the network takes `[channels, rows, columns]` or `[rows, columns, channels]`.

    Raises:
        UnsupportedError: a value of another type or out of range.
    """

    resize: Size
    crop: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    channel_order: ChannelOrder = "rgb"
    layout: Layout = "channels_first"

    def __post_init__(self) -> None:
        try:
            parsed: dict[str, Size | tuple[float, ...]] = {
                "resize": _size(self.resize), "crop": _size(self.crop),
                "mean": tuple(map(float, self.mean)), "std": tuple(map(float, self.std)),
            }  # fmt: skip
        except (TypeError, ValueError, OverflowError) as error:
            raise UnsupportedError(
                f"expected resize and crop as one or two whole numbers, mean and std as numbers, found {self!r}"
            ) from error
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        for found, known in (
            (self.interpolation, Interpolation), (self.channel_order, ChannelOrder), (self.layout, Layout),
        ):  # fmt: skip
            if found not in get_args(known):
                raise UnsupportedError(f"expected one of {', '.join(get_args(known))}, found {found!r}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise UnsupportedError(
                f"expected mean and std of {self.channels} number{'s' * (self.channels > 1)} each for channels in the "
                f"order {self.channel_order}, found mean {_text(self.mean)} and std {_text(self.std)}; "
                "change them or the channel order"
            )
        (rows, columns), (most_rows, most_columns) = _pair(self.crop), _pair(self.resize)
        if not (1 <= rows <= most_rows and 1 <= columns <= most_columns):
            raise UnsupportedError(
                f"expected 1 <= crop <= resize, found crop {_text(self.crop)} and resize {_text(self.resize)}; "
                "change one of them"
            )
        if most_rows * most_columns > _MAX_PIXELS:
            raise UnsupportedError(f"expected resize to at most {_MAX_PIXELS} pixels, found {_text(self.resize)}")
        if not all(0 <= value <= 1 for value in self.mean) or not all(_SMALLEST <= value <= 1 for value in self.std):
            raise UnsupportedError(
                f"expected mean in 0..1 and std above 0, at most 1, both of pixels scaled to 0..1, found mean "
                f"{_text(self.mean)} and std {_text(self.std)}"
                + "; divide those of pixels in 0..255 by 255"
                * (max(self.mean + self.std) > 1)
            )

    @property
    def channels(self) -> int:
        """The number of channels: 1 of gray images, else 3."""
        return len(self.order)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a preprocessed image: channels, rows, columns; or rows, columns, channels, as `layout` says."""
        rows, columns = _pair(self.crop)
        return (self.channels, rows, columns) if self._planes else (rows, columns, self.channels)

    @property
    def order(self) -> list[int]:
        """Indices that reorder R, G, B to the network's channels; the same indices reorder them back. `[0]` of gray."""
        return _ORDERS[self.channel_order]

    @property
    def _planes(self) -> bool:
        return self.layout == "channels_first"

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in self.texts().items())

    def texts(self) -> dict[str, str]:
        """Return each field as the command line options take it, but for the usual layout, channels first."""
        names = [part.name for part in fields(self) if part.name != "layout" or not self._planes]
        return {name: _text(getattr(self, name)) for name in names}

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Preprocess one image, to float32 of `shape`.

        Raises:
            DataError: pixels of unknown range (float, 32-bit integer), or an image so long and thin that it would have
                more than 89 million pixels when its shorter side is resized.
        """
        colours = _to_rgb(image)
        cropped = self._cropped(colours.convert("L") if self.channel_order == "gray" else colours)
        levels = np.asarray(cropped).reshape(cropped.height, cropped.width, -1)[..., self.order]
        pixels = levels.astype(np.float32) / np.float32(LEVELS)
        normalized = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalized.transpose(2, 0, 1) if self._planes else normalized)

    def mask(self, classes: Image.Image) -> Image.Image:
        """Resize and crop an image whose pixels are class indices, as its photo: every pixel takes the nearest one."""
        return replace(self, interpolation="nearest")._cropped(classes)

    def boxes(self, corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        """Map boxes from pixels of an image to pixels of what the network takes.

        Args:
            corners: float64 `[k, 4]`, x1, y1, x2, y2.
            width: of the image.
            height: of the image.

        Returns:
            The same boxes, clipped to the crop; those outside of it have no area.
        """
        size = self._resized(width, height)
        scale = np.tile(np.array(size, np.float64) / (width, height), 2)
        rows, columns = _pair(self.crop)
        moved = corners * scale - np.tile(self._corner(size), 2)
        inside: NDArray[np.float64] = np.clip(moved, 0, np.tile(np.array([columns, rows], np.float64), 2))
        return inside

    def _cropped(self, image: Image.Image) -> Image.Image:
        size = self._resized(*image.size)
        if size != image.size:
            check_size(*size)
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        rows, columns = _pair(self.crop)
        left, top = self._corner(size)
        return image.crop((left, top, left + columns, top + rows))

    def _corner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Left and top of the crop in an image resized to this width and height."""
        rows, columns = _pair(self.crop)
        return round((size[0] - columns) / 2), round((size[1] - rows) / 2)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short = min(width, height)
        return self.resize * width // short, self.resize * height // short

    def to_pixels(self) -> Preprocess:
        """Return this preprocessing without normalization and reordering: R, G, B or gray in 0..1."""
        order: ChannelOrder = "gray" if self.channel_order == "gray" else "rgb"
        return replace(self, mean=(0.0,) * self.channels, std=(1.0,) * self.channels, channel_order=order)

    def pixels(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undo normalization and channel order, and round to multiples of 1 / 255.

        Args:
            normalized: images, float32 `[n, *shape]`.

        Returns:
            R, G, B or gray in 0..1, float32 `[n, channels, rows, columns]`, whatever the layout.
        """
        normalized = normalized if self._planes else normalized.transpose(0, 3, 1, 2)
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        levels: NDArray[np.float32] = np.rint((normalized * std + mean) * np.float32(LEVELS)) / np.float32(LEVELS)
        return levels[:, self.order]

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`, also after a round trip through JSON.

        Files from before there were layouts name none: there the channels come first.

        Raises:
            ArtifactError: a field is missing, of another type or out of range.
        """
        names = [part.name for part in fields(cls)]
        try:
            known = {"layout": "channels_first", **body}
            return cls(**{name: known[name] for name in names})
        except (KeyError, TypeError, UnsupportedError) as error:
            wanted = f"{', '.join(names[:-1])} and {names[-1]}"
            raise ArtifactError(f"expected {wanted} of a preprocessing, found {body!r}") from error


IMAGENET: Final = Preprocess(256, 224, IMAGENET_MEAN, IMAGENET_STD)
EMBEDDED: Final = Preprocess(glyphs.SIZE, glyphs.SIZE, IMAGENET_MEAN, IMAGENET_STD)


def interleaved(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert float32 `[n, c, h, w]` in 0..1 to the layout of cameras and image files, uint8 `[n, h, w, c]`."""
    return np.ascontiguousarray(np.rint(images * np.float32(LEVELS)).astype(np.uint8).transpose(0, 2, 3, 1))


def check_size(width: int, height: int) -> None:
    """Refuse sizes at which Pillow would warn of a decompression bomb: more than 256 MiB of RGB.

    Raises:
        DataError: more than 89 million pixels.
    """
    if width * height > _MAX_PIXELS:
        raise DataError(f"too large: {width} x {height} pixels, at most {_MAX_PIXELS} in all can be handled")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB as Pillow (and so torchvision) does, but scale 16-bit pixels where Pillow clips."""
    if image.mode == "F":
        raise DataError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):  # I;16 in any byte order, or I (int32), which 16-bit files may open as
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise DataError("32-bit or signed pixels, whose range is unknown")
        wide = levels.astype(np.uint32)
        wide += 128  # in place, as the largest images have 89 million pixels
        wide //= 257
        return Image.fromarray(wide.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # same colours, but without Pillow's warning about transparency
    return image.convert("RGB")
