"""The class index of each class folder of a data set.

There are two class orders. In the order `index`, the name of a folder is its class index, as a number or an ImageNet
id: a data set with only some of ImageNet's 1000 classes still gets the right indices. In the order `name`, folders are
numbered in the sorted order of their names, like torchvision's ImageFolder does it, so all of them must be there. The
two differ for folders named 0 to 11, for example, since the text 10 sorts before 2.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal, get_args

from edgeq.data.image_files import is_system
from edgeq.errors import DataError, UnsupportedError

ClassOrder = Literal["index", "name"]
"""How class folders are numbered: by the class index or ImageNet id in their name, or by the sorted order of names."""

_WNID: Final = "an ImageNet id"
_INTEGER: Final = "a class index"
_NAME: Final = "a class name"


@dataclass(frozen=True)
class ClassFolders:
    """The class folders of a data set and their indices.

    Attributes:
        order: the class order that was used.
        indices: class index by folder name, for folders with images.
        other: maps each index to the index in the other class order; None if that is impossible or gives the same.
        choosable: whether `--class-order` can choose the other class order.
    """

    order: ClassOrder
    indices: dict[str, int]
    other: dict[int, int] | None
    choosable: bool

    def notice(self, root: Path) -> str | None:
        """Return a line that says which class order was used, if the two differ."""
        if self.other is None:
            return None
        name, index = next(item for item in self.indices.items() if self.other[item[1]] != item[1])
        here, there = f"({name} is class {index})", f"({name} is class {self.other[index]})"
        if self.order == "name":
            return (
                f"{root}: class folders are numbered in the order of their names as text, as torchvision's ImageFolder "
                f"does {here}; --class-order index reads the names as class indices {there}"
            )
        option = "; --class-order name takes that" if self.choosable else ""
        return (
            f"{root}: the names of class folders are read as class indices {here}, where torchvision's ImageFolder "
            f"numbers them in the order of text {there}{option}"
        )


def class_folders(root: Path, classes: int, holding: Collection[str], order: ClassOrder | None = None) -> ClassFolders:
    """Read the names of the class folders in `root`.

    In the order `index`, names are integers (`0`, `0007`) or, if `classes` is 1000, ImageNet ids (`n01440764`); some
    may be absent. In the order `name` there must be `classes` folders, unless all names are among `0`, `1` and so on.

    Args:
        root: the folder of class folders; hidden folders and those of operating systems do not count.
        classes: number of classes of the network.
        holding: names of the folders that contain images, at least one; empty folders matter only in the order `name`.
        order: the class order; None is `index`, unless no name is a class index or ImageNet id.

    Raises:
        DataError: names of several kinds, an index that occurs twice or is out of range, too many or too few folders.
        UnsupportedError: an unknown order.
    """
    if order not in (None, *get_args(ClassOrder)):
        raise UnsupportedError(f"unknown class order {order!r}; expected one of {', '.join(get_args(ClassOrder))}")
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_system(entry.name))
    numbers = sorted(map(str, range(classes)))
    every = numbers if set(holding) <= set(numbers) else folders
    names, whole = sorted(holding), len(every) == classes
    order = order or ("name" if {_kind(name, classes) for name in names} == {_NAME} else "index")
    place = {name: i for i, name in enumerate(every)}
    by_name = {name: place[name] for name in names}
    if order == "index":
        by_index = _indices(root, classes, names, whole)
        return ClassFolders(order, by_index, _other(by_index, by_name), whole)
    if not whole:
        raise _not_whole(root, classes, folders, holding)
    try:
        other = _other(by_name, _indices(root, classes, names, whole))
    except DataError:  # the names are not class indices
        other = None
    return ClassFolders(order, by_name, other, choosable=True)


def _other(taken: Mapping[str, int], other: Mapping[str, int]) -> dict[int, int] | None:
    """Map the indices that were used to those of the other class order; None if they are the same."""
    return None if taken == other else {index: other[name] for name, index in taken.items()}


def _indices(root: Path, classes: int, names: Sequence[str], whole: bool) -> dict[str, int]:
    """Read names as class indices; `whole` says whether the order `name` would be possible, too."""
    way_out = "rename it" + ", or add --class-order name to number all in the order of their names" * whole
    by_kind: dict[str, list[str]] = {}
    for name in names:
        by_kind.setdefault(_kind(name, classes), []).append(name)
    kinds = sorted(by_kind, key=lambda kind: len(by_kind[kind]))
    if len(kinds) > 1 or kinds == [_NAME]:
        odd, others = by_kind[kinds[0]][0], f"{kinds[-1]} as the other class folders" if len(kinds) > 1 else _INTEGER
        raise DataError(f"{root / odd}: expected {others}, found {kinds[0]}; {way_out}")
    known = _wnids() if kinds == [_WNID] else {name: int(name) for name in names}
    folder_of: dict[int, str] = {}
    for name in names:
        index = known.get(name, classes)
        if index >= classes:
            raise DataError(
                f"{root / name}: expected one of {classes} class indices from 0 or their ImageNet ids; {way_out}"
            )
        if index in folder_of:
            raise DataError(f"{root / name}: expected one folder a class, found {folder_of[index]} for the same class")
        folder_of[index] = name
    return {name: index for index, name in folder_of.items()}


def _not_whole(root: Path, classes: int, folders: Sequence[str], holding: Collection[str]) -> DataError:
    """Return the error for too many or too few folders."""
    if len(folders) < classes:
        way_out = (
            "add an empty one for each class without images, as only folders named by class index (or ImageNet id, for "
            "1000 classes) may be fewer"
        )
    else:
        empty = [name for name in folders if name not in holding]
        way_out = "remove what is no class" + f" ({', '.join(empty[:3])} without images)" * bool(empty)
    return DataError(
        f"{root}: expected {classes} class folders, one a class of the network, found {len(folders)}; {way_out}"
    )


def _kind(name: str, classes: int) -> str:
    if classes == len(_wnids()) and re.fullmatch(r"n\d{8}", name):
        return _WNID
    return _INTEGER if re.fullmatch(r"[0-9]+", name) else _NAME


@cache
def _wnids() -> dict[str, int]:
    return {name: index for index, name in enumerate(imagenet_ids())}


def imagenet_ids() -> list[str]:
    """The ids of ImageNet's 1000 classes, in the order of their indices."""
    return files("edgeq").joinpath("assets/imagenet_wnids.txt").read_text(encoding="ascii").split()
