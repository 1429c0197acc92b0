from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeq.data import glyphs
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import EMBEDDED, Preprocess
from edgeq.errors import ArtifactError, DataError

TINY = Preprocess(4, 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (level, 0, 0)).save(path)


def folder_of(root: Path, count: int) -> Path:
    for index in range(count):
        save(root / f"{index:04}.png", index % 256)
    return root


def levels(images: ImageSet, size: int = 7) -> list[int]:
    """The red level of every image, in the order in which they come."""
    return [round(float(v) * 255) for batch in images.batches(TINY, size) for v in batch.images[:, 0, 0, 0]]


def bytes_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_orientation_tag_is_left_alone_as_in_torchvision(tmp_path: Path) -> None:
    image = picture(6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    (batch,) = ImageSet.folder(tmp_path, None, 0).batches(TINY, 1)
    np.testing.assert_array_equal(batch.images[0], TINY(image))


# --- embedded -----------------------------------------------------------------------------------------------------


def test_embedded_set_is_the_renderers() -> None:
    images = ImageSet.embedded("test", 5)
    batches = list(images.batches(EMBEDDED, 2))
    assert (len(images), [len(b.images) for b in batches]) == (5, [2, 2, 1])
    assert [label for b in batches if b.labels is not None for label in b.labels.tolist()] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(batches[2].images[0], EMBEDDED(Image.fromarray(glyphs.render("test", 4))))


def test_embedded_set_survives_json() -> None:
    body = json.loads(json.dumps(ImageSet.embedded("calib", 3).to_dict()))
    assert body == {"source": "embedded", "split": "calib", "samples": 3}
    again = ImageSet.from_dict(body)
    again.verify()
    (first,), (second,) = again.batches(EMBEDDED, 3), ImageSet.embedded("calib", 3).batches(EMBEDDED, 3)
    np.testing.assert_array_equal(first.images, second.images)


@pytest.mark.parametrize("samples", [0, -1])
def test_no_samples(tmp_path: Path, samples: int) -> None:
    message = f"^expected at least 1 sample, found {samples}$"
    with pytest.raises(DataError, match=message):
        ImageSet.embedded("calib", samples)
    with pytest.raises(DataError, match=message):
        ImageSet.folder(folder_of(tmp_path, 1), samples, seed=0)


# --- folders ------------------------------------------------------------------------------------------------------


def test_folder_is_recursive_sorted_and_ignores_what_is_hidden_or_no_image(tmp_path: Path) -> None:
    for level, path in enumerate(["b.png", "a/deep/er/2.PNG", "a/1.bmp", "a.tiff", "c.Gif"]):
        save(tmp_path / path, level)
    for path in [".hidden.png", ".cache/1.png", "a/._1.png"]:
        save(tmp_path / path, 99)
    (tmp_path / "notes.txt").write_text("x")
    images = ImageSet.folder(tmp_path, None, seed=0)
    files = [path for path, _ in images.to_dict()["files"]]
    assert files == ["a.tiff", "a/1.bmp", "a/deep/er/2.PNG", "b.png", "c.Gif"]
    assert levels(images, 2) == [3, 2, 1, 0, 4]
    assert images.labels is None


def test_samples_are_drawn_without_replacement_and_kept_in_order(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    draws = [levels(ImageSet.folder(tmp_path, 20, seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for draw in draws:
        assert draw == sorted(set(draw))
        assert len(draw) == 20


def test_fewer_images_than_samples_are_all_taken(tmp_path: Path) -> None:
    assert levels(ImageSet.folder(folder_of(tmp_path, 5), 9, seed=0)) == [0, 1, 2, 3, 4]


# --- labels -------------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_class_folders_at_any_depth(tmp_path: Path) -> None:
    for name in ("9", "0011"):
        save(tmp_path / name / "deeper" / "1.png")
        save(tmp_path / name / "2.png")
    save(tmp_path / "cover.png")  # in no class folder
    (batch,) = ImageSet.labelled(tmp_path, 12).batches(TINY, 100)
    assert batch.labels is not None
    assert batch.labels.dtype == np.int64
    assert batch.labels.tolist() == [11, 11, 9, 9]


def test_empty_class_folders_count_when_names_are_the_index(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    save(tmp_path / "bee" / "1.png")
    assert ImageSet.labelled(tmp_path, 2).labels == [1]


def test_a_missing_folder_of_images(tmp_path: Path) -> None:
    message = re.escape(f"{tmp_path / 'none'}: no such folder; name a folder of images")
    with pytest.raises(DataError, match=f"^{message}$"):
        ImageSet.folder(tmp_path / "none", 3, seed=0)
    with pytest.raises(DataError, match=f"^{message}$"):
        ImageSet.labelled(tmp_path / "none", classes=3)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    folder_of(tmp_path, 2)
    with pytest.raises(DataError, match="expected images in class folders"):
        ImageSet.labelled(tmp_path, 2)


# --- batches ------------------------------------------------------------------------------------------------------


def test_batches_keep_the_order_of_the_set(tmp_path: Path) -> None:
    images = ImageSet.folder(folder_of(tmp_path, 60), None, seed=0)
    batches = list(images.batches(TINY, 8))
    assert [b.images.shape for b in batches] == [(8, 3, 4, 4)] * 7 + [(4, 3, 4, 4)]
    assert {b.images.dtype for b in batches} == {np.dtype(np.float32)}
    assert levels(images) == list(range(60))


def test_a_few_are_spread_over_the_set(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGB", (4, 4), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
    images, small = ImageSet.folder(tmp_path, None, 0), Preprocess(4, 4, (0, 0, 0), (1, 1, 1))
    (found,) = images.spread(3).batches(small, 8)
    assert (found.images[:, 0, 0, 0] * 255).round().tolist() == [0, 30, 60]
    assert (len(images.spread(20)), len(images)) == (10, 10)
    assert len(ImageSet.embedded("calib", 5).spread(3)) == 3


def test_decoding_does_not_run_away_from_the_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def render(split: glyphs.Split, index: int) -> NDArray[np.uint8]:
        drawn.append(index)
        return np.zeros((96, 96, 3), np.uint8)

    monkeypatch.setattr(glyphs, "render", render)
    consumer = ImageSet.embedded("train", 1000).batches(TINY, 8)
    next(consumer)
    next(consumer)
    del consumer
    assert 16 <= len(drawn) <= 16 + 8 + 4


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match=r"^expected batches of at least 1 image, found 0$"):
        next(ImageSet.embedded("test", 1).batches(TINY, 0))


# --- unreadable images --------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 10000 x 10000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 10000, 10000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


NOISE = picture(64, 64)
BROKEN = {
    "text": (b"not a picture\n", "not an image"),
    "empty": (b"", "not an image"),
    "truncated": (bytes_of(NOISE, "JPEG")[:-100], "image file is truncated"),
    "truncated progressive": (bytes_of(NOISE, "JPEG", progressive=True)[:-100], "image file is truncated"),
    "half a png": (bytes_of(NOISE, "PNG")[:6000], "truncated"),
    "bomb": (bomb(), "too large: 10000 x 10000 pixels"),
    "far too long": (bytes_of(Image.new("L", (20_000_000, 1)), "PNG"), "too large: 80000000 x 4 pixels"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=list(BROKEN))
def test_one_unreadable_image_in_a_hundred_is_skipped_and_named(tmp_path: Path, content: bytes, reason: str) -> None:
    folder_of(tmp_path, 100)
    (tmp_path / "0050.png").write_bytes(content)
    images = ImageSet.folder(tmp_path, None, seed=0)
    for _ in range(2):  # the list is that of one pass
        assert levels(images) == [index for index in range(100) if index != 50]
        ((path, why),) = images.unreadable
        assert path == "0050.png"
        assert reason in why


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_no_truncation_passes_for_an_image(tmp_path: Path, kind: str) -> None:
    """Cut anywhere, a file is unreadable, or has lost nothing but its end mark."""
    whole = bytes_of(picture(16, 16), kind)
    expected = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
    same = Preprocess(16, 16, TINY.mean, TINY.std)
    for length in range(0, len(whole), 13):
        (tmp_path / "1.jpg").write_bytes(whole[:length])
        try:
            (batch,) = ImageSet.folder(tmp_path, None, seed=0).batches(same, 1)
        except DataError:
            continue
        np.testing.assert_array_equal(np.rint(batch.images[0].transpose(1, 2, 0) * 255), expected)


def test_two_of_a_hundred_stop(tmp_path: Path) -> None:
    folder_of(tmp_path, 100)
    for index in (3, 70):
        (tmp_path / f"{index:04}.png").write_text("x")
    images = ImageSet.folder(tmp_path, None, seed=0)
    message = (
        f"{tmp_path}: 2 of the first 71 images cannot be read (0003.png (not an image), 0070.png (not an image)), "
        "and at most 1 of all 100 may be; repair or remove them"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        levels(images)


@pytest.mark.parametrize("count", [2, 20, 50])
def test_one_of_a_small_set_is_skipped_and_two_stop(tmp_path: Path, count: int) -> None:
    folder_of(tmp_path, count)
    (tmp_path / "0000.png").write_text("x")
    images = ImageSet.folder(tmp_path, None, seed=0)
    assert levels(images) == list(range(1, count))
    assert [tuple(image) for image in images.unreadable] == [("0000.png", "not an image")]
    (tmp_path / "0001.png").write_text("x")
    with pytest.raises(DataError, match=rf"2 of the first 2 images .* at most 1 of all {count} may be; repair or"):
        levels(images)


def test_the_only_image_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("x")
    message = r"1 of the first 1 images cannot be read \(1.png \(not an image\)\), and there is no other; repair or"
    with pytest.raises(DataError, match=message):
        levels(ImageSet.folder(tmp_path, None, seed=0))


def test_two_of_two_hundred_are_skipped(tmp_path: Path) -> None:
    folder_of(tmp_path, 200)
    for index in (3, 70):
        (tmp_path / f"{index:04}.png").write_text("x")
    assert len(levels(ImageSet.folder(tmp_path, None, seed=0))) == 198


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    for index in range(100):
        save(tmp_path / f"{index:02}" / "1.png", index)
    (tmp_path / "10" / "1.png").write_text("x")
    for batch in ImageSet.labelled(tmp_path, 100).batches(TINY, 9):
        np.testing.assert_array_equal(np.rint(batch.images[:, 0, 0, 0] * 255), batch.labels)


def test_pillows_warnings_do_not_escape(tmp_path: Path) -> None:
    """Of this truncated TIFF Pillow warns before it gives up; as an error, the warning would be the reason."""
    folder_of(tmp_path, 100)
    (tmp_path / "0000.png").write_bytes(bytes_of(NOISE, "TIFF")[:100])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(levels(ImageSet.folder(tmp_path, None, seed=0))) == 99
    assert caught == []


# --- records ------------------------------------------------------------------------------------------------------


def test_a_recorded_folder_gives_the_same_images(tmp_path: Path) -> None:
    images = ImageSet.folder(folder_of(tmp_path, 30), 10, seed=3)
    body = json.loads(json.dumps(images.to_dict()))
    save(tmp_path / "0000a.png", 200)  # a newcomer is none of the record's business
    again = ImageSet.from_dict(body)
    again.verify()
    assert levels(again) == levels(images)
    assert again.to_dict() == body
    assert again.name == str(tmp_path)


def test_the_record_holds_16_digits_of_sha256(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"abc")
    body = ImageSet.folder(tmp_path, None, seed=0).to_dict()
    assert body == {"source": "folder", "root": str(tmp_path), "files": [["1.png", "ba7816bf8f01cfea"]], "labels": None}


def test_the_record_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "data", 1)
    monkeypatch.chdir(tmp_path)
    body = ImageSet.folder(Path("data"), None, seed=0).to_dict()
    monkeypatch.chdir("/")
    ImageSet.from_dict(body).verify()


def test_a_recorded_labelled_folder_keeps_its_labels(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / name / "1.png")
    assert ImageSet.from_dict(ImageSet.labelled(tmp_path, 2).to_dict()).labels == [0, 1]


def test_verify_names_what_is_missing_or_changed(tmp_path: Path) -> None:
    body = ImageSet.folder(folder_of(tmp_path, 6), None, seed=0).to_dict()
    (tmp_path / "0001.png").unlink()
    save(tmp_path / "0004.png", 77)
    message = (
        f"{tmp_path}: 2 of 6 images are not those that were recorded: 0001.png (missing), 0004.png (changed); "
        "put them back, or record the folder again"
    )
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        ImageSet.from_dict(body).verify()


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        {"source": "web"},
        {"source": "embedded", "split": "dev", "samples": 3},
        {"source": "embedded", "split": "test", "samples": 0},
        {"source": "embedded", "split": "test", "samples": "3"},
        {"source": "folder", "root": "x", "files": [], "labels": None},
        {"source": "folder", "root": "x", "files": [["a"]], "labels": None},
        {"source": "folder", "root": "x", "files": [["a", "b"]], "labels": [1, 2]},
        {"source": "folder", "root": "x", "files": [["a", "b"]], "labels": ["cat"]},
        {"source": "folder", "root": 3, "files": [["a", "b"]], "labels": None},
    ],
    ids=repr,
)
def test_descriptions_that_are_none(body: Any) -> None:
    with pytest.raises(ArtifactError, match=r"^expected the description of a set of images, found another: ") as caught:
        ImageSet.from_dict(body)
    assert "\n" not in str(caught.value)
