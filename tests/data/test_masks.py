from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.data.masks import find_masks
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError

PLAIN = Preprocess((4, 8), (4, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = np.arange(32, dtype=np.uint8).reshape(4, 8)


def pair(folder: Path, mask: Image.Image, name: str = "a.png") -> Path:
    for kind, image in (("images", Image.new("RGB", (8, 4))), ("masks", mask)):
        place = folder / kind / name
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    return folder


def palette(classes: Image.Image) -> Image.Image:
    coloured = classes.copy()
    coloured.putpalette(bytes(reversed(range(256))) * 3)
    return coloured


@pytest.mark.parametrize("kind", ["L", "palette", "I;16"])
def test_masks_hold_class_indices(kind: str, tmp_path: Path) -> None:
    classes = Image.fromarray(CLASSES)
    mask = {"L": classes, "palette": palette(classes), "I;16": Image.fromarray(CLASSES.astype(np.uint16))}[kind]
    found = find_masks(pair(tmp_path, mask)).read(0, PLAIN)
    np.testing.assert_array_equal(found, CLASSES)
    assert found.dtype == np.int64


def test_masks_are_resized_and_cropped_as_their_images_to_the_nearest_pixel(tmp_path: Path) -> None:
    """Doubled to 8 x 16, of which the columns 4 to 12 are taken."""
    masks = find_masks(pair(tmp_path, Image.fromarray(CLASSES)))
    doubled = CLASSES.repeat(2, 0).repeat(2, 1)[:, 4:12]
    preprocess = Preprocess(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(masks.read(0, preprocess), doubled)
    np.testing.assert_array_equal(masks.read(0, preprocess, (4, 4)), doubled[1::2, 1::2])


def test_equal_stems_belong_together(tmp_path: Path) -> None:
    pair(tmp_path, Image.fromarray(CLASSES), "x/b.png")
    (tmp_path / "images/x/b.png").rename(tmp_path / "images/x/b.webp")
    pair(tmp_path, Image.fromarray(CLASSES))
    Image.fromarray(CLASSES).save(tmp_path / "masks/spare.png")
    found = find_masks(tmp_path)
    assert found.paths == (tmp_path / "masks/a.png", tmp_path / "masks/x/b.png")
    assert [found.images.place(i) for i in range(2)] == [tmp_path / "images/a.png", tmp_path / "images/x/b.webp"]
    assert found.images.notices == (f"{tmp_path}: 1 masks without an image left out",)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (4, 8)), "expected a mask of 8 x 4 pixels, as its image, found 4 x 8"),
        (Image.new("RGB", (8, 4)), "expected a mask of class indices, one channel, found the mode RGB"),
    ],
    ids=["size", "colours"],
)
def test_masks_that_do_not_fit(mask: Image.Image, message: str, tmp_path: Path) -> None:
    masks = find_masks(pair(tmp_path, mask))
    with pytest.raises(DataError, match=f"^{re.escape(f'{tmp_path}/masks/a.png: {message}')}$"):
        masks.read(0, PLAIN)


def test_folders_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r": expected folders images and masks in it, found no images$"):
        find_masks(tmp_path)
    pair(tmp_path, Image.fromarray(CLASSES))
    Image.new("RGB", (8, 4)).save(tmp_path / "images/b.png")
    with pytest.raises(DataError, match=r": expected a mask for every image, found none for 1 of 2: b.png$"):
        find_masks(tmp_path)
    Image.new("RGB", (8, 4)).save(tmp_path / "images/a.jpg")
    Image.new("L", (8, 4)).save(tmp_path / "masks/b.png")
    with pytest.raises(
        DataError, match=r": expected files of different stems in images and in masks, found some twice$"
    ):
        find_masks(tmp_path)
    (tmp_path / "images/a.jpg").unlink()
    (tmp_path / "masks/a.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"masks/a.png: expected a mask, found something unreadable: cannot identify"):
        find_masks(tmp_path).read(0, PLAIN)
