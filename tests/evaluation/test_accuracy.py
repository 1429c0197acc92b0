from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import Heard
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeq.artifacts import files as artifact
from edgeq.data import glyphs
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, DataError
from edgeq.evaluation.accuracy import EvaluationReport, evaluate
from edgeq.runtimes.jobs import Runner
from edgeq.runtimes.onnxruntime import onnx_runner

PIXEL = Preprocess(1, 1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def grey(tmp_path: Path, levels: Sequence[int]) -> ImageSet:
    """Labelled images of one grey level each, in folders named by the index of the class."""
    for position, (label, level) in enumerate(zip(LABELS, levels, strict=False)):
        folder = tmp_path / str(label)
        folder.mkdir(exist_ok=True)
        Image.new("L", (1, 1), level).save(folder / f"{position}.png")
    return ImageSet.labelled(tmp_path, classes=6)


LABELS = (0, 1, 2, 3)


def table(rows: Sequence[Sequence[float]]) -> Runner:
    """A model that gives row i of `rows` for the image of grey level i."""
    logits = np.array(rows, dtype=np.float32)

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        levels = np.rint(images[:, 0, 0, 0] * 255).astype(int)
        return np.asarray(logits[levels], dtype=np.float32)

    return run


REFERENCE = [  # top-1: 0, 1, 1, 0; labels 0, 1, 2, 3
    [9.0, 1, 2, 3, 4, 5],
    [1.0, 9, 2, 3, 4, 5],
    [1.0, 9, 2, 3, 4, 5],  # the label's logit comes fifth, just among the top 5
    [9.0, 8, 7, 1, 6, 5],  # the label's logit comes last
]
MODEL = [  # top-1: 0, 0 (a tie), 2, 0
    [9.0, 1, 2, 3, 4, 5],
    [9.0, 9, 2, 3, 4, 5],
    [1.0, 2, 9, 3, 4, 5],
    [9.0, 8, 7, 1, 6, 5],
]


@pytest.fixture
def report(tmp_path: Path) -> EvaluationReport:
    return evaluate({"model": table(MODEL)}, table(REFERENCE), grey(tmp_path, range(4)), PIXEL, batch=3)


def test_reference_row(report: EvaluationReport) -> None:
    row = report.reference
    assert (row.name, row.top1, row.top5, row.agreement, row.sqnr_db) == ("reference", 50.0, 75.0, 100.0, None)
    assert row.predictions == (0, 1, 1, 0)


def test_model_row(report: EvaluationReport) -> None:
    (row,) = report.models
    assert (row.name, row.top1, row.top5, row.agreement) == ("model", 50.0, 75.0, 50.0)
    assert row.predictions == (0, 0, 2, 0)


def test_sqnr_of_hand_computed_energies(report: EvaluationReport) -> None:
    signal = 3 * (81 + 1 + 4 + 9 + 16 + 25) + (81 + 64 + 49 + 1 + 36 + 25)
    noise = 8**2 + 7**2 + 7**2
    assert report.models[0].sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-12)


def test_raw_samples_and_circumstances_are_kept(report: EvaluationReport, tmp_path: Path) -> None:
    assert (report.images, report.labels, report.unreadable) == (4, (0, 1, 2, 3), ())
    assert (report.data, report.preprocess) == (str(tmp_path), PIXEL)


def test_report_is_a_json_artifact(report: EvaluationReport) -> None:
    body: dict[str, Any] = json.loads(artifact.dumps("evaluation", 1, report.to_dict()))
    assert body["format"] == "edgeq-evaluation"
    assert body["models"][0]["predictions"] == [0, 0, 2, 0]
    assert body["reference"]["predictions"] == [0, 1, 1, 0]
    assert body["labels"] == [0, 1, 2, 3]
    assert Preprocess.from_dict(body["preprocess"]) == PIXEL


