"""Which files below a folder are images: each of them once, whatever links lead to it, and none that is opened in vain.

What Pillow decodes counts as an image, by its suffix. What programs and systems leave between images does not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image

from edgeq.errors import DataError

_NOT_READ: Final = frozenset(
    (
        *("BUFR", "GRIB", "HDF5", "MPEG", "WMF"),  # recognized by Pillow, but not decoded
        *("EPS",),  # decoded by Ghostscript, a program of its own
        *("FITS", "FLI", "GBR", "IM", "IPTC", "PCD"),  # suffixes that films, tracks, circuits and point clouds have
    )
)
_SYSTEM: Final = frozenset(
    (
        *("__macosx", "__pycache__", "lost+found", "$recycle.bin", "system volume information"),
        *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # of network storage
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    )
)
"""Names that systems give to files and folders of their own, in lower case."""


@dataclass
class ImageFiles:
    """What lies below a folder.

    Attributes:
        paths: of the images, `/`-separated and relative to the folder, sorted.
        others: files that are no images, counted by suffix; hidden ones and those of systems are not among them.
        repeated: links that lead to an image or a folder that counts already, or to a folder that they are in.
    """

    paths: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    def notices(self, root: Path) -> Iterator[str]:
        """Say in a line each what was left out."""
        if self.others:
            counts = sorted(self.others.items(), key=lambda item: (-item[1], item))
            kinds = [f"{count} {kind}" for kind, count in counts]
            more = f" and {len(kinds) - 5} other kinds" if len(kinds) > 5 else ""
            yield f"{root}: {self.others.total()} left out, no images: {', '.join(kinds[:5])}{more}"
        if self.repeated:
            yield f"{root}: {self.repeated} left out, links to what is in the folder already, or holds it"


@cache
def formats() -> tuple[str, ...]:
    """The formats that Pillow decodes by itself, as `PIL.Image.open` takes them."""
    known = set(Image.registered_extensions().values()) - _NOT_READ
    return tuple(name for name in Image.ID if name in known)


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of their files, in lower case."""
    read = {*formats(), "MPO"}  # several JPEG images in a file, which is opened as JPEG
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in read)


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or of a system: nobody's image and nobody's class."""
    return name.startswith(".") or name.lower() in _SYSTEM


def find_images(root: Path) -> ImageFiles:
    """Find the images in a folder and all folders in it.

    A file or folder that links lead to counts once: under its own name if that is below `root`, else under the name
    with the fewest folders, of equals the first one. Links to a folder that they are in are not followed.

    Raises:
        DataError: `root` is missing, not a folder, cannot be listed, or holds no image.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder; name a folder of images")
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found a file")
    found = _walk(root)
    if not found.paths:
        others = found.others.total()
        what = f"none in {others} file{'s' * (others > 1)}" if others else "an empty folder"
        raise DataError(
            f"{root}: expected images (.jpg, .png, .webp or another format that Pillow reads), found {what}"
        )
    found.paths.sort()
    return found


def _walk(root: Path) -> ImageFiles:
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
            kind = _kind(entry)
            if kind == "folder":
                (folder_links if entry.is_symlink() else folders).append(entry.path)
            elif kind == "image" and not entry.is_symlink():
                found.paths.append(entry.path)
            elif kind == "image":
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
    """What is in a folder, but for what is hidden or of a system."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_system(entry.name)]
    except OSError as error:
        raise DataError(f"{Path(folder)}: cannot list this folder: {error.strerror}") from error


def _kind(entry: os.DirEntry[str]) -> str:
    """`folder`, `image`, or what to call it among the files that are none."""
    try:
        if entry.is_dir():
            return "folder"
        regular = entry.is_file()
        reachable = regular or Path(entry.path).exists()
    except OSError:  # a link in a circle, or into a folder that may not be entered
        regular, reachable = False, False
    suffix = Path(entry.name).suffix.lower()
    if suffix not in suffixes():
        return suffix or "without a suffix"
    return "image" if regular or not reachable else "pipe or device"  # where it leads nowhere, its name says what it is


def _rank(path: str) -> tuple[int, str]:
    """Of several names of the same thing, the one to take comes first."""
    return path.count(os.sep), path


def _leads_back(link: Path, root: Path) -> bool:
    """Whether a link leads to a folder that it is in, by whatever way."""
    target = os.path.realpath(link)
    return any(Path(os.path.realpath(folder)).is_relative_to(target) for folder in (link.parent, root))
