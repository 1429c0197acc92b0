"""The plain functions behind the command line, and the names that the package exports."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import onnxruntime
import pytest
from commandline import ADAPTIVE, FP32, RECORD, picture
from conftest import SAMPLES, Demo

import edgeq
from edgeq.artifacts.files import kind_of
from edgeq.artifacts.manifest import read_manifest
from edgeq.commands import reports, workflow
from edgeq.commands.inspection import inspect
from edgeq.commands.workflow import choose_data
from edgeq.errors import ArtifactError, DataError, OutputError, UnsupportedError
from edgeq.planning.effort import EFFORTS, Effort
from edgeq.system.progress import Counter, Listener


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.notices: list[str] = []
        self.listener = Listener(lambda *step: self.steps.append(step), self.notices.append)


# --- the package ----------------------------------------------------------------------------------------------------


def test_exported_names() -> None:
    assert edgeq.__all__ == [
        "CalibrationRecord", "EdgeqError", "ImageSet", "PrecisionPlan", "Preprocess", "Source", "bench",
        "calibrate", "evaluate", "export", "load", "load_packed", "onnx_runner", "pack", "plan", "quantize", "trace",
        "tune",
    ]  # fmt: skip


@pytest.mark.parametrize("name", edgeq.__all__)
def test_a_name_is_a_class_or_a_function_even_where_a_module_has_the_same(name: str) -> None:
    assert isinstance(getattr(edgeq, name), type | FunctionType)
    assert not isinstance(getattr(edgeq, name), ModuleType)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="No edgeq attribute quantise"):
        _ = edgeq.quantise  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    assert edgeq.__version__ == version("edgeq")


# --- stages ---------------------------------------------------------------------------------------------------------


def test_counter() -> None:
    heard = Heard()
    counter = Counter("work", 5, heard.listener)
    counter.add(2)
    counter.add(3)
    assert heard.steps == [("work", 2, 5), ("work", 5, 5)]


@pytest.mark.parametrize(
    ("data", "weights", "expected"),
    [(None, "embedded", "embedded"), ("photos", "embedded", "photos"), ("embedded", "mine.pt", "embedded")],
)
def test_choice_of_images(data: str | None, weights: str, expected: str) -> None:
    assert choose_data(data, weights) == expected


def test_no_images_are_assumed_for_other_weights() -> None:
    with pytest.raises(DataError, match="imagenet weights need images of their own, found none; name a folder"):
        choose_data(None, "imagenet")


def test_calibrate_counts_every_image(tiny: Path) -> None:
    heard = Heard()
    path, record = workflow.calibrate(listener=heard.listener)
    assert heard.steps[:2] == [("calibrating", 8, SAMPLES), ("calibrating", 16, SAMPLES)]
    assert {work for work, _, _ in heard.steps[2:]} == {"measuring damage"}
    assert all(0 < done <= total for _, done, total in heard.steps)
    assert heard.notices == []
    assert path == RECORD
    assert path.read_text() == record.to_json()


def test_export_counts_every_layer(made: Path) -> None:
    heard = Heard()
    workflow.export("2bit", listener=heard.listener)
    assert heard.steps == [("quantizing to 2bit", i, 4) for i in (1, 2, 3, 4)]


def test_a_folder_takes_at_most_1024_images(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workflow.FOLDER_SAMPLES == 1024
    monkeypatch.setattr(workflow, "FOLDER_SAMPLES", 2)
    for i in range(3):
        picture(Path(f"photos/{i}.png"), seed=i)
    heard = Heard()
    _, record = workflow.calibrate(data="photos", listener=heard.listener)
    assert len(record.data["files"]) == 2
    assert heard.notices == []


def test_the_seed_chooses_the_images(tiny: Path) -> None:
    for i in range(30):
        picture(Path(f"photos/{i}.png"), seed=i)
    chosen = [workflow.calibrate(data="photos", samples=3, seed=seed)[1].data["files"] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_embedded_numbers_of_images_are_balanced() -> None:
    assert (workflow.EMBEDDED_SAMPLES, reports.TEST_SAMPLES) == (12 * 43, 30 * 43)


def test_evaluating_a_file_twice_gives_one_row(made: Path) -> None:
    body = reports.evaluate([ADAPTIVE, ADAPTIVE])
    assert [row["name"] for row in body["models"]] == ["mobilenet_v2-adaptive"]


def test_evaluating_two_files_of_one_name_keeps_them_apart(made: Path) -> None:
    other = Path("other") / ADAPTIVE.name
    other.parent.mkdir()
    for suffix in (".onnx", ".json"):
        other.with_suffix(suffix).write_bytes(ADAPTIVE.with_suffix(suffix).read_bytes())
    body = reports.evaluate([ADAPTIVE, other])
    assert [row["name"] for row in body["models"]] == [str(ADAPTIVE), str(other)]


def test_the_runtime_takes_the_share_of_a_process(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torchrun` shares the cores among its processes by this variable."""
    session, found = onnxruntime.InferenceSession, []

    def spy(path: str, options: onnxruntime.SessionOptions, providers: list[str]) -> Any:
        found.append(options.intra_op_num_threads)
        return session(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    reports.evaluate([ADAPTIVE])
    assert found == [3]


def test_plot_of_fp32_alone(made: Path) -> None:
    alone = Path("alone")
    alone.mkdir()
    alone.joinpath("net.json").write_bytes(FP32.with_suffix(".json").read_bytes())
    heard = Heard()
    assert reports.plot(alone, listener=heard.listener) == [alone / "bitops.png"]
    assert [notice.split(" left out")[0] for notice in heard.notices] == [
        "bits_by_position.png", "size_latency.png", "accuracy_size.png",
    ]  # fmt: skip


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("scheme", ["fp32", "8bit", "4bit", "2bit", "adaptive"])
def test_a_file_is_no_larger_than_its_plan_says(scheme: str, act_bits: int, made: Path) -> None:
    _, planned = workflow.plan(scheme, act_bits=act_bits)
    path, _ = workflow.export(scheme, act_bits=act_bits)
    assert path.stat().st_size <= planned.file_bytes


# --- killed exports -------------------------------------------------------------------------------------------------


class Killed(Exception):  # noqa: N818 (it is no error of the package)
    pass


def killed_at(work: str, step: int) -> Listener:
    """A listener that ends an export at one of its steps."""

    def progress(found: str, done: int, total: int) -> None:
        if (found, done) == (work, step):
            raise Killed

    return Listener(progress)


@pytest.fixture
def short_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "balanced", Effort(2, 100, 6))
    monkeypatch.setattr(import_module("edgeq.quantization.tune"), "_SAVED_EVERY", 2)
    monkeypatch.setattr(import_module("edgeq.quantization.tune"), "_RATE", 1e-2)  # so that few steps change something


