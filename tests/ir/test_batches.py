"""Batches: every mistake in one line, and how they lie in memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from nets import SHAPE, float_network, images

from edgeq.calibration.calibrate import calibrate
from edgeq.errors import DataError
from edgeq.ir.batches import Images
from edgeq.ir.graph import Graph, Input, Output
from edgeq.ir.node import Node
from edgeq.planning.plan import plan
from edgeq.quantization.quantize import quantize

ONE = Graph.of_image((3, 4, 4), (Node("relu", "relu", ("input",), (3, 4, 4)),))
TWO = Graph(
    (Input("image", "image", (3, 4, 4)), Input("meta", "meta", (2,))),
    (Node("relu", "relu", ("image",), (3, 4, 4)),),
    (Output("output", "relu", "regression"),),
)


def array(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("graph", "batch", "line"),
    [
        (TWO, array(2, 3, 4, 4), "expected batches with the inputs image, meta by name, found one array"),
        (TWO, {"image": array(2, 3, 4, 4)}, "expected batches with the inputs image, meta, found image"),
        (TWO, {}, "expected batches with the inputs image, meta, found nothing"),
        (ONE, {"picture": array(2, 3, 4, 4)}, "expected batches with the inputs image, found picture"),
        (
            TWO,
            {"image": array(2, 3, 4, 4), "meta": array(2, 2), "size": array(2)},
            "expected batches with the inputs image, meta, found image, meta, size",
        ),
        (
            TWO,
            {"image": array(2, 3, 4, 4), "meta": array(3, 2)},
            "expected as many images in each input of a batch, found image 2, meta 3",
        ),
        (
            ONE,
            torch.zeros(2, 3, 4, 4),
            "expected batches of images as NumPy arrays, found Tensor; of what a loader yields, take images.numpy()",
        ),
        (ONE, [1.0], "expected batches of images as NumPy arrays, found list; of what a loader yields, take images.nu"),
        (ONE, array(2, 3, 4, 4).astype(str), "expected batches of images as arrays of numbers, found <U"),
        (TWO, {"image": array(2, 3, 4, 4), "meta": array(2, 3)}, "expected batches of the input meta [2], found [3]"),
        (
            TWO,
            {"image": array(2, 3, 4, 4), "meta": None},
            "expected batches of the input meta as NumPy arrays, found NoneType; of what a loader yields, take",
        ),
        (
            TWO,
            {"image": array(2, 3, 4, 4), "meta": array(2, 2) - np.inf},
            "a batch of the input meta holds NaN or infinite values; expected finite ones",
        ),
        (ONE, array(2, 4, 4, 3), "expected batches of images [3, 4, 4], found [4, 4, 3]"),
        (ONE, array(3, 4, 4), "expected batches of images [3, 4, 4], found [4, 4]"),
        (ONE, np.ones((), np.float32), "expected batches of images [3, 4, 4], found"),
        (ONE, array(1, 3, 4, 4) * np.nan, "a batch of images holds NaN or infinite values; expected finite ones"),
        (ONE, array(1, 3, 4, 4) - np.inf, "a batch of images holds NaN or infinite values; expected finite ones"),
    ],
    ids=[
        "one array", "one missing", "empty", "another name", "one too many", "other counts", "tensor", "list",
        "text", "shape of one", "type of one", "NaN in one", "channels last", "no batch", "a number", "NaN", "infinite",
    ],
)  # fmt: skip
def test_mistakes_in_one_line(graph: Graph, batch: Any, line: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(line)}") as caught:
        Images.of(graph, batch)
    assert "\n" not in str(caught.value)


def test_inputs_are_in_the_order_of_the_network() -> None:
    found = Images.of(TWO, {"meta": array(5, 2), "image": array(5, 3, 4, 4)})
    assert [x.shape for x in found.arrays] == [(5, 3, 4, 4), (5, 2)]
    assert len(found) == 5
    assert len(Images.of(ONE, array(3, 3, 4, 4))) == len(Images.of(ONE, {"image": array(3, 3, 4, 4)})) == 3


def test_parts_of_images_are_views_and_join_again() -> None:
    whole = Images.of(TWO, {"meta": array(5, 2), "image": array(5, 3, 4, 4)})
    parts = [whole[:2], whole[2:]]
    assert [len(part) for part in parts] == [2, 3]
    assert all(np.shares_memory(*pair) for pair in zip(parts[0].arrays, whole.arrays, strict=True))
    for joined in (Images.joined(parts), Images.joined(list(whole))):
        for found, expected in zip(joined.arrays, whole.arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
    copied = whole.copied()
    copied.arrays[0][:] = 0
    assert whole.arrays[0].any()


def test_maps_have_their_channels_last_in_memory() -> None:
    (x,) = Images.of(float_network("flat").graph, images(2).astype(np.float64)).tensors(float_network("flat"))
    assert x.shape == (2, *SHAPE)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        (None, "NoneType"),
        (array(2, 3, 4, 4), "ndarray"),
        (torch.zeros(1), "Tensor"),
        ({"image": 1}, "dict"),
        (3, "int"),
    ],
)
def test_what_is_no_iterable_of_batches(batches: Any, found: str) -> None:
    with pytest.raises(DataError) as caught:
        Images.each(ONE, batches)
    line = f"expected an iterable of batches, found {found}; put a single batch into a list"
    assert str(caught.value) == line


@pytest.mark.parametrize("stage", ["calibrate", "quantize"])
def test_the_stages_say_so(stage: str) -> None:
    network = float_network("flat")
    with pytest.raises(
        DataError, match=r"^expected an iterable of batches, found NoneType; put a single batch into a l"
    ):
        if stage == "calibrate":
            calibrate(network, None)  # type: ignore[arg-type]
        else:
            record = calibrate(network, [images(2)])
            quantize(network, record, plan(record, "4bit"), None)  # type: ignore[arg-type]
