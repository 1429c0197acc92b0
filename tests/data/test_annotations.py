from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeq.data.annotations import read_annotations
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError

HALF = Preprocess(32, (32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Of an image of 128 x 64: resized to 64 x 32, of which the columns 16 to 48 are taken."""


def coco(**changes: Any) -> dict[str, Any]:
    """Two images and an object in the second, with ids as COCO has them."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 128, "height": 64}, {"id": 3, "file_name": "sub/b.png"},
        ],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 90, "bbox": [44, 20, 24, 10], "iscrowd": 1}],
        "categories": [{"id": 90, "name": "cup"}, {"id": 2, "name": "car"}],
        **changes,
    }  # fmt: skip


def write(folder: Path, body: object) -> Path:
    (folder / "sub").mkdir(exist_ok=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (128, 64)).save(folder / name)
    (folder / "annotations.json").write_text(json.dumps(body))
    return folder


def test_images_objects_and_categories(tmp_path: Path) -> None:
    found = read_annotations(write(tmp_path, coco()))
    assert [found.images.place(i) for i in range(2)] == [tmp_path / "a.png", tmp_path / "sub/b.png"]
    assert found.categories == (2, 90)
    assert [len(one.crowd) for one in found.objects] == [0, 1]
    assert found.objects[1].boxes.corners.tolist() == [[44, 20, 68, 30]]
    assert found.objects[1].boxes.categories.tolist() == [90]
    assert found.objects[1].crowd.tolist() == [True]
    assert found.sizes == ((128, 64), None)


def test_boxes_go_through_resize_and_crop(tmp_path: Path) -> None:
    """x: halved, less 16, and cut at 0 and 32; y: halved. The second lies left of the crop."""
    boxes = [[20, 20, 24, 10], [0, 0, 32, 9], [90, 2, 20, 4]]
    objects = [{"image_id": 3, "category_id": 2, "bbox": box} for box in boxes]
    found = read_annotations(write(tmp_path, coco(annotations=objects))).seen(1, HALF)
    assert found.boxes.corners.tolist() == [[0, 10, 6, 15], [29, 1, 32, 3]]
    assert len(found.boxes.categories) == len(found.crowd) == 2


def test_boxes_are_stretched_with_their_image(tmp_path: Path) -> None:
    stretched = Preprocess((32, 32), (32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    found = read_annotations(write(tmp_path, coco())).seen(1, stretched)
    assert found.boxes.corners.tolist() == [[11, 10, 17, 15]]


def test_an_image_of_another_size_than_the_annotations_say(tmp_path: Path) -> None:
    images = [{"id": 3, "file_name": "a.png", "width": 64, "height": 128}]
    found = read_annotations(write(tmp_path, coco(images=images, annotations=[])))
    message = f"{tmp_path}/a.png: expected 64 x 128 pixels, as annotations.json says, found 128 x 64; its boxes would"
    with pytest.raises(DataError, match=re.escape(message)):
        found.seen(0, HALF)


def test_images_that_are_not_there_are_left_out_with_a_notice(tmp_path: Path) -> None:
    write(tmp_path, coco())
    (tmp_path / "a.png").unlink()
    found = read_annotations(tmp_path)
    assert len(found.images) == len(found.objects) == 1
    assert found.images.notices == (f"{tmp_path}: 1 of 2 images of annotations.json left out, not there",)


ANNOTATION = {"image_id": 3, "category_id": 2, "bbox": [0, 0, 1, 1]}
BAD = {
    "a list": ([1], "expected annotations as COCO has them, found that its content is a list"),
    "no images": (
        {"annotations": [], "categories": []},
        "expected annotations as COCO has them, found that its images is missing or no list",
    ),
    "empty": (coco(images=[], annotations=[]), "expected images and categories, found 0 and 2"),
    "image id": (
        coco(annotations=[ANNOTATION | {"image_id": 4}]), "expected the image 4 of an object, found no such id"
    ),
    "category id": (
        coco(annotations=[ANNOTATION | {"category_id": 1}]), "expected the category 1 of an object, found no such id"
    ),
    "box": (
        coco(annotations=[ANNOTATION | {"bbox": [0, 0, -1, 2]}]),
        "expected boxes as x, y, width and height, found [0, 0, -1, 2]",
    ),
    "repeated id": (
        coco(categories=[{"id": 90}, {"id": 90}]), "expected categories with ids of their own, found one twice"
    ),
    "outside": (
        coco(images=[{"id": 3, "file_name": "../b.png"}]), "expected images in the folder, found the file name ../b.png"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD)
def test_annotations_that_are_none(body: object, message: str, tmp_path: Path) -> None:
    write(tmp_path, body)
    with pytest.raises(DataError, match=f"^{re.escape(f'{tmp_path}/annotations.json: {message}')}$"):
        read_annotations(tmp_path)


def test_no_file_no_folder_no_image(tmp_path: Path) -> None:
    message = (
        f"{tmp_path}/annotations.json: no such file; name the annotations, as COCO has them, with --annotations FILE"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_annotations(tmp_path)
    with pytest.raises(DataError, match=r"/none: expected a folder of images, found none$"):
        read_annotations(tmp_path / "none")
    write(tmp_path, coco())
    (tmp_path / "elsewhere").mkdir()
    message = f"{tmp_path}/elsewhere: expected the 2 images of annotations.json, found none; name their folder"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_annotations(tmp_path / "elsewhere", tmp_path / "annotations.json")
    (tmp_path / "annotations.json").write_text("{")
    with pytest.raises(DataError, match=r"annotations.json: expected annotations \(JSON\), found no such: Expecting"):
        read_annotations(tmp_path)
