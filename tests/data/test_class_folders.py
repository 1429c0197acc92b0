from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeq.data.class_folders import ClassOrder, class_folders
from edgeq.errors import DataError, UnsupportedError


def class_indices(root: Path, classes: int, order: ClassOrder | None = None) -> dict[str, int]:
    """Where all folders hold images."""
    holding = [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] not in "._@"]
    return class_folders(root, classes, holding, order).indices


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (1000, {"n01440764": 0, "n01443537": 1, "n15075141": 999}),
        (1000, {"0": 0, "0007": 7, "999": 999}),
        (3, {"cat": 0, "dog": 1, "zebra": 2}),
        (2, {"n15075141": 1, "n01440764": 0}),
        (12, {"9": 9, "11": 11}),
    ],
    ids=["some wnids", "integers", "names", "wnids of another set", "some integers"],
)
def test_class_indices(tmp_path: Path, classes: int, expected: dict[str, int]) -> None:
    for name in [*expected, ".git", "__MACOSX", "@eaDir"]:
        (tmp_path / name).mkdir()
    (tmp_path / "readme.txt").touch()
    assert class_indices(tmp_path, classes) == expected


@pytest.mark.parametrize(
    ("classes", "folders", "message"),
    [
        (1000, ["n01440764", "n01443537", "cats"], "cats: expected an ImageNet id as the other class folders, found a"),
        (10, ["0", "1", "two"], "two: expected a class index as the other class folders, found a class name"),
        (10, ["1", "5", "10"], "10: expected one of 10 class indices from 0 or their ImageNet ids"),
        (1000, ["n01440764", "n99999999"], "n99999999: expected one of 1000 class indices from 0 or their ImageNet"),
        (10, ["7", "007"], "7: expected one folder a class, found 007 for the same class"),
        (10, ["cat", "dog"], "expected 10 class folders, one a class of the network, found 2"),
        (1, ["cat", "dog"], "expected 1 class folders, one a class of the network, found 2"),
    ],
    ids=["wnids and a name", "integers and a name", "from one", "unknown wnid", "twice", "too few", "too many"],
)
def test_class_folders_that_do_not_fit(tmp_path: Path, classes: int, folders: list[str], message: str) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        class_indices(tmp_path, classes)
    assert str(caught.value).startswith(str(tmp_path))


# --- two readings ---------------------------------------------------------------------------------------------------


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir()
    return root


TWELVE = tuple(map(str, range(12)))
AS_TEXT = {"0": 0, "1": 1, "10": 2, "11": 3, "2": 4, "3": 5, "4": 6, "5": 7, "6": 8, "7": 9, "8": 10, "9": 11}


def test_numbers_in_either_order(tmp_path: Path) -> None:
    made(tmp_path, *TWELVE)
    by_index = class_folders(tmp_path, 12, TWELVE)
    assert by_index.indices == {name: int(name) for name in TWELVE}
    assert by_index.other == {int(name): place for name, place in AS_TEXT.items()}
    assert by_index.notice(tmp_path) == (
        f"{tmp_path}: the names of class folders are read as class indices (10 is class 10), where torchvision's "
        "ImageFolder numbers them in the order of text (10 is class 2); --class-order name takes that"
    )
    by_name = class_folders(tmp_path, 12, TWELVE, "name")
    assert by_name.indices == AS_TEXT
    assert by_name.other == {place: int(name) for name, place in AS_TEXT.items()}
    assert by_name.notice(tmp_path) == (
        f"{tmp_path}: class folders are numbered in the order of their names as text, as torchvision's ImageFolder "
        "does (10 is class 2); --class-order index reads the names as class indices (10 is class 10)"
    )


def test_the_order_of_text_is_that_of_image_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for names in (TWELVE, tuple(map(str, range(1, 13))), ("Zebra", "apple", "\u00e9clair", "Ant 2", "ant_10", "7")):
        root = tmp_path / names[0]
        root.mkdir()
        for name in names:
            (root / name).mkdir()
            (root / name / "1.png").touch()
        expected = datasets.ImageFolder(str(root)).class_to_idx
        assert class_folders(root, len(names), names, "name").indices == expected


