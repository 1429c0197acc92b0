"""Rendered text for `onnx_files.py`: lines and pages in the fonts that come with matplotlib, with their texts.

The words are those of Python's own documentation, split in two: what a network is calibrated on has none of the lines
that it is judged by.
"""

from __future__ import annotations

import pydoc_data.topics
import re
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Part = Literal["calibration", "test"]
Pixels = NDArray[np.uint8]
"""`[rows, columns, 3]`, RGB."""

_FOLDER: Final = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_FONTS: Final = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip


class Line(NamedTuple):
    """A rendered line and its text."""

    pixels: Pixels
    text: str


def _words(part: Part) -> list[str]:
    topics = sorted(pydoc_data.topics.topics)
    half = topics[0::2] if part == "calibration" else topics[1::2]
    text = " ".join(pydoc_data.topics.topics[name] for name in half)
    return re.findall(r"[A-Za-z0-9][A-Za-z0-9.,:()-]{1,11}", text)


class Writer:
    """Draws from the words and looks of one part, reproducibly.

    Args:
        part: whose words.
        seed: of what is drawn.
    """

    def __init__(self, part: Part, seed: int) -> None:
        self._words = _words(part)
        self._random = np.random.default_rng([seed, part == "test"])

    def text(self, most: int) -> str:
        """Neighbouring words, as many as fit into so many letters; at least one."""
        start = int(self._random.integers(len(self._words) - most))
        found = self._words[start]
        for word in self._words[start + 1 :]:
            if len(found) + 1 + len(word) > most:
                break
            found += f" {word}"
        return found

    def line(self, size: tuple[int, int], most: int) -> Line:
        """A line that fills most of an image of these rows and columns."""
        text, (rows, columns) = self.text(most), size
        page = Image.new("RGB", (columns, rows), self._light())
        font = self._font(rows * self._random.uniform(0.5, 0.75))
        length = font.getlength(text)
        if length > 0.94 * columns:
            font = font.font_variant(size=font.size * 0.94 * columns / length)
        left, top, right, bottom = font.getbbox(text)
        space = columns - (right - left), rows - (bottom - top)
        at = self._random.uniform(0.01, 0.05) * columns - left, space[1] * self._random.uniform(0.4, 0.6) - top
        ImageDraw.Draw(page).text(at, text, self._dark(), font)
        return Line(self._seen(page), text)

    def page(self, size: tuple[int, int]) -> Pixels:
        """Lines of several sizes at random places, over a background that changes slowly."""
        rows, columns = size
        small = self._random.integers(150, 256, (3, 4, 3), dtype=np.uint8)
        page = Image.fromarray(small).resize((columns, rows), Image.Resampling.BICUBIC)
        top = self._random.uniform(0.02, 0.1) * rows
        while top < 0.92 * rows:
            font = self._font(self._random.uniform(0.03, 0.08) * rows)
            text = self.text(int(self._random.integers(6, 30)))
            ImageDraw.Draw(page).text((self._random.uniform(0, 0.4) * columns, top), text, self._dark(), font)
            top += float(font.size) * self._random.uniform(1.3, 2.5)
        return self._seen(page)

    def letters(self, size: tuple[int, int]) -> Pixels:
        """A few large letters at random places, turned at random, over noise."""
        rows, columns = size
        noise = self._random.integers(90, 256, (rows // 8, columns // 8, 3), dtype=np.uint8)
        page = Image.fromarray(noise).resize((columns, rows), Image.Resampling.BILINEAR)
        for _ in range(int(self._random.integers(2, 7))):
            font, letter = self._font(self._random.uniform(0.12, 0.25) * rows), self.text(1)[:1].upper()
            tile = Image.new("L", (int(font.size * 1.5),) * 2)
            ImageDraw.Draw(tile).text((font.size * 0.35, font.size * 0.15), letter, 255, font)
            tile = tile.rotate(float(self._random.uniform(-40, 40)))
            at = (int(self._random.uniform(0, columns - tile.width)), int(self._random.uniform(0, rows - tile.height)))
            page.paste(self._dark(), (*at, at[0] + tile.width, at[1] + tile.height), tile)
        return self._seen(page)

    def _font(self, size: float) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(_FOLDER / f"{_FONTS[int(self._random.integers(len(_FONTS)))]}.ttf"), size)

    def _light(self) -> Any:
        return tuple(map(int, self._random.integers(170, 256, 3)))

    def _dark(self) -> Any:
        return tuple(map(int, self._random.integers(0, 110, 3)))

    def _seen(self, page: Image.Image) -> Pixels:
        """As a camera would see it: a little blurred, with noise."""
        blurred = page.filter(ImageFilter.GaussianBlur(float(self._random.uniform(0, 0.8))))
        noise = self._random.normal(0, self._random.uniform(0, 8), (page.height, page.width, 3))
        return (np.asarray(blurred, np.float32) + noise).clip(0, 255).astype(np.uint8)
