"""The class of every pixel of an image, from a folder with `images/` and `masks/`, files of equal stems in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.data.image_files import find_images, formats
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess, check_size
from edgeq.errors import DataError, one_line

_INDEXED: Final = ("1", "L", "P", "I", "I;16")
"""Pillow's modes of one whole number a pixel."""


@dataclass(frozen=True)
class Masks:
    """Images with a mask each.

    Attributes:
        images: those of `images/`, in the order of their paths.
        paths: file of the mask of each.
    """

    images: ImageSet
    paths: tuple[Path, ...]

    def read(self, index: int, preprocess: Preprocess, size: tuple[int, int] | None = None) -> NDArray[np.int64]:
        """Return the class of every pixel of what a network takes of an image, int64 `[rows, columns]`.

        Args:
            index: of the image.
            preprocess: of the images; a mask is resized and cropped as its image, to the nearest pixel.
            size: rows and columns of the network's output, to which the mask is resized in the end; None leaves it.

        Raises:
            DataError: the mask cannot be read, has several channels, or another size than its image.
        """
        path = self.paths[index]
        try:
            with Image.open(path, formats=formats()) as mask:
                check_size(*mask.size)
                found = _indices(path, mask)
        except DataError:
            raise
        except Exception as error:  # decoders raise many types
            raise DataError(f"{path}: expected a mask, found something unreadable: {one_line(error)}") from error
        place = self.images.place(index)
        with Image.open(str(place), formats=formats()) as image:
            if image.size != found.size:
                wanted, got = (f"{width} x {height}" for width, height in (image.size, found.size))
                raise DataError(f"{path}: expected a mask of {wanted} pixels, as its image, found {got}")
        cut = preprocess.mask(found)
        if size is not None and cut.size != size[::-1]:
            cut = cut.resize(size[::-1], Image.Resampling.NEAREST)
        return np.asarray(cut).astype(np.int64)


def find_masks(root: Path) -> Masks:
    """Find the images in `root/images` and the mask of each in `root/masks`.

    Raises:
        DataError: one of the folders is missing or holds no image, a stem occurs twice, or an image has no mask.
    """
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise DataError(f"{root}: expected folders images and masks in it, found no {name}")
    found, masks = find_images(root / "images"), find_images(root / "masks")
    by_stem = {str(PurePosixPath(path).with_suffix("")): root / "masks" / path for path in masks.paths}
    stems = [str(PurePosixPath(path).with_suffix("")) for path in found.paths]
    if lacking := [path for path, stem in zip(found.paths, stems, strict=True) if stem not in by_stem]:
        raise DataError(
            f"{root}: expected a mask for every image, found none for {len(lacking)} of {len(stems)}: {lacking[0]}"
        )
    if len(by_stem) != len(masks.paths) or len({*stems}) != len(stems):
        raise DataError(f"{root}: expected files of different stems in images and in masks, found some twice")
    spare = len(by_stem) - len(stems)
    notices = [*found.notices(root / "images"), *[f"{root}: {spare} masks without an image left out"] * bool(spare)]
    return Masks(ImageSet.files(root / "images", found.paths, notices), tuple(by_stem[stem] for stem in stems))


def _indices(path: Path, mask: Image.Image) -> Image.Image:
    """The mask as 32-bit whole numbers; a palette only colours what it shows."""
    if mask.mode not in _INDEXED:
        raise DataError(f"{path}: expected a mask of class indices, one channel, found the mode {mask.mode}")
    return Image.fromarray(np.asarray(mask).astype(np.int32))
