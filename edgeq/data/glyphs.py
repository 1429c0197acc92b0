"""The embedded data set: images of single characters, rendered on the fly and reproducible.

A fresh machine has no images, and edgeq may not redistribute those of others. So it renders its own: one character in a
random font of matplotlib, with random colour, size, rotation and perspective, on a cluttered background, blurred and
noisy. Characters that differ only by size or by a serif (O and 0, I and l and 1, c and C, q and 9) are left out.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CLASSES: Final = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabdefhnrt"
SIZE: Final = 96
Split = Literal["train", "calib", "test"]

_SPLIT_SEED: Final[dict[str, int]] = {"train": 1, "calib": 2, "test": 3}
_CANVAS: Final = 2 * SIZE  # twice the size, so that the perspective warp has pixels to sample from
_MIN_CONTRAST: Final = 80.0
_FONTS: Final = [
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmb10",
    "cmr10",
    "cmss10",
    "cmtt10",
]


def label(index: int) -> int:
    """Return the class of image `index`: classes alternate, so any `len(CLASSES)` consecutive images are balanced."""
    return index % len(CLASSES)


def render(split: Split, index: int) -> NDArray[np.uint8]:
    """Render image `index` of a split, uint8 `[96, 96, 3]` RGB; each split has its own random streams."""
    rng = np.random.default_rng([_SPLIT_SEED[split], index])
    background, ink = _colours(rng)
    mask = np.asarray(_warped_glyph(CLASSES[label(index)], rng), dtype=np.float32)[..., None] / 255.0
    image = Image.fromarray(_background(background, rng).astype(np.uint8))
    _clutter(image, rng)
    blended = np.asarray(image, dtype=np.float32) * (1.0 - mask) + ink * mask
    blurred = Image.fromarray(blended.astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.2)))
    noisy = np.asarray(blurred, dtype=np.float32) + rng.normal(0.0, rng.uniform(0.0, 18.0), (SIZE, SIZE, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw two RGB colours with enough contrast, float `[3]` in 0..255 each."""
    while True:
        background, ink = rng.uniform(0, 255, (2, 3))
        if np.linalg.norm(background - ink) >= _MIN_CONTRAST:
            return background, ink


def _background(colour: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a linear gradient with a random slope in each channel, float `[96, 96, 3]` within 0..255."""
    ramp = np.linspace(-1.0, 1.0, SIZE)
    slope_x, slope_y = rng.uniform(-30, 30, (2, 3))
    plane: NDArray[np.float64] = colour + ramp[None, :, None] * slope_x + ramp[:, None, None] * slope_y
    return plane.clip(0, 255)


def _clutter(image: Image.Image, rng: np.random.Generator) -> None:
    """Draw thin lines and small ellipses, which will be behind the character."""
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 6)):
        x0, y0, x1, y1 = (float(v) for v in rng.uniform(0, SIZE, 4))
        r, g, b = (int(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            draw.line((x0, y0, x1, y1), fill=(r, g, b), width=int(rng.integers(1, 3)))
        else:
            draw.ellipse((x0, y0, x0 + x1 / 6, y0 + y1 / 6), outline=(r, g, b))


def _warped_glyph(character: str, rng: np.random.Generator) -> Image.Image:
    """Render the character as an 8-bit mask of 96 x 96 pixels, rotated, scaled, shifted and in perspective."""
    font = _font(_FONTS[rng.integers(len(_FONTS))], 128)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).text((_CANVAS / 2, _CANVAS / 2), character, font=font, fill=255, anchor="mm")
    angle, scale = np.radians(rng.uniform(-20, 20)), rng.uniform(0.75, 1.35)
    shift_x, shift_y = rng.uniform(-8, 8, 2)
    tilt_x, tilt_y = rng.uniform(-0.002, 0.002, 2)
    # Output pixel (u, v), centred -> canvas pixel: rotate and scale, then divide by the perspective term.
    cos, sin = np.cos(angle) * 2 / scale, np.sin(angle) * 2 / scale
    centre, middle = SIZE / 2, _CANVAS / 2
    to_centre = np.array([[1, 0, -centre - shift_x], [0, 1, -centre - shift_y], [0, 0, 1]])
    warp = np.array([[cos, -sin, 0], [sin, cos, 0], [tilt_x, tilt_y, 1]])
    to_canvas = np.array([[1, 0, middle], [0, 1, middle], [0, 0, 1]])
    matrix = to_canvas @ warp @ to_centre
    coefficients = (matrix / matrix[2, 2]).flatten()[:8].tolist()
    return canvas.transform((SIZE, SIZE), Image.Transform.PERSPECTIVE, coefficients, resample=Image.Resampling.BILINEAR)
