"""Find the image files, or files of arrays, below a folder: each file once, even if symlinks lead to it.

Files with the suffix of a format that Pillow decodes count as images, `.npy` and `.npz` files as arrays. Hidden files
and those that operating systems leave in folders do not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal

from PIL import Image

from edgeq.data.array_files import ARRAYS
from edgeq.errors import DataError

_NOT_READ: Final = frozenset(
    (
        *("BUFR", "GRIB", "HDF5", "MPEG", "WMF"),  # Pillow recognizes but does not decode them
        *("EPS",),  # needs another program, Ghostscript
        *("FITS", "FLI", "GBR", "IM", "IPTC", "PCD"),  # their suffixes also belong to films, circuits, point clouds
    )
)
_SYSTEM: Final = frozenset(
    (
        *("__macosx", "__pycache__", "lost+found", "$recycle.bin", "system volume information"),
        *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # of network storage
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    )
)
"""Names of files and folders that operating systems create, in lower case."""

Kind = Literal["images", "arrays"]
"""What the files of a set are."""


@dataclass
class ImageFiles:
    """The files below a folder.

    Attributes:
        paths: paths of the images or arrays, `/`-separated, relative to the folder, sorted.
        kind: `images` or `arrays`.
        others: number of other files by suffix, without hidden files and those of operating systems.
        repeated: number of symlinks to such a file or folder that counts already, or to a folder that contains them.
    """

    paths: list[str] = field(default_factory=list)
    kind: Kind = "images"
    others: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    def notices(self, root: Path) -> Iterator[str]:
        """Yield a line for each kind of file that was left out."""
        if self.others:
            counts = sorted(self.others.items(), key=lambda item: (-item[1], item))
            kinds = [f"{count} {kind}" for kind, count in counts]
            more = f" and {len(kinds) - 5} other kinds" if len(kinds) > 5 else ""
            yield f"{root}: {self.others.total()} left out, no {self.kind}: {', '.join(kinds[:5])}{more}"
        if self.repeated:
            yield f"{root}: {self.repeated} left out, links to what is in the folder already, or holds it"


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that Pillow decodes without other programs, as `PIL.Image.open` takes them."""
    known = set(Image.registered_extensions().values()) - _NOT_READ
    return tuple(name for name in Image.ID if name in known)


@cache
def suffixes() -> frozenset[str]:
    """Return the file suffixes of `formats`, in lower case."""
    read = {*formats(), "MPO"}  # several JPEG images in one file, which Pillow opens as JPEG
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in read)


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to an operating system, so it is neither an image nor a class."""
    return name.startswith(".") or name.lower() in _SYSTEM


def find_images(root: Path) -> ImageFiles:
    """Find the images in a folder and all folders in it.

    A file or folder with several names (symlinks) counts once: under its own path if that is below `root`, else under
    the path with the fewest folders, the first one in sorted order. Symlinks to a folder that contains them are not
    followed.

    Raises:
        DataError: `root` is missing, not a folder, cannot be listed, or holds no image.
    """
    return _found(root, suffixes(), "images (.jpg, .png, .webp or another format that Pillow reads)")


def find_samples(root: Path) -> ImageFiles:
    """Find the images in a folder and all folders in it, as `find_images` does, or else the arrays.

    Raises:
        DataError: as for `find_images`, or the folder holds both images and arrays.
    """
    found = _found(root, suffixes() | ARRAYS, "images (.jpg, .png, ...) or arrays (.npy, .npz)")
    arrays = sum(Path(path).suffix.lower() in ARRAYS for path in found.paths)
    if 0 < arrays < len(found.paths):
        raise DataError(
            f"{root}: expected images or arrays, found {len(found.paths) - arrays} images and {arrays} arrays; "
            "put them into folders of their own"
        )
    found.kind = "arrays" if arrays else "images"
    return found


def _found(root: Path, wanted: frozenset[str], expected: str) -> ImageFiles:
    """Find the files with one of some suffixes."""
    if not root.exists():
        raise DataError(f"{root}: no such folder; name a folder of images")
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found a file")
    found = _walk(root, wanted)
    if not found.paths:
        others = found.others.total()
        what = f"none in {others} file{'s' * (others > 1)}" if others else "an empty folder"
        raise DataError(f"{root}: expected {expected}, found {what}")
    found.paths.sort()
    return found


def _walk(root: Path, wanted: frozenset[str]) -> ImageFiles:
    found = ImageFiles()
    start = f"{root}{os.sep}"
    folders, folder_links, file_links, seen = [start], list[str](), list[str](), set[str]()
    while folders or folder_links:
        if not folders:
            link = min(folder_links, key=_rank)
            folder_links.remove(link)
            if os.path.realpath(link) in seen or _leads_back(Path(link), root):
                found.repeated += 1
                continue
            folders.append(link)
        folder = folders.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(folder):
            kind = _kind(entry, wanted)
            if kind == "folder":
                (folder_links if entry.is_symlink() else folders).append(entry.path)
            elif kind == "wanted" and not entry.is_symlink():
                found.paths.append(entry.path)
            elif kind == "wanted":
                file_links.append(entry.path)
            else:
                found.others[kind] += 1
    counted = {os.path.realpath(path) for path in found.paths} if file_links else set()
    for path in sorted(file_links, key=_rank):
        target = os.path.realpath(path)
        if target in counted:
            found.repeated += 1
        else:
            counted.add(target)
            found.paths.append(path)
    found.paths = [path.removeprefix(start).replace(os.sep, "/") for path in found.paths]
    return found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """List a folder, without hidden entries and those of operating systems."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_system(entry.name)]
    except OSError as error:
        raise DataError(f"{Path(folder)}: cannot list this folder: {error.strerror}") from error


def _kind(entry: os.DirEntry[str], wanted: frozenset[str]) -> str:
    """Return `folder`, `wanted`, or for any other file its suffix or a description."""
    try:
        if entry.is_dir():
            return "folder"
        regular = entry.is_file()
        reachable = regular or Path(entry.path).exists()
    except OSError:  # a cycle of symlinks, or no permission for the target's folder
        regular, reachable = False, False
    suffix = Path(entry.name).suffix.lower()
    if suffix not in wanted:
        return suffix or "without a suffix"
    return "wanted" if regular or not reachable else "pipe or device"  # a broken link counts by its suffix


def _rank(path: str) -> tuple[int, str]:
    """Sort key: of several paths of one file, the preferred one comes first."""
    return path.count(os.sep), path


def _leads_back(link: Path, root: Path) -> bool:
    """Whether a symlink leads to a folder that contains it, directly or through other symlinks."""
    target = os.path.realpath(link)
    return any(Path(os.path.realpath(folder)).is_relative_to(target) for folder in (link.parent, root))