def test_each_image_passes_once_and_batch_size_does_not_matter(tmp_path: Path) -> None:
    images, seen = grey(tmp_path, range(4)), []

    def counting(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(len(batch))
        return table(MODEL)(batch)

    reports = [evaluate({"m": counting}, table(REFERENCE), images, PIXEL, batch=size) for size in (1, 3, 8)]
    assert seen == [1, 1, 1, 1, 3, 1, 4]
    assert reports[0] == reports[1] == reports[2]


def test_progress_counts_up_to_all_images(tmp_path: Path) -> None:
    heard = Heard()
    images = grey(tmp_path, range(4))
    evaluate({}, table(REFERENCE), images, PIXEL, batch=3, progress=heard)
    assert heard.steps == [("evaluating", 3, 4), ("evaluating", 4, 4)]


def test_unlabelled_images_have_agreement_but_no_accuracy(tmp_path: Path) -> None:
    grey(tmp_path, range(4))
    images = ImageSet.folder(tmp_path, samples=None, seed=0)
    report = evaluate({"model": table(MODEL)}, table(REFERENCE), images, PIXEL)
    (row,) = report.models
    assert (report.labels, row.top1, row.top5, row.agreement) == (None, None, None, 50.0)


@pytest.mark.parametrize("scale", [1.0, 0.0], ids=["identical", "silent reference"])
def test_sqnr_without_a_finite_value_is_none(tmp_path: Path, scale: float) -> None:
    reference = (np.array(REFERENCE) * scale).tolist()
    report = evaluate({"model": table(REFERENCE)}, table(reference), grey(tmp_path, range(4)), PIXEL)
    assert report.models[0].sqnr_db is None


def test_sqnr_of_a_tenth_of_the_amplitude_is_20_db(tmp_path: Path) -> None:
    model = (np.array(REFERENCE) * 1.1).tolist()
    report = evaluate({"model": table(model)}, table(REFERENCE), grey(tmp_path, range(4)), PIXEL)
    assert report.models[0].sqnr_db == pytest.approx(20.0, abs=1e-4)


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_accuracy_is_that_of_a_stable_sort(rows: list[list[float]], batch: int) -> None:
    """Many ties: the classes in order of falling logit, of equal ones the lower index first."""
    images = ImageSet.embedded("test", len(rows))
    logits = iter(np.array(rows + [[0.0] * 7] * 4, dtype=np.float32))

    def model(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([next(logits) for _ in pixels])

    order = [sorted(range(7), key=[-logit for logit in row].__getitem__) for row in rows]
    report = evaluate({}, model, images, PIXEL, batch)
    expected1 = [glyphs.label(i) == order[i][0] for i in range(len(rows))]
    expected5 = [glyphs.label(i) in order[i][:5] for i in range(len(rows))]
    assert report.reference.predictions == tuple(o[0] for o in order)
    assert report.reference.top1 == 100 * sum(expected1) / len(rows)
    assert report.reference.top5 == 100 * sum(expected5) / len(rows)


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    for index in range(100):
        Image.new("L", (1, 1), 0).save(tmp_path / f"{index:03}.png")
    (tmp_path / "042.png").write_text("not a picture")
    report = evaluate({}, table([[1, 0]]), ImageSet.folder(tmp_path, None, 0), PIXEL, batch=10)
    assert report.images == len(report.reference.predictions) == 99
    assert [tuple(item) for item in report.unreadable] == [("042.png", "not an image")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.0] * 5] * 4, "wide: expected logits [4, 6], found [4, 5]"),
        ([[math.nan] * 6] * 4, "wide: expected finite numbers in output output, found NaN or infinity"),
        ([[math.inf] * 6] * 4, "wide: expected finite numbers in output output, found NaN or infinity"),
    ],
    ids=["other classes", "nan", "inf"],
)
def test_logits_that_cannot_be_compared(tmp_path: Path, rows: list[list[float]], message: str) -> None:
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        evaluate({"wide": table(rows)}, table(REFERENCE), grey(tmp_path, range(4)), PIXEL)


def test_reference_that_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^the reference: expected logits \[4, classes\], found \[4, 3, 1, 1\]$"):
        evaluate({}, lambda images: images, grey(tmp_path, range(4)), PIXEL)


def test_labels_beyond_the_classes(tmp_path: Path) -> None:
    narrow = table([row[:3] for row in REFERENCE])
    with pytest.raises(DataError, match=r"expected labels below the network's 3 classes, found 3$"):
        evaluate({}, narrow, grey(tmp_path, range(4)), PIXEL)


def save_onnx(path: Path, op: str, batch: int | str = "n", inputs: int = 1, outputs: int = 1) -> Path:
    """A model that flattens its first input, or applies another operator to it."""
    shape = [batch, 3, 1, 1]
    graph = helper.make_graph(
        [helper.make_node(op, ["x0"], [f"y{i}"]) for i in range(outputs)],
        "test",
        [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(inputs)],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_images_that_have_the_shape_of_the_input_are_taken_as_they_are(tmp_path: Path) -> None:
    """A network may take the channels last by itself, and so do its file and its images."""
    path = save_onnx(tmp_path / "flat.onnx", "Flatten")
    model = onnx.load(path)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], (4, 5, 3), strict=True):
        dim.dim_value = size
    onnx.save(model, path)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(onnx_runner(path)(x), x.reshape(2, 60))
    np.testing.assert_array_equal(onnx_runner(path)(x.transpose(0, 3, 1, 2)), x.reshape(2, 60))


