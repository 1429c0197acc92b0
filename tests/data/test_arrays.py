"""Folders of arrays: what a network takes, sample by sample."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Detector, randomized
from nets import images as pictures
from PIL import Image

from edgeq.calibration.calibrate import calibrate
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.frontends.torch_export.trace import trace

ONE = {"line": (1, 2, 3)}
TWO = {"image": (2, 2), "size": (2,)}


def save(root: Path, count: int, shape: tuple[int, ...] = (1, 2, 3)) -> Path:
    """Sample `i` is full of `i`."""
    root.mkdir(exist_ok=True)
    for i in range(count):
        np.save(root / f"{i:03}.npy", np.full(shape, i, np.float32))
    return root


def passed(images: ImageSet, shapes: Mapping[str, tuple[int, ...]] = ONE, size: int = 4) -> Any:
    batches: list[Any] = list(images.inputs(shapes, None, size))
    if isinstance(batches[0], dict):
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return np.concatenate(batches)


def test_one_input_without_and_with_a_batch_dimension(tmp_path: Path) -> None:
    save(tmp_path, 6)
    np.save(tmp_path / "010.npy", np.full((1, 1, 2, 3), 10, np.uint8))
    images = ImageSet.folder(tmp_path, None, 0)
    assert images.notices == (f"{tmp_path}: 7 files of arrays, taken as the network takes them, without preprocessing",)
    assert images.kind == "arrays"
    assert [batch.shape for batch in images.inputs(ONE, None, 4)] == [(4, 1, 2, 3), (3, 1, 2, 3)]  # type: ignore[union-attr]
    found = passed(images)
    assert found.dtype == np.float32
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 10]


def test_arrays_of_several_inputs_by_name(tmp_path: Path) -> None:
    for i in range(3):
        image = np.asfortranarray(np.arange(4.0).reshape(2, 2) + i)
        write = np.savez if i else np.savez_compressed
        write(tmp_path / f"{i}.npz", image=image, size=np.array([[i, 2 * i]]))
    found = passed(ImageSet.folder(tmp_path, None, 0), TWO, 2)
    assert list(found) == ["image", "size"]
    assert found["image"][1].tolist() == [[1, 2], [3, 4]]
    assert found["size"].tolist() == [[0, 0], [1, 2], [2, 4]]
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_a_single_input_may_have_its_name_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", line=np.ones((1, 2, 3)))
    assert passed(ImageSet.folder(tmp_path, None, 0)).tolist() == np.ones((1, 1, 2, 3)).tolist()


def test_arrays_are_drawn_and_recorded_as_images_are(tmp_path: Path) -> None:
    save(tmp_path, 40)
    draws = [ImageSet.folder(tmp_path, 20, seed) for seed in (0, 0, 1)]
    values = [passed(images)[:, 0, 0, 0].tolist() for images in draws]
    assert values[0] == values[1] != values[2]
    assert values[0] == sorted({*values[0]})
    body = json.loads(json.dumps(draws[0].to_dict()))
    assert body["source"] == "arrays"
    again = ImageSet.from_dict(body)
    again.verify()
    assert again.kind == "arrays"
    np.testing.assert_array_equal(passed(again), passed(draws[0]))
    path = body["files"][3][0]
    np.save(tmp_path / path, np.zeros((1, 2, 3)))
    with pytest.raises(ArtifactError, match=rf"1 of 20 arrays are not those that were recorded: {path} \(changed\)"):
        again.verify()


def test_images_and_arrays_are_not_mixed_by_guessing(tmp_path: Path) -> None:
    save(tmp_path, 2)
    Image.new("RGB", (4, 4)).save(tmp_path / "preview.png")
    line = f"{tmp_path}: expected images or arrays, found 1 images and 2 arrays; put them into folders of their own"
    with pytest.raises(DataError, match=f"^{re.escape(line)}$"):
        ImageSet.folder(tmp_path, None, 0)


def test_other_files_are_named(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "a.txt").touch()
    assert ImageSet.folder(tmp_path, None, 0).notices[0] == f"{tmp_path}: 1 left out, no arrays: 1 .txt"


class Pickled:
    """Would create a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("unpickled"),)


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


