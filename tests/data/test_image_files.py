"""Which files of a folder are images: each once, none that hangs or is missed, and what is left out is counted."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.data.image_files import find_images, formats, suffixes
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError

TINY = Preprocess(4, 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def found(root: Path) -> list[str]:
    return find_images(root).paths


def notices(root: Path) -> list[str]:
    return [text.removeprefix(f"{root}: ") for text in find_images(root).notices(root)]


def test_images_are_found_at_any_depth_in_sorted_order(tmp_path: Path) -> None:
    for name in ["b.png", "a/deep/er/2.PNG", "a/1.bmp", "a.tiff", "c.Gif"]:
        touch(tmp_path / name)
    for name in [".hidden.png", ".cache/1.png", "a/._1.png", "notes.txt", "png"]:
        touch(tmp_path / name)
    assert found(tmp_path) == ["a.tiff", "a/1.bmp", "a/deep/er/2.PNG", "b.png", "c.Gif"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "class").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "data") == ["class/1.png"]
    (tmp_path / "link").symlink_to("data")
    assert found(tmp_path / "link") == ["class/1.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "/"], ids=["itself", "above", "higher", "the top"])
def test_links_that_lead_back_are_not_followed(target: str, tmp_path: Path) -> None:
    touch(tmp_path / "data" / "class" / "1.png")
    (tmp_path / "data" / "class" / "back").symlink_to(target)
    assert found(tmp_path / "data") == ["class/1.png"]


def test_broken_links_count_as_what_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"data: no such folder; name a folder of images$"):
        find_images(tmp_path / "data")
    (tmp_path / "1.png").symlink_to("nowhere.png")
    assert found(tmp_path) == ["1.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: no such folder; name a folder of images"),
        ("file.png", "file.png: expected a folder of images, found a file"),
        (
            "empty",
            "empty: expected images (.jpg, .png, .webp or another format that Pillow reads), found an empty folder",
        ),
        ("texts", "found none in 2 files"),
    ],
)
def test_folders_that_hold_nothing_of_use(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for path in ("texts/a.txt", "texts/b.txt", "file.png"):
        touch(tmp_path / path)
    with pytest.raises(DataError, match=re.escape(message) + "$"):
        find_images(tmp_path / name)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: cannot list this folder: Permission denied")):
        find_images(tmp_path)


# --- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 6])
def test_folders_that_link_to_each_other_count_once(count: int, tmp_path: Path) -> None:
    names = [f"{i}" for i in range(count)]
    for name in names:
        touch(tmp_path / name / f"{name}.png")
        for other in names:
            if other != name:
                (tmp_path / name / f"to_{other}").symlink_to(f"../{other}")
    assert found(tmp_path) == [f"{name}/{name}.png" for name in names]
    links = count * (count - 1)
    assert notices(tmp_path) == [f"{links} left out, links to what is in the folder already, or holds it"]


def test_a_file_counts_under_its_own_name(tmp_path: Path) -> None:
    """Even where a link to it comes first, or to a folder that holds it."""
    touch(tmp_path / "data" / "b" / "1.png")
    (tmp_path / "data" / "a.png").symlink_to("b/1.png")
    (tmp_path / "data" / "a").symlink_to("b")
    assert found(tmp_path / "data") == ["b/1.png"]
    assert find_images(tmp_path / "data").repeated == 2


def test_of_several_links_the_one_with_the_fewest_folders_counts(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    touch(tmp_path / "other.png")
    (tmp_path / "data" / "a").mkdir(parents=True)
    for name in ("a/deep", "b", "c"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    for name in ("a/deep.png", "y.png", "z.png"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "other.png")
    assert found(tmp_path / "data") == ["b/1.png", "y.png"]
    assert find_images(tmp_path / "data").repeated == 4


def test_links_from_outside_lead_on(tmp_path: Path) -> None:
    """A folder that a link leads to has links of its own: to a third, back to itself, and back to the first."""
    for name in ("data", "second", "third"):
        touch(tmp_path / name / f"{name}.png")
    for name, target in (
        ("data/on", "second"),
        ("second/on", "third"),
        ("third/back", "data"),
        ("third/self", "third"),
    ):
        (tmp_path / name).symlink_to(tmp_path / target)
    assert found(tmp_path / "data") == ["data.png", "on/on/third.png", "on/second.png"]


def test_a_link_in_a_circle_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to("1.png")
    assert found(tmp_path) == ["1.png"]
    with pytest.raises(DataError, match=r"1\.png \(.*symbolic links"):
        list(ImageSet.folder(tmp_path, None, 0).batches(TINY, 1))


# --- what is no file ------------------------------------------------------------------------------------------------


def test_pipes_and_sockets_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "p.jpg")
    (tmp_path / "link.jpg").symlink_to("p.jpg")
    monkeypatch.chdir(tmp_path)  # as names of sockets must be short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("s.png")
        assert found(tmp_path) == ["1.png"]
        assert notices(tmp_path) == ["3 left out, no images: 3 pipe or device"]


def test_a_file_that_has_become_a_pipe_is_not_opened(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    images = ImageSet.folder(tmp_path, None, 0)
    (tmp_path / "2.png").unlink()
    os.mkfifo(tmp_path / "2.png")
    assert [len(batch.images) for batch in images.batches(TINY, 2)] == [1]
    assert [tuple(image) for image in images.unreadable] == [("2.png", "no file, but a folder, pipe or device")]
    assert [digest == "" for _, digest in images.to_dict()["files"]] == [False, True]


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix",
    [".jfif", ".jpe", ".JPG", ".jp2", ".j2k", ".tga", ".pcx", ".ico", ".dds", ".sgi", ".pbm", ".apng", ".dib", ".mpo"],
)
def test_every_format_that_pillow_decodes_is_read(suffix: str, tmp_path: Path) -> None:
    Image.new("1" if suffix == ".pbm" else "RGB", (16, 16), 1).save(tmp_path / f"1{suffix}")
    (batch,) = ImageSet.folder(tmp_path, None, 0).batches(TINY, 1)
    assert batch.images.shape == (1, 3, 4, 4)


def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    if ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "1.avif")
    (batch,) = ImageSet.folder(tmp_path, None, 0).batches(TINY, 1)
    np.testing.assert_allclose(batch.images[0, :, 0, 0], [1, 0, 0], atol=0.02)


def test_what_pillow_does_not_decode_by_itself_is_no_image() -> None:
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf", ".grib", ".pcd", ".fits"} & suffixes()
    assert not {"EPS", "PDF", "MPEG", "HDF5", "WMF", "GRIB", "BUFR"} & set(formats())


def test_postscript_under_the_name_of_an_image_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("subprocess.check_call", started)
    Image.new("RGB", (4, 4)).save(tmp_path / "1.eps")
    (tmp_path / "1.eps").rename(tmp_path / "1.jpg")
    with pytest.raises(DataError, match=r"1\.jpg \(not an image\)"):
        list(ImageSet.folder(tmp_path, None, 0).batches(TINY, 1))


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (255, 0)]
    for suffix in ("gif", "tiff", "webp", "png"):
        frames[0].save(tmp_path / f"1.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    (batch,) = ImageSet.folder(tmp_path, None, 0).batches(TINY, 4)
    np.testing.assert_allclose(batch.images[:, 0, 0, 0], 1, atol=0.01)


# --- what is left out -----------------------------------------------------------------------------------------------


def test_files_that_are_no_images_are_counted_by_suffix(tmp_path: Path) -> None:
    for name in ("1.png", "a.txt", "b/c.TXT", "b/d.xml", "LICENSE", "x.heic"):
        touch(tmp_path / name)
    assert notices(tmp_path) == ["5 left out, no images: 2 .txt, 1 .heic, 1 .xml, 1 without a suffix"]


def test_many_kinds_of_files_fit_a_line(tmp_path: Path) -> None:
    for name in ("1.png", *(f"x.{letter}" for letter in "abcdefg")):
        touch(tmp_path / name)
    assert notices(tmp_path) == ["7 left out, no images: 1 .a, 1 .b, 1 .c, 1 .d, 1 .e and 2 other kinds"]


@pytest.mark.parametrize(
    "folder", ["__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", ".ipynb_checkpoints"]
)
def test_what_systems_leave_behind_is_passed_over_in_silence(folder: str, tmp_path: Path) -> None:
    for name in ("a/1.png", f"{folder}/1.png", f"a/{folder}/1.png", "Thumbs.db", "a/desktop.ini", ".DS_Store"):
        touch(tmp_path / name)
    assert found(tmp_path) == ["a/1.png"]
    assert notices(tmp_path) == []


def test_sets_of_images_pass_it_on(tmp_path: Path) -> None:
    for name in ("0/1.png", "1/1.png", "cover.png", "notes.txt"):
        touch(tmp_path / name)
    said = "1 left out, no images: 1 .txt"
    assert ImageSet.folder(tmp_path, None, 0).notices == (f"{tmp_path}: {said}",)
    outside = "1 left out, images in no class folder"
    assert ImageSet.labelled(tmp_path, 2).notices == (f"{tmp_path}: {said}", f"{tmp_path}: {outside}")