@pytest.mark.parametrize("optimize", [True, False])
def test_onnx_runner_computes_the_graph(tmp_path: Path, optimize: bool) -> None:
    run = onnx_runner(save_onnx(tmp_path / "flat.onnx", "Flatten"), optimize=optimize, threads=1)
    images = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    np.testing.assert_array_equal(run(images), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "content", [b"", b"hello, world\n", b"\x89PNG\r\n\x1a\n" * 40], ids=["empty", "text", "other format"]
)
def test_onnx_runner_refuses_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        onnx_runner(path)
    assert str(caught.value).startswith(f"{path}: expected an ONNX")
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(str(path)) == 1


def test_onnx_runner_refuses_a_truncated_model(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "cut.onnx", "Flatten")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="expected an ONNX file, found something unreadable"):
        onnx_runner(path)


def test_onnx_runner_refuses_an_unknown_operator(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="NoSuchOperator"):
        onnx_runner(save_onnx(tmp_path / "odd.onnx", "NoSuchOperator"))


def test_onnx_runner_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx: no such file$"):
        onnx_runner(tmp_path / "none.onnx")


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (1, 2)])
def test_onnx_runner_wants_one_input_and_one_output(tmp_path: Path, inputs: int, outputs: int) -> None:
    path = save_onnx(tmp_path / "many.onnx", "Flatten", inputs=inputs, outputs=outputs)
    with pytest.raises(ArtifactError, match=f"with 1 input and 1 output, found {inputs} and {outputs}$"):
        onnx_runner(path)


def test_onnx_runner_wants_floating_point_logits(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "odd.onnx", "Shape")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    message = r"odd\.onnx: expected logits of tensor\(float\) or .*, found tensor\(int64\)$"
    with pytest.raises(ArtifactError, match=message):
        onnx_runner(path)


def vast(tmp_path: Path) -> onnx.ModelProto:
    """A pooling that pads its map to more columns than memory holds."""
    model = onnx.load(save_onnx(tmp_path / "vast.onnx", "MaxPool"))
    attributes = {"kernel_shape": [2, 2], "pads": [1, 1, 0, 2**31]}
    model.graph.node[0].attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    return model


def test_onnx_runner_refuses_what_asks_for_more_memory_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "vast.onnx"
    onnx.save(vast(tmp_path), path)
    message = r"vast\.onnx: expected values of at most 67108864 numbers an image, found one of \[0, 3, 1, 2147483649\]$"
    with pytest.raises(ArtifactError, match=message):
        onnx_runner(path)


def test_onnx_runner_refuses_vast_padding_of_what_has_no_known_shape(tmp_path: Path) -> None:
    path, model = tmp_path / "vast.onnx", vast(tmp_path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match=r"vast\.onnx: expected padding of at most 65536 pixels, found 2147483648$"):
        onnx_runner(path)