@pytest.mark.parametrize(
    ("classes", "names"),
    [(12, [f"{i:02}" for i in range(12)]), (10, [str(i) for i in range(10)]), (2, ["cat", "Dog"])],
    ids=["padded with zeros", "up to ten", "names"],
)
def test_where_the_readings_agree_nothing_is_said(classes: int, names: list[str], tmp_path: Path) -> None:
    read = class_folders(made(tmp_path, *names), classes, names)
    assert (read.other, read.notice(tmp_path)) == (None, None)
    assert read.indices == class_indices(tmp_path, classes, "name")


def test_of_some_numbers_the_order_is_that_of_all(tmp_path: Path) -> None:
    """Where the network has twelve classes, folder 2 is the fifth of them, whether or not 10 and 11 are there."""
    names = [name for name in TWELVE if name not in ("10", "11")]
    read = class_folders(made(tmp_path, *names), 12, names)
    assert read.indices["2"] == 2
    assert read.other is not None
    assert read.other[2] == 4
    assert class_indices(tmp_path, 12, "name") == {name: AS_TEXT[name] for name in names}


def test_some_imagenet_ids(tmp_path: Path) -> None:
    """ImageFolder would number them from 0, which no option takes: of which classes the network was trained on, it is
    not known."""
    names = ["n01440764", "n15075141"]
    read = class_folders(made(tmp_path, *names), 1000, names)
    assert (read.other, read.choosable) == ({0: 0, 999: 1}, False)
    assert read.notice(tmp_path) == (
        f"{tmp_path}: the names of class folders are read as class indices (n15075141 is class 999), where "
        "torchvision's ImageFolder numbers them in the order of text (n15075141 is class 1)"
    )
    with pytest.raises(
        DataError, match="expected 1000 class folders, one a class of the network, found 2; add an empty"
    ):
        class_indices(tmp_path, 1000, "name")


def test_numbers_from_one(tmp_path: Path) -> None:
    names = [str(i) for i in range(1, 13)]
    made(tmp_path, *names)
    message = "12: expected one of 12 class indices from 0 or their ImageNet ids; rename it, or add --class-order name"
    with pytest.raises(DataError, match=message):
        class_indices(tmp_path, 12)
    assert class_indices(tmp_path, 12, "name")["2"] == 4


def test_a_number_among_names(tmp_path: Path) -> None:
    made(tmp_path, "cat", "dog", "7")
    with pytest.raises(DataError, match=r"7: expected a class name as .* rename it, or add --class-order name"):
        class_indices(tmp_path, 3)
    assert class_indices(tmp_path, 3, "name") == {"7": 0, "cat": 1, "dog": 2}


def test_names_are_no_indices(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="cat: expected a class index, found a class name; rename it, or add --class-ord"
    ):
        class_indices(made(tmp_path, "cat", "dog"), 2, "index")


def test_an_unknown_order(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"^unknown class order 'size'; expected one of index, name$"):
        class_folders(made(tmp_path, "0"), 1, ["0"], "size")  # type: ignore[arg-type]


def test_folders_without_images_matter_only_where_all_are_numbered(tmp_path: Path) -> None:
    made(tmp_path, *TWELVE, "logs")
    assert class_folders(tmp_path, 12, TWELVE).indices == {name: int(name) for name in TWELVE}
    made(tmp_path / "logs", "ant", "bee", "cat")
    message = (
        "expected 2 class folders, one a class of the network, found 3; remove what is no class (bee without images)"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        class_folders(tmp_path / "logs", 2, ["ant", "cat"])
    assert class_folders(tmp_path / "logs", 3, ["ant", "cat"]).indices == {"ant": 0, "cat": 2}
