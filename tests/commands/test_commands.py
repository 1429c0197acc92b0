"""The plain functions behind the commands."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from commandline import ADAPTIVE, FP32, RECORD, picture
from conftest import SAMPLES, Demo
from nets import Heard

from edgeq.artifacts.files import kind_of
from edgeq.artifacts.manifest import load_manifest, read_manifest
from edgeq.artifacts.onnx_files import read_onnx
from edgeq.commands import defaults
from edgeq.commands.calibrate import Calibration, calibrate
from edgeq.commands.evaluate import Evaluation, evaluate
from edgeq.commands.export import export
from edgeq.commands.image_sets import choose_data
from edgeq.commands.inspect import inspect
from edgeq.commands.plot import plot
from edgeq.commands.records import load_record
from edgeq.errors import ArtifactError, DataError, OutputError
from edgeq.packed.file import load_packed
from edgeq.planning.plan import plan
from edgeq.planning.recipe import EFFORTS, Effort, Recipe
from edgeq.system.progress import tracked

# --- stages ---------------------------------------------------------------------------------------------------------


def test_batches_are_counted_when_the_next_is_asked_for() -> None:
    heard = Heard()
    passed = tracked(["ab", "cde"], "work", 5, heard)
    assert next(passed) == "ab"
    assert heard.steps == []
    assert list(passed) == ["cde"]
    assert heard.steps == [("work", 2, 5), ("work", 5, 5)]


def test_of_several_processes_all_are_counted() -> None:
    heard = Heard()
    assert list(tracked(["ab", "cde"], "work", 7, heard, processes=2)) == ["ab", "cde"]
    assert heard.steps == [("work", 4, 7), ("work", 7, 7)]


def test_a_batch_of_several_inputs_counts_its_samples() -> None:
    heard = Heard()
    batch = {"image": [1, 2, 3], "about": [4, 5, 6]}
    assert list(tracked([batch, batch], "work", 6, heard)) == [batch, batch]
    assert heard.steps == [("work", 3, 6), ("work", 6, 6)]


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
    path, record = calibrate(Calibration(), heard)
    assert heard.steps[:2] == [("calibrating", 8, SAMPLES), ("calibrating", 16, SAMPLES)]
    assert {work for work, _, _ in heard.steps[2:]} == {"measuring sensitivity"}
    assert all(0 < done <= total for _, done, total in heard.steps)
    assert heard.notices == []
    assert path == RECORD
    assert path.read_text() == record.to_json()


def test_export_counts_every_layer(made: Path) -> None:
    heard = Heard()
    export(Recipe("2bit"), progress=heard)
    assert heard.steps == [("quantizing to 2bit", i, 4) for i in (1, 2, 3, 4)]


def test_a_folder_takes_at_most_1024_images(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert defaults.FOLDER_SAMPLES == 1024
    monkeypatch.setattr(defaults, "FOLDER_SAMPLES", 2)
    for i in range(3):
        picture(Path(f"photos/{i}.png"), seed=i)
    heard = Heard()
    _, record = calibrate(Calibration(data="photos"), heard)
    assert len(record.data["files"]) == 2
    (few,) = heard.notices
    assert few.startswith("warning: photos: 2 images are few to calibrate on")


def test_the_seed_chooses_the_images(tiny: Path) -> None:
    for i in range(30):
        picture(Path(f"photos/{i}.png"), seed=i)
    chosen = [calibrate(Calibration(data="photos", samples=3, seed=seed))[1].data["files"] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_embedded_numbers_of_images_are_balanced() -> None:
    assert (defaults.CALIBRATION_SAMPLES, defaults.TEST_SAMPLES) == (12 * 43, 30 * 43)


def test_evaluating_a_file_twice_gives_one_row(made: Path) -> None:
    body = evaluate(Evaluation([ADAPTIVE, ADAPTIVE]))
    assert [row["name"] for row in body["models"]] == ["mobilenet_v2-adaptive"]


def test_evaluating_two_files_of_one_name_keeps_them_apart(made: Path) -> None:
    other = Path("other") / ADAPTIVE.name
    other.parent.mkdir()
    for suffix in (".onnx", ".json"):
        other.with_suffix(suffix).write_bytes(ADAPTIVE.with_suffix(suffix).read_bytes())
    body = evaluate(Evaluation([ADAPTIVE, other]))
    assert [row["name"] for row in body["models"]] == [str(ADAPTIVE), str(other)]


def test_the_runtime_takes_the_share_of_a_process(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torchrun` shares the cores among its processes by this variable."""
    session, found = onnxruntime.InferenceSession, []

    def spy(path: str, options: onnxruntime.SessionOptions, providers: list[str]) -> Any:
        found.append(options.intra_op_num_threads)
        return session(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    evaluate(Evaluation([ADAPTIVE]))
    assert found == [3]


def test_plot_of_fp32_alone(made: Path) -> None:
    alone = Path("alone")
    alone.mkdir()
    alone.joinpath("net.json").write_bytes(FP32.with_suffix(".json").read_bytes())
    heard = Heard()
    assert plot(alone, progress=heard) == [alone / "bitops.png"]
    assert [notice.split(" left out")[0] for notice in heard.notices] == [
        "bits_by_position.png", "size_latency.png", "accuracy_size.png",
    ]  # fmt: skip


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("scheme", ["fp32", "8bit", "4bit", "2bit", "adaptive"])
def test_a_file_is_no_larger_than_its_plan_says(scheme: str, act_bits: int, made: Path) -> None:
    recipe = Recipe(scheme, act_bits)
    path, _ = export(recipe)
    assert path.stat().st_size <= plan(load_record(None), recipe).file_bytes


# --- killed exports -------------------------------------------------------------------------------------------------


BALANCED = Recipe("4bit", effort="balanced")


class Killed(Exception):  # noqa: N818 (it is no error of the package)
    pass


class KilledAt(Heard):
    """Ends an export at one of its steps."""

    def __init__(self, work: str, step: int) -> None:
        super().__init__()
        self.last = work, step

    def step(self, work: str, done: int, total: int) -> None:
        if (work, done) == self.last:
            raise Killed


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
    whole, _ = export(BALANCED, output=Path("whole.onnx"))
    assert not whole.with_suffix(".unfinished").exists()
    output = Path("killed.onnx")
    with pytest.raises(Killed):
        export(BALANCED, output=output, progress=KilledAt(work, step))
    assert sorted(path.name for path in Path().glob("killed*")) == ["killed.unfinished"]
    heard = Heard()
    computed = count_calls("edgeq.quantization.quantize", "quantize_layer", monkeypatch)
    export(BALANCED, output=output, progress=heard)
    assert len(computed) == (4 - step if work.startswith("quantizing") else 0)
    assert heard.steps == [("quantizing to 4bit", i, 4) for i in (1, 2, 3, 4)] + [("tuning 4bit", i, 6) for i in tuned]
    for suffix in (".onnx", ".safetensors"):
        assert output.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
    assert not output.with_suffix(".unfinished").exists()


def test_another_seed_starts_anew(made: Path, short_tuning: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        export(Recipe("4bit"), output=Path("net.onnx"), progress=KilledAt("quantizing to 4bit", 3))
    computed = count_calls("edgeq.quantization.quantize", "quantize_layer", monkeypatch)
    export(Recipe("4bit", seed=1), output=Path("net.onnx"))
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
    files = [export(Recipe("4bit", effort=effort), output=Path(f"{effort}.onnx")) for effort in ("fast", "balanced")]
    sizes = [path.stat().st_size for path, _ in files]
    assert sizes[0] == sizes[1]
    assert files[0][0].read_bytes() != files[1][0].read_bytes()
    assert [manifest["effort"] for _, manifest in files] == ["fast", "balanced"]


def test_layers_are_rounded_on_the_views_of_the_effort(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each view but the first is a crop of both batches of images."""
    assert SAMPLES == 2 * defaults.BATCH
    calls = count_calls("edgeq.quantization.quantize", "augmented", monkeypatch)
    for views, expected in ((1, 0), (3, 4)):
        calls.clear()
        monkeypatch.setitem(EFFORTS, "fast", Effort(views, 100, 0))
        export(Recipe("4bit"), output=Path("net.onnx"))
        assert len(calls) == expected


@pytest.mark.parametrize("scheme", ["4bit", "fp32"])
def test_somebody_elses_unfinished_file_is_left_alone(scheme: str, made: Path) -> None:
    Path("net.unfinished").write_text("notes")
    with pytest.raises(OutputError, match=r"net\.unfinished: exists and was not written by edgeq; name another output"):
        export(Recipe(scheme), output=Path("net.onnx"))
    assert Path("net.unfinished").read_text() == "notes"
    export(Recipe(scheme), output=Path("net.onnx"), force=True)
    assert not Path("net.unfinished").exists()


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


def test_an_onnx_file_without_a_network(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    with pytest.raises(ArtifactError, match=r"empty\.onnx: expected an ONNX file, found one without a network$"):
        inspect(path)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (load_record, "an edgeq record"), (load_packed, r"a packed network \(safetensors\)"),
        (read_onnx, "an ONNX file"), (load_manifest, "an edgeq manifest"),
    ],
    ids=["record", "packed", "onnx", "manifest"],
)  # fmt: skip
def test_a_folder_is_no_file(read: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf": expected {expected}, found a folder$"):
        read(tmp_path)
