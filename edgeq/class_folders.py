"""What a folder of images holds: the image files, and the class indices that the names of its class folders stand for.

A folder that holds only some of ImageNet's 1000 classes still gets the right indices, because its names say them.
"""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from edgeq.errors import DataError

_SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_WNID: Final = "an ImageNet id"
_INTEGER: Final = "a class index"
_NAME: Final = "a class name"


def image_paths(root: Path) -> list[str]:
    """Return the sorted `/`-separated paths, relative to `root`, of all files with an image suffix that are not hidden.

    Links are followed, but not those to a folder that they are in.

    Raises:
        DataError: `root` is missing, not a folder, cannot be listed, or holds no image.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder; name a folder of images")
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found a file")
    others, paths = 0, []
    for folder, subfolders, names in os.walk(root, onerror=_refuse, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and not _leads_back(folder, name)]
        for name in names:
            if Path(name).suffix.lower() in _SUFFIXES and not name.startswith("."):
                paths.append((Path(folder) / name).relative_to(root).as_posix())
            else:
                others += 1
    if not paths:
        found = f"none in {others} files" if others else "an empty folder"
        raise DataError(f"{root}: expected images ({' '.join(_SUFFIXES)}), found {found}")
    return sorted(paths)


def class_indices(root: Path, classes: int) -> dict[str, int]:
    """Return the class index of every folder in `root` that is not hidden; there is at least one.

    The names are ImageNet ids (`n01440764`) if `classes` is 1000, else integers (`0`, `0007`); some may be absent.
    Any other names count in sorted order, and then there must be as many as `classes`, as in torchvision's
    ImageFolder.

    Raises:
        DataError: names of several kinds, twice the same index, an index out of range, or too many or few names.
    """
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    by_kind: dict[str, list[str]] = {}
    for name in folders:
        by_kind.setdefault(_kind(name, classes), []).append(name)
    kinds = sorted(by_kind, key=lambda kind: len(by_kind[kind]))
    if len(kinds) > 1:
        odd = by_kind[kinds[0]][0]
        raise DataError(f"{root / odd}: expected {kinds[-1]} as the other class folders, found {kinds[0]}; rename it")
    if kinds == [_NAME]:
        if len(folders) != classes:
            raise DataError(
                f"{root}: expected {classes} class folders, one a class of the network, found {len(folders)}; "
                "only folders named by class index (or ImageNet id, for 1000 classes) may be fewer"
            )
        return {name: index for index, name in enumerate(folders)}
    known = _wnids() if kinds == [_WNID] else {name: int(name) for name in folders}
    folder_of: dict[int, str] = {}
    for name in folders:
        index = known.get(name, classes)
        if index >= classes:
            raise DataError(f"{root / name}: expected one of {classes} class indices from 0 or their ImageNet ids")
        if index in folder_of:
            raise DataError(f"{root / name}: expected one folder a class, found {folder_of[index]} for the same class")
        folder_of[index] = name
    return {name: index for index, name in folder_of.items()}


def _leads_back(folder: str, name: str) -> bool:
    """Whether a subfolder is a link to the folder or one above it."""
    real = os.path.realpath(folder)
    return Path(real).is_relative_to(os.path.realpath(Path(real) / name))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot list this folder: {error.strerror}") from error


def _kind(name: str, classes: int) -> str:
    if classes == len(_wnids()) and re.fullmatch(r"n\d{8}", name):
        return _WNID
    return _INTEGER if re.fullmatch(r"[0-9]+", name) else _NAME


@cache
def _wnids() -> dict[str, int]:
    names = files("edgeq").joinpath("data/imagenet_wnids.txt").read_text(encoding="ascii").split()
    return {name: index for index, name in enumerate(names)}