def secret(tmp_path: Path, location: str) -> Path:
    """A model of a folder that adds what lies in a file outside of it."""
    (tmp_path / "secret").write_bytes(np.float32(42).tobytes())
    (tmp_path / "folder").mkdir()
    path = save_onnx(tmp_path / "folder" / "thief.onnx", "Add")
    model = onnx.load(path)
    model.graph.node[0].input.append("w")
    tensor = model.graph.initializer.add(
        name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("absolute", [False, True], ids=["up", "absolute"])
def test_onnx_runner_reads_nothing_outside_of_the_folder_of_the_file(tmp_path: Path, absolute: bool) -> None:
    path = secret(tmp_path, str(tmp_path / "secret") if absolute else "../secret")
    with pytest.raises(
        ArtifactError, match=r"thief\.onnx: expected its tensors in files of its folder, found w in '.*'"
    ):
        onnx_runner(path)


def test_onnx_runner_says_that_the_images_do_not_fit(tmp_path: Path) -> None:
    run = onnx_runner(save_onnx(tmp_path / "one.onnx", "Flatten", batch=1))
    with pytest.raises(
        ArtifactError, match=r"one\.onnx: cannot run on images \[2, 3, 4, 4\]: .*invalid dimensions"
    ) as caught:
        run(np.zeros((2, 3, 4, 4), np.float32))
    assert "\n" not in str(caught.value)


# --- files of other tools -------------------------------------------------------------------------------------------


def other_tool(path: Path, kind: int = TensorProto.FLOAT, shape: Sequence[int | str] = ("n", 3, 2, 2)) -> Path:
    """A model that gives back the first channel of its input's pixels as logits, as floats of at least 16 bits."""
    last = shape[3] == 3
    logits = kind if kind in (TensorProto.FLOAT16, TensorProto.DOUBLE) else TensorProto.FLOAT
    weights = [("index", np.array(0)), ("sizes", np.array([shape[0] if isinstance(shape[0], int) else -1, 4]))]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "index"], ["red"], axis=3 if last else 1),
            helper.make_node("Reshape", ["red", "sizes"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["y"], to=logits),
        ],
        "other",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", logits, [shape[0], 4])],
        [numpy_helper.from_array(value.astype(np.int64), name) for name, value in weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def counting(n: int) -> NDArray[np.float32]:
    """Images `[n, 3, 2, 2]` of values that float16 holds, and of which none occurs twice."""
    return np.asarray(np.arange(n * 12, dtype=np.float32).reshape(n, 3, 2, 2) / 255, np.float32)


@pytest.mark.parametrize("shape", [("n", 3, 2, 2), ("n", 2, 2, 3), ("n", "h", "w", 3)], ids=str)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_onnx_runner_gives_a_file_the_type_and_layout_it_takes(
    kind: int, shape: tuple[int | str, ...], tmp_path: Path
) -> None:
    found = onnx_runner(other_tool(tmp_path / "other.onnx", kind, shape))(counting(5))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, counting(5)[:, 0].reshape(5, 4), rtol=1e-3)


@pytest.mark.parametrize("shape", [("n", 3, 2, 2), ("n", 2, 2, 3), ("n", "h", "w", 3)], ids=str)
def test_onnx_runner_gives_pixels_to_a_file_that_takes_uint8(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    path = other_tool(tmp_path / "other.onnx", TensorProto.UINT8, shape)
    expected = np.arange(60).reshape(5, 3, 4)[:, 0]
    np.testing.assert_array_equal(onnx_runner(path)(counting(5)), expected)
    preprocess = Preprocess(2, 2, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    normalized = (counting(5) - np.float32(0.5)) / np.float32(0.25)
    np.testing.assert_array_equal(onnx_runner(path, preprocess=preprocess)(normalized), expected)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_onnx_runner_runs_a_fixed_batch_as_often_as_it_takes(batch: int, tmp_path: Path) -> None:
    run = onnx_runner(other_tool(tmp_path / "other.onnx", shape=(batch, 3, 2, 2)))
    for n in (1, 5, 8):
        np.testing.assert_array_equal(run(counting(n)), counting(n)[:, 0].reshape(n, 4))


def test_onnx_runner_wants_images(tmp_path: Path) -> None:
    message = r"other\.onnx: expected images of tensor\(float\) or .* or tensor\(uint8\), found tensor\(int32\)$"
    with pytest.raises(ArtifactError, match=message):
        onnx_runner(other_tool(tmp_path / "other.onnx", TensorProto.INT32))


def test_onnx_runner_wants_logits_of_every_image(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "sum.onnx", "ReduceSum", batch=2)
    with pytest.raises(
        ArtifactError, match=r"sum\.onnx: expected its batch of 2 first in output y0, found \[1, 1, 1, 1\]$"
    ):
        onnx_runner(path)(np.zeros((4, 3, 1, 1), np.float32))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.zeros(3, np.int64), r"int64\[3\]"), (np.zeros(4, np.float32), r"float32\[4\]"), ([0, 1, 0, 1], "list"),
    ],
)  # fmt: skip
def test_labels_that_are_none(labels: Any, found: str) -> None:
    x = np.zeros((4, 3, 2, 2), np.float32)
    with pytest.raises(
        DataError, match=rf"^batches: expected labels as a NumPy array of integers \[4\], found {found}$"
    ):
        evaluate({}, lambda images: np.zeros((len(images), 5), np.float32), [(x, labels)])


def test_a_label_below_zero_is_refused() -> None:
    x = np.zeros((1, 3, 2, 2), np.float32)
    with pytest.raises(DataError, match="expected labels below the network's 5 classes, found -1"):
        evaluate({}, lambda images: np.zeros((len(images), 5), np.float32), [(x, np.array([-1]))])
