"""Outputs of any number, shape and type, of models with any inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError
from edgeq.evaluation.accuracy import Test, evaluate, score
from edgeq.evaluation.similarity import Similarity
from edgeq.runtimes.jobs import Model
from edgeq.runtimes.onnxruntime import OnnxModel

PIXEL = Preprocess(1, 1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGES = np.arange(12, dtype=np.float32).reshape(4, 3, 1, 1)


def test_likeness_by_hand() -> None:
    """Reference 3, 4, found 4, 3 and once more in another run."""
    sums = Similarity()
    for _ in range(2):
        sums.add(Similarity.of(np.array([4.0, 3.0]), np.array([[3.0, 4.0]])[0]))
    found = sums.score()
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 2))
    assert found.cosine == pytest.approx(24 / 25)


def test_a_wrong_scale_shows_in_sqnr_alone() -> None:
    found = Similarity.of(np.array([6, 8], np.int64), np.array([3, 4], np.uint8)).score()
    assert (found.cosine, found.sqnr_db) == (1.0, 0.0)


@pytest.mark.parametrize("sign", [1, 0, -1])
def test_likeness_without_finite_values(sign: int) -> None:
    found = Similarity.of(np.array([1.0]), np.array([float(sign)])).score()
    assert found.cosine == {1: 1.0, 0: None, -1: -1.0}[sign]
    assert (found.sqnr_db is None) == (sign >= 0)


def boxes(counts: Sequence[int]) -> Model:
    """A model that finds that many boxes in the images of a run, one run after the other."""
    left = iter(counts)
    return lambda images: {"boxes": np.ones((next(left), 4)), "scores": np.ones((len(images), 2, 2))}


def test_another_number_of_boxes_cannot_be_compared() -> None:
    runs = [(IMAGES[:2], None), (IMAGES[2:], None)]
    (row,) = evaluate({"m": boxes([3, 4])}, boxes([3, 3]), runs).models
    assert (row.outputs["boxes"].sqnr_db, row.outputs["boxes"].cosine, row.outputs["boxes"].other_shape) == (
        None,
        None,
        1,
    )
    assert row.outputs["scores"].cosine == 1
    message = r"^m: expected output boxes in the reference's shape, never found it so$"
    with pytest.raises(ArtifactError, match=message):
        evaluate({"m": boxes([4, 4])}, boxes([3, 3]), runs)


def named(**outputs: NDArray[Any]) -> Model:
    return lambda images: outputs


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (named(a=np.ones(4)), "m: expected the outputs a, b, as the reference has, found a without b"),
        (named(a=np.ones((4, 1)), b=np.ones(4)), "m: expected output a [4], found [4, 1]"),
        (named(a=np.ones(4), b=np.array(["x"])), "m: expected output b as an array of numbers, found <U1"),
        (lambda images: (1, 2), "m: expected output output as an array of numbers, found tuple"),
    ],
    ids=["lacking", "dimensions", "text", "a tuple"],
)
def test_outputs_that_cannot_be_compared(found: Model, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        evaluate({"m": found}, named(a=np.ones(4), b=np.ones(4)), [(IMAGES, None)])
    assert str(caught.value) == message


def test_an_only_output_may_have_any_name() -> None:
    report = evaluate({"m": named(y=np.ones((4, 2)))}, named(logits=np.ones((4, 2))), [(IMAGES, np.zeros(4, int))])
    assert list(report.models[0].outputs) == ["logits"]
    assert report.models[0].top1 == 100


def test_class_scores_among_other_outputs_need_labels_or_a_word() -> None:
    both = named(logits=np.eye(4), features=np.ones((4, 2, 2)))
    report = evaluate({"m": both}, both, [(IMAGES, np.arange(4))])
    assert (report.metric, report.models[0].top1) == ("top1", 100)
    assert evaluate({"m": both}, both, [(IMAGES, None)]).models[0].agreement is None
    said = score({"m": both}, both, Test([(IMAGES, None)], classifies=True)).models[0]
    assert (said.agreement, said.top1) == (100, None)


def save(path: Path, nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, Any]) -> Path:
    """A file of these nodes; inputs and outputs as type and shape by name."""
    taken, made = (
        [helper.make_tensor_value_info(key, *end) for key, end in part.items()] for part in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "any", taken, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def fixed(path: Path, batch: int) -> Path:
    """The sum of each image's channels as `[h, n, w]`, and their largest as `[n, h, w]`, for a fixed batch."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Transpose", ["mean"], ["rows"], perm=[1, 0, 2]),
        helper.make_node("ReduceMax", ["x"], ["largest"], axes=[1], keepdims=0),
    ]
    kinds = dict.fromkeys(("rows", "largest"), (TensorProto.FLOAT, None))
    return save(path, nodes, {"x": (TensorProto.FLOAT, [batch, 3, 1, 1])}, kinds)


def test_outputs_of_a_batch_of_one_are_compared_run_by_run(tmp_path: Path) -> None:
    model = OnnxModel(fixed(tmp_path / "one.onnx", 1))
    assert model.batch == 1
    report = score({"m": model}, model, Test(ImageSet.embedded("test", 3), PIXEL, batch=1, classifies=False))
    assert report.models[0].outputs["rows"].cosine == pytest.approx(1)


def test_outputs_of_larger_fixed_batches_are_joined_if_they_have_the_batch_first(tmp_path: Path) -> None:
    model = OnnxModel(fixed(tmp_path / "three.onnx", 3))
    np.testing.assert_array_equal(model(IMAGES[:3])["rows"][0, :, 0], [1, 4, 7])
    message = r"three\.onnx: expected its batch of 3 first in output rows, found \[1, 3, 1\]$"
    with pytest.raises(ArtifactError, match=message):
        model(IMAGES)


def test_inputs_by_name_in_the_types_of_the_file(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Neg", ["number"], ["negative"])]
    inputs = {"x": (TensorProto.FLOAT16, ["n", 3, 1, 1]), "number": (TensorProto.INT32, ["n", 2])}
    kinds = {"same": (TensorProto.FLOAT16, None), "negative": (TensorProto.INT32, None)}
    model = OnnxModel(save(tmp_path / "two.onnx", nodes, inputs, kinds))
    numbers = np.array([[1, 2]] * 4, np.float32)
    found = model({"number": numbers, "x": IMAGES})
    assert [found[name].dtype.name for name in ("same", "negative")] == ["float16", "int32"]
    assert found["negative"].tolist() == [[-1, -2]] * 4
    report = evaluate({"m": model}, model, [({"number": numbers, "x": IMAGES}, None)])
    assert report.images == 4
    with pytest.raises(ArtifactError, match=r"two\.onnx: expected the inputs x, number, found one array$"):
        model(IMAGES)