MISFITS: dict[str, tuple[str, bytes, Mapping[str, tuple[int, ...]], str]] = {
    "shape": ("a.npy", npy(np.zeros((3, 2))), ONE, "{}: expected an array [1, 2, 3], found [3, 2]"),
    "two samples": ("a.npy", npy(np.zeros((2, 1, 2, 3))), ONE, "{}: expected an array [1, 2, 3], found [2, 1, 2, 3]"),
    "text": ("a.npy", npy(np.array(["x"])), ONE, "{}: expected an array of numbers, found <U1"),
    "objects": ("a.npy", npy(np.array([Pickled()])), ONE, "{}: expected an array of numbers, found object"),
    "complex": ("a.npy", npy(np.zeros((1, 2, 3), complex)), ONE, "{}: expected an array of numbers, found complex128"),
    "NaN": (
        "a.npy", npy(np.full((1, 2, 3), np.nan)), ONE,
        "{}: holds values that are not finite in float32; expected finite ones",
    ),
    "beyond float32": (
        "a.npy", npy(np.full((1, 2, 3), 1e300)), ONE,
        "{}: holds values that are not finite in float32; expected finite ones",
    ),
    "one array for two inputs": (
        "a.npy", npy(np.zeros((2, 2))), TWO,
        "{}: expected a .npz file with the inputs image, size, found a single array",
    ),
    "another name": (
        "a.npz", archive(arr_0=npy(np.zeros((1, 2, 3)))), ONE,
        "{}: expected arrays with the names of the inputs, line, found arr_0",
    ),
    "nothing": (
        "a.npz", archive(), TWO, "{}: expected arrays with the names of the inputs, image, size, found nothing",
    ),
    "an input's shape": (
        "a.npz", archive(image=npy(np.zeros((2, 2))), size=npy(np.zeros(3))), TWO,
        "{}: input size: expected an array [2], found [3]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_the_network_is_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, content, shapes, line = MISFITS[case]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        passed(ImageSet.folder(Path("data"), None, 0), shapes)
    assert str(caught.value) == line.format(Path("data") / name)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x93NUMPY", b"no array", npy(np.zeros((1, 2, 3)))[:-1],
        npy(np.zeros((1, 2, 3))).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07"),
        npy(np.zeros((1, 2, 3))).replace(b"(1, 2, 3)", b"(1, 2, 3("),
    ],
    ids=["empty", "magic alone", "other", "cut off", "newer", "damaged header"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_files_are_skipped_as_damaged_images_are(content: bytes, suffix: str, tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / f"x{suffix}").write_bytes(content)
    images = ImageSet.folder(tmp_path, None, 0)
    assert passed(images).shape == (3, 1, 2, 3)
    assert [path for path, _ in images.unreadable] == [f"x{suffix}"]
    assert "\n" not in images.unreadable[0].reason
    (tmp_path / f"y{suffix}").write_bytes(content)
    with pytest.raises(
        DataError, match=r": 2 of the first 5 arrays cannot be read \(.*, and at most 1 of all 5 may be"
    ):
        passed(ImageSet.folder(tmp_path, None, 0))


def test_arrays_are_no_images(tmp_path: Path) -> None:
    images = ImageSet.folder(save(tmp_path, 1), None, 0)
    with pytest.raises(DataError, match="expected images, found arrays"):
        next(images.batches(Preprocess(4, 4, (0, 0, 0), (1, 1, 1)), 1))


def test_images_as_the_inputs_of_a_network(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    images, preprocess = ImageSet.folder(tmp_path, None, 0), Preprocess(4, 4, (0, 0, 0), (1, 1, 1))
    (found,) = images.inputs({"x": (3, 4, 4)}, preprocess, 1)
    np.testing.assert_array_equal(found, next(images.batches(preprocess, 1)).images)
    for shapes, named in (({"x": (3, 4, 5)}, "x [3, 4, 5]"), ({"x": (3, 4, 4), "y": (2,)}, "x [3, 4, 4], y [2]")):
        line = f"{tmp_path}: expected the inputs {named}, found images [3, 4, 4]; prepare them to fit, or name a folder"
        with pytest.raises(DataError, match=f"^{re.escape(line)}"):
            next(images.inputs(shapes, preprocess, 1))
    with pytest.raises(UnsupportedError, match=r"expected the preprocessing of the network's images, found none$"):
        next(images.inputs({"x": (3, 4, 4)}, None, 1))


def test_a_network_of_several_inputs_is_calibrated_on_them(tmp_path: Path) -> None:
    network = trace(randomized(Detector()), Detector.shapes)
    batch = {"image": pictures(8), "about": np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)}
    for i in range(8):
        np.savez(tmp_path / f"{i}.npz", **{name: array[i] for name, array in batch.items()})
    found = ImageSet.folder(tmp_path, None, 0).inputs(network.graph.input_shapes, None, 8)
    assert calibrate(network, found).to_dict() == calibrate(network, [batch]).to_dict()
