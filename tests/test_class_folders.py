from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeq.class_folders import class_indices, image_paths
from edgeq.errors import DataError


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_images_are_found_at_any_depth_in_sorted_order(tmp_path: Path) -> None:
    for name in ["b.png", "a/deep/er/2.PNG", "a/1.bmp", "a.tiff", "c.Gif"]:
        touch(tmp_path / name)
    for name in [".hidden.png", ".cache/1.png", "a/._1.png", "notes.txt", "png"]:
        touch(tmp_path / name)
    assert image_paths(tmp_path) == ["a.tiff", "a/1.bmp", "a/deep/er/2.PNG", "b.png", "c.Gif"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "class").symlink_to(tmp_path / "elsewhere")
    assert image_paths(tmp_path / "data") == ["class/1.png"]
    (tmp_path / "link").symlink_to("data")
    assert image_paths(tmp_path / "link") == ["class/1.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "/"], ids=["itself", "above", "higher", "the top"])
def test_links_that_lead_back_are_not_followed(target: str, tmp_path: Path) -> None:
    touch(tmp_path / "data" / "class" / "1.png")
    (tmp_path / "data" / "class" / "back").symlink_to(target)
    assert image_paths(tmp_path / "data") == ["class/1.png"]


def test_broken_links_count_as_what_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"data: no such folder; name a folder of images$"):
        image_paths(tmp_path / "data")
    (tmp_path / "1.png").symlink_to("nowhere.png")
    assert image_paths(tmp_path) == ["1.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: no such folder; name a folder of images"),
        ("file.png", "file.png: expected a folder of images, found a file"),
        (
            "empty",
            "empty: expected images (.bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp), found an empty folder",
        ),
        ("texts", "found none in 2 files"),
    ],
)
def test_folders_that_hold_nothing_of_use(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for path in ("texts/a.txt", "texts/b.txt", "file.png"):
        touch(tmp_path / path)
    with pytest.raises(DataError, match=re.escape(message) + "$"):
        image_paths(tmp_path / name)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: cannot list this folder: Permission denied")):
        image_paths(tmp_path)


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
    for name in [*expected, ".git"]:
        (tmp_path / name).mkdir()
    touch(tmp_path / "readme.txt")
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
