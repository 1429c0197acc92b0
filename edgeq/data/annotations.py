"""Objects in images, from a file as COCO has it (https://cocodataset.org/#format-data), and a folder of the images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from PIL import Image

from edgeq.artifacts.schema import COUNT, NUMBER, PATH, Schema, validate
from edgeq.data.image_files import formats
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError, one_line
from edgeq.tasks.detection import Boxes, Truth

NAME: Final = "annotations.json"
"""The file of annotations in a folder of images, if no other is named."""

_SCHEMA: Final[Schema] = {
    "images": [{"id": COUNT, "file_name": PATH}],
    "annotations": [{"image_id": COUNT, "category_id": COUNT, "bbox": [NUMBER]}],
    "categories": [{"id": COUNT}],
}


@dataclass(frozen=True)
class Annotations:
    """Images with the objects in them.

    Attributes:
        images: the images, in the order of the file.
        objects: what is in each image, in pixels of it.
        sizes: width and height of each image, as the file says; None where it does not.
        categories: ids of all categories, rising.
        file: that they were read from.
    """

    images: ImageSet
    objects: tuple[Truth, ...]
    sizes: tuple[tuple[int, int] | None, ...]
    categories: tuple[int, ...]
    file: Path

    def seen(self, index: int, preprocess: Preprocess) -> Truth:
        """Return the objects in what a network takes of an image, in pixels of that; others are left out.

        Raises:
            DataError: the image has another size than the file says.
        """
        with Image.open(str(self.images.place(index)), formats=formats()) as image:
            width, height = image.size
        said = self.sizes[index]
        if said is not None and said != (width, height):
            raise DataError(
                f"{self.images.place(index)}: expected {said[0]} x {said[1]} pixels, as {self.file.name} says, found "
                f"{width} x {height}; its boxes would be elsewhere"
            )
        corners = preprocess.boxes(self.objects[index].boxes.corners, width, height)
        there = (corners[:, 2:] > corners[:, :2]).all(1)
        boxes = Boxes(corners[there], self.objects[index].boxes.categories[there])
        return Truth(boxes, self.objects[index].crowd[there])


def read_annotations(root: Path, file: Path | None = None) -> Annotations:
    """Read annotations as COCO has them.

    Args:
        root: the folder that the file names of images are relative to. Images that are not there are left out, with a
            notice.
        file: the file of annotations; None is `annotations.json` in the folder.

    Raises:
        DataError: no such folder or file, not in COCO's format, an id that occurs twice or nowhere, a file name outside
            of the folder, or none of the images is there.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found {'a file' if root.exists() else 'none'}")
    path = file or root / NAME
    if not path.is_file():
        raise DataError(f"{path}: no such file; name the annotations, as COCO has them, with --annotations FILE")
    body = _read(path)
    named = {image["id"]: image for image in body["images"]}
    categories = tuple(sorted({category["id"] for category in body["categories"]}))
    _check(path, body, named, categories)
    there = [image for image in named.values() if (root / image["file_name"]).is_file()]
    if not there:
        raise DataError(f"{root}: expected the {len(named)} images of {path.name}, found none; name their folder")
    lacking = len(named) - len(there)
    notices = [f"{root}: {lacking} of {len(named)} images of {path.name} left out, not there"] * bool(lacking)
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for annotation in body["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    images = ImageSet.files(root, [image["file_name"] for image in there], notices)
    objects = tuple(_objects(by_image.get(image["id"], [])) for image in there)
    return Annotations(images, objects, tuple(map(_size, there)), categories, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected annotations (JSON), found no such: {one_line(error)}") from error
    problem = validate(body, _SCHEMA) if isinstance(body, dict) else f"content is a {type(body).__name__}"
    if problem:
        raise DataError(f"{path}: expected annotations as COCO has them, found that its {problem}")
    return dict(body)


def _check(path: Path, body: Mapping[str, Any], images: Mapping[int, Any], categories: Sequence[int]) -> None:
    """Refuse ids that mean nothing, boxes without a size and names outside of the folder."""
    if not images or not categories:
        raise DataError(f"{path}: expected images and categories, found {len(images)} and {len(categories)}")
    for what, known in (("images", images), ("categories", categories)):
        if len(body[what]) != len(known):
            raise DataError(f"{path}: expected {what} with ids of their own, found one twice")
    names = [image["file_name"] for image in images.values()]
    if len({*names}) != len(names):
        raise DataError(f"{path}: expected images with file names of their own, found one twice")
    if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise DataError(f"{path}: expected images in the folder, found the file name {outside[0]}")
    for annotation in body["annotations"]:
        box = annotation["bbox"]
        if annotation["image_id"] not in images:
            raise DataError(f"{path}: expected the image {annotation['image_id']} of an object, found no such id")
        if annotation["category_id"] not in categories:
            raise DataError(f"{path}: expected the category {annotation['category_id']} of an object, found no such id")
        if len(box) != 4 or min(box[2:]) < 0:
            raise DataError(f"{path}: expected boxes as x, y, width and height, found {box}")


def _objects(annotations: Sequence[Mapping[str, Any]]) -> Truth:
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    categories = np.array([annotation["category_id"] for annotation in annotations], np.int64)
    crowd = np.array([bool(annotation.get("iscrowd")) for annotation in annotations], np.bool_)
    return Truth(Boxes(corners, categories), crowd)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