@pytest.mark.parametrize(
    ("work", "step", "tuned"),
    [("quantizing to 4bit", 2, [1, 2, 3, 4, 5, 6]), ("tuning 4bit", 5, [5, 6])],
    ids=["while rounding", "while tuning"],
)
def test_a_killed_export_ends_with_the_same_bytes(
    work: str, step: int, tuned: list[int], made: Path, short_tuning: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole, _ = workflow.export("4bit", effort="balanced", output=Path("whole.onnx"))
    assert not whole.with_suffix(".unfinished").exists()
    output = Path("killed.onnx")
    with pytest.raises(Killed):
        workflow.export("4bit", effort="balanced", output=output, listener=killed_at(work, step))
    assert sorted(path.name for path in Path().glob("killed*")) == ["killed.unfinished"]
    heard = Heard()
    computed = count_calls("edgeq.quantization.quantize", "_quantize_layer", monkeypatch)
    workflow.export("4bit", effort="balanced", output=output, listener=heard.listener)
    assert len(computed) == (4 - step if work.startswith("quantizing") else 0)
    assert heard.steps == [("quantizing to 4bit", i, 4) for i in (1, 2, 3, 4)] + [("tuning 4bit", i, 6) for i in tuned]
    for suffix in (".onnx", ".safetensors"):
        assert output.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
    assert not output.with_suffix(".unfinished").exists()


def test_another_seed_starts_anew(made: Path, short_tuning: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        workflow.export("4bit", output=Path("net.onnx"), listener=killed_at("quantizing to 4bit", 3))
    computed = count_calls("edgeq.quantization.quantize", "_quantize_layer", monkeypatch)
    workflow.export("4bit", seed=1, output=Path("net.onnx"))
    assert len(computed) == 4


def count_calls(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by one with each call of a function."""
    calls, function = list[str](), getattr(import_module(module), name)

    def counted(*args: Any) -> Any:
        calls.append(name)
        return function(*args)

    monkeypatch.setattr(f"{module}.{name}", counted)
    return calls


def test_tuning_changes_the_file_but_not_its_size(made: Path, short_tuning: None) -> None:
    files = [workflow.export("4bit", effort=effort, output=Path(f"{effort}.onnx")) for effort in ("fast", "balanced")]
    sizes = [path.stat().st_size for path, _ in files]
    assert sizes[0] == sizes[1]
    assert files[0][0].read_bytes() != files[1][0].read_bytes()
    assert [manifest["effort"] for _, manifest in files] == ["fast", "balanced"]


def test_layers_are_rounded_on_the_views_of_the_effort(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each view but the first is a crop of both batches of images."""
    assert SAMPLES == 2 * workflow.BATCH
    calls = count_calls("edgeq.quantization.quantize", "crops", monkeypatch)
    for views, expected in ((1, 0), (3, 4)):
        calls.clear()
        monkeypatch.setitem(EFFORTS, "fast", Effort(views, 100, 0))
        workflow.export("4bit", output=Path("net.onnx"))
        assert len(calls) == expected


@pytest.mark.parametrize("scheme", ["4bit", "fp32"])
def test_somebody_elses_unfinished_file_is_left_alone(scheme: str, made: Path) -> None:
    Path("net.unfinished").write_text("notes")
    with pytest.raises(OutputError, match=r"net\.unfinished: exists and was not written by edgeq; name another output"):
        workflow.export(scheme, output=Path("net.onnx"))
    assert Path("net.unfinished").read_text() == "notes"
    workflow.export(scheme, output=Path("net.onnx"), force=True)
    assert not Path("net.unfinished").exists()


def test_unknown_effort(tiny: Path) -> None:
    """Found out before the calibration that there is none of yet."""
    with pytest.raises(UnsupportedError, match=r"^unknown effort 'most'; expected one of fast, balanced, best$"):
        workflow.export("4bit", effort="most")
    assert not RECORD.exists()


# --- inspection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [('{"format": "edgeq-bench"}', "bench"), ('{"format": "other"}', None), ("[]", None), ("{", None), ("", None)],
)
def test_kind_of_a_file(text: str, kind: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    assert kind_of(path) == kind


def test_packed_layers_of_hand_computed_cost(demo: Demo) -> None:
    kind, body = inspect(demo.folder / "exports/mobilenet_v2-2bit.safetensors")
    assert kind == "packed"
    layer = body["layers"][2]
    assert (layer["name"], layer["shape"], layer["bits"], layer["act_bits"]) == ("pointwise", [16, 8, 1, 1], 2, 8)
    assert layer["macs"] == 16 * 8 * 12 * 12
    assert layer["bitops"] == layer["macs"] * 2 * 8
    assert layer["bytes"] == 16 * 8 // 4 + 16 * 4
    assert body["bitops"] == sum(item["bitops"] for item in body["layers"])


def test_float_layers_of_a_packed_file(demo: Demo) -> None:
    _, body = inspect(demo.folder / FP32.with_suffix(".safetensors"))
    assert {(layer["bits"], layer["act_bits"], layer["scales"]) for layer in body["layers"]} == {(32, 32, None)}


def test_manifest_of_another_file(made: Path) -> None:
    FP32.write_bytes(ADAPTIVE.read_bytes())
    with pytest.raises(ArtifactError, match=r"changed since mobilenet_v2-fp32\.json was written; export it again"):
        read_manifest(FP32)
