"""The front of size against accuracy: complete, resumable, and the same in the report, the table and the figure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commandline import RECORD, Capture, fail, picture, run, tree
from conftest import BUDGETS
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from nets import Heard

from edgeq.artifacts.record import CalibrationRecord
from edgeq.cli import main
from edgeq.commands import judging
from edgeq.commands import sweep as sweeping
from edgeq.commands.calibrate import Calibration, calibrate
from edgeq.commands.evaluate import Evaluation, evaluate
from edgeq.commands.export import export
from edgeq.commands.sweep import Sweep, sweep
from edgeq.commands.sweep_report import SweepReport
from edgeq.errors import ArtifactError, OutputError, UnsupportedError
from edgeq.native.library import is_compiled
from edgeq.planning.budget import Budget
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.reports import figures
from edgeq.runtimes.native import NativeModel

FOLDER = Path("exports/sweep")
SWEEP = Sweep(budgets=BUDGETS)
NAMES = ["fp32", "8bit", "4bit", "2bit", "adaptive-size-1MB", "adaptive-size-100B-missed"]
MISSED = "budget size=100B: expected a file of at most 100 bytes, the least possible is "
SCORES = ("top1", "top5", "agreement", "sqnr_db")

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notices do not depend on the CPU of the tests."""
    monkeypatch.setattr(judging, "int8_overflows", lambda: False)


@pytest.fixture
def swept(tiny: Path, finished: Path) -> Path:
    """A working folder with a copy of that."""
    shutil.copytree(finished, tiny, dirs_exist_ok=True)
    return tiny


def rows() -> list[Row]:
    body = json.loads((FOLDER / "sweep.json").read_text())
    found: list[Row] = body["rows"]
    return found


def row(name: str) -> Row:
    return next(row for row in rows() if row["name"] == name)


def counted(monkeypatch: pytest.MonkeyPatch, *, kill_at: int | None = None) -> tuple[list[str], list[str]]:
    """The names of the files that are exported and evaluated from now on; the export number `kill_at` is killed."""
    exported: list[str] = []
    evaluated: list[str] = []
    evaluate = SweepReport._evaluate

    def counted_export(recipe: Recipe, record: Path | None, output: Path, *others: Any) -> Any:
        if len(exported) == kill_at:
            raise KeyboardInterrupt
        exported.append(output.stem)
        return export(recipe, record, output, *others)

    def counted_evaluate(self: SweepReport, path: Path) -> Any:
        evaluated.append(path.stem)
        return evaluate(self, path)

    monkeypatch.setattr(sweeping, "export", counted_export)
    monkeypatch.setattr(SweepReport, "_evaluate", counted_evaluate)
    return exported, evaluated


# --- what a row says ------------------------------------------------------------------------------------------------


def test_a_row_for_each_scheme_budget_and_other_tool(swept: Path) -> None:
    assert [row["name"] for row in rows()] == [*NAMES, "another"]
    assert [row["scheme"] for row in rows()] == ["fp32", "8bit", "4bit", "2bit", "adaptive", "adaptive", None]
    assert [row["budget"] for row in rows()] == [None, None, None, None, *BUDGETS, None]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_what_the_manifest_says_and_evaluate_finds(name: str, swept: Path) -> None:
    found, path = row(name), FOLDER / f"{name}.onnx"
    manifest = json.loads(path.with_suffix(".json").read_text())
    for key in ("scheme", "budget", "missed", "effort", "seed", "bytes", "sha256", "bitops", "damage"):
        assert found[key] == manifest[key]
    assert found["bytes"] == path.stat().st_size
    report = evaluate(Evaluation([path]))
    assert {key: found[key] for key in SCORES} == {key: report["models"][0][key] for key in SCORES}
    assert found["drop"] == report["reference"]["top1"] - found["top1"]
    budget = {"budget": found["budget"]} if found["budget"] else {}
    planned = plan(CalibrationRecord.load(RECORD), Recipe(found["scheme"], **budget))
    assert (found["predicted_bytes"], found["estimated_drop"]) == (planned.file_bytes, planned.drop)
    assert found["seconds"] > 0


def test_a_missed_budget_is_a_row_that_says_so(swept: Path, capsys: Capture) -> None:
    assert [row["name"] for row in rows() if row["missed"]] == ["adaptive-size-100B-missed"]
    assert row("adaptive-size-100B-missed")["missed"].startswith(MISSED)
    assert main(["sweep", "--budgets", ",".join(BUDGETS)]) == 1
    out, err = capsys.readouterr()
    assert "adaptive-size-100B-missed" in out
    assert err.startswith(f"error: {MISSED}")
    assert err.count("\n") == 1


def test_a_file_of_another_tool_is_evaluated(swept: Path) -> None:
    other, same = row("another"), row("8bit")
    assert {key: other[key] for key in SCORES} == {key: same[key] for key in SCORES}
    assert other["bytes"] == (FOLDER / "another.onnx").stat().st_size
    unknown = ("scheme", "budget", "missed", "effort", "seed", "predicted_bytes", "bitops", "damage", "estimated_drop")
    assert {other[key] for key in (*unknown, "seconds")} == {None}
    assert list(other) == list(same)


def test_a_file_of_another_tool_in_two_parts(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scores are known again as long as neither part changes."""
    path, data = FOLDER / "another.onnx", FOLDER / "another.data"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=data.name, size_threshold=100)
    sweep(SWEEP)
    assert row("another")["bytes"] == path.stat().st_size + data.stat().st_size
    _, evaluated = counted(monkeypatch)
    sweep(SWEEP)
    assert evaluated == []
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    sweep(SWEEP)
    assert evaluated == ["another"]


def test_a_file_of_another_tool_that_takes_pixels(swept: Path) -> None:
    export(Recipe("8bit", input="uint8"), output=Path("pixels.onnx"))
    shutil.copy("pixels.onnx", FOLDER / "another.onnx")
    sweep(SWEEP)
    expected = evaluate(Evaluation([Path("pixels.onnx")]))["models"][0]
    assert {key: row("another")[key] for key in SCORES} == {key: expected[key] for key in SCORES}


def test_a_file_of_another_sweep_is_left_out_and_named(swept: Path) -> None:
    heard = Heard()
    body = sweep(Sweep(budgets=["size=1MB"]), heard)
    assert [row["name"] for row in body["rows"]] == [*NAMES[:5], "another"]
    assert rows() == body["rows"]
    assert heard.notices == [f"{FOLDER}/adaptive-size-100B-missed.onnx: left out, of another sweep than this one"]


@pytest.mark.skipif(not is_compiled(), reason="the kernels were not compiled: there is no C compiler")
def test_the_native_engine_runs_the_files_of_edgeq_with_integers(
    swept: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {row["name"]: {key: row[key] for key in SCORES} for row in rows()}
    exported, evaluated = counted(monkeypatch)
    opened: list[Path] = []

    def noted(program: Any, name: str, *others: Any) -> NativeModel:
        opened.append(Path(name))
        return NativeModel(program, name, *others)

    monkeypatch.setattr(judging, "NativeModel", noted)
    flags = ["--budgets", ",".join(BUDGETS), "--runtime", "native"]
    assert main(["sweep", *flags]) == 1  # a budget is missed
    assert exported == []
    different = {row["sha256"]: row["name"] for row in reversed(rows())}  # of equal files the first
    assert sorted(evaluated) == sorted(different.values())
    assert [path.stem for path in opened] == [name for name in evaluated if name not in ("fp32", "another")]
    assert " %, in the native engine, effort fast" in capsys.readouterr().out
    assert json.loads((FOLDER / "sweep.json").read_text())["runtime"] == "native"
    for name in NAMES[1:]:
        report = evaluate(Evaluation([FOLDER / f"{name}.onnx"], runtime="native"))["models"][0]
        assert {key: row(name)[key] for key in SCORES} == {key: report[key] for key in SCORES}
    for name in ("fp32", "another"):
        assert {key: row(name)[key] for key in SCORES} == before[name]
    evaluated.clear()
    assert main(["sweep", *flags]) == 1
    assert evaluated == []
    assert "runtime other: expected one of onnxruntime, native" in fail(capsys, "sweep", "--runtime", "other")


def test_a_cpu_that_overflows_is_told(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "int8_overflows", lambda: True)
    heard, native = Heard(), Heard()
    sweep(SWEEP, heard)
    (notice,) = heard.notices
    assert notice.startswith("warning: x86 CPUs without VNNI overflow on 8-bit weights beyond 63, as this one")
    assert notice.endswith(": 8bit.onnx, adaptive-size-1MB.onnx, adaptive-size-100B-missed.onnx")
    if is_compiled():
        sweep(replace(SWEEP, runtime="native"), native)
        assert not any("overflow" in notice for notice in native.notices)


# --- what is done is not done again ---------------------------------------------------------------------------------


def test_a_second_run_exports_and_evaluates_nothing(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(FOLDER)
    exported, evaluated = counted(monkeypatch)
    sweep(SWEEP)
    assert exported == evaluated == []
    assert tree(FOLDER) == before


@pytest.mark.parametrize("done", [1, 4])
def test_a_killed_sweep_goes_on_where_it_was(done: int, swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [{**row, "seconds": None} for row in rows()[:-1]]
    shutil.rmtree(FOLDER)
    with monkeypatch.context() as killing, pytest.raises(KeyboardInterrupt):
        counted(killing, kill_at=done)
        sweep(SWEEP)
    assert [{**row, "seconds": None} for row in rows()] == expected[:done]
    kept = [row["seconds"] for row in rows()]
    exported, evaluated = counted(monkeypatch)
    sweep(SWEEP)
    planned = [name.removesuffix("-missed") for name in NAMES]
    assert exported == planned[done:]
    assert not {"fp32", *NAMES[:done]} & set(evaluated)
    assert [{**row, "seconds": None} for row in rows()] == expected
    assert [row["seconds"] for row in rows()][:done] == kept


def test_a_sweep_killed_early_keeps_the_later_rows_of_the_last_one(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {row["name"]: row for row in rows()}
    (FOLDER / "4bit.json").unlink()
    counted(monkeypatch, kill_at=0)
    with pytest.raises(KeyboardInterrupt):
        sweep(SWEEP)
    assert {row["name"]: row for row in rows()} == before


@pytest.mark.parametrize("suffix", [".onnx", ".json"])
def test_only_what_an_export_left_incomplete_is_exported_again(
    suffix: str, swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (FOLDER / "2bit").with_suffix(suffix).unlink()
    exported, evaluated = counted(monkeypatch)
    sweep(SWEEP)
    assert exported == ["2bit"]
    assert evaluated == []  # the same bytes again


def test_an_export_killed_when_all_was_done_leaves_nothing_unfinished(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(FOLDER)
    (FOLDER / "2bit.unfinished").write_text("edgeq")
    exported, _ = counted(monkeypatch)
    sweep(SWEEP)
    assert exported == []
    assert tree(FOLDER) == before


def test_another_seed_is_another_sweep(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported, _ = counted(monkeypatch)
    body = sweep(Sweep(budgets=BUDGETS, seed=1))
    assert exported == [name.removesuffix("-missed") for name in NAMES]
    assert [row["seed"] for row in body["rows"]] == [1] * 6 + [None]


def test_another_record_is_another_sweep(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate(Calibration(samples=15))
    exported, _ = counted(monkeypatch)
    sweep(SWEEP)
    assert len(exported) == 6


def test_other_images_are_evaluated_with_the_same_files(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in range(2):
        picture(Path(f"val/{label}/a.png"), seed=label)
    seconds = [row["seconds"] for row in rows()]
    exported, evaluated = counted(monkeypatch)
    body = sweep(Sweep(data="val", budgets=BUDGETS))
    assert exported == []
    assert {"fp32", "8bit", "4bit", "2bit", "another"} <= set(evaluated)
    assert (body["data"], body["images"]) == ("val", 2)
    assert [row["seconds"] for row in rows()] == seconds


# --- table and figure -----------------------------------------------------------------------------------------------


def test_the_table_has_the_figures_of_the_report_in_100_columns(swept: Path, capsys: Capture) -> None:
    main(["sweep", "--budgets", ",".join(BUDGETS)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 100
    cells = {parts[0]: parts[1:] for line in lines if (parts := line.split())}
    for found in rows():
        ours = found["scheme"] is not None
        assert cells[found["name"]] == [
            f"{found['bytes'] / 1e6:.2f}",
            f"{found['bitops'] / 1e9:.2f}" if ours else "-",
            f"{found['top1']:.2f}",
            f"{found['drop']:.2f}",
            f"{found['estimated_drop']:.1f}" if ours else "-",
            f"{found['top5']:.2f}",
            f"{found['agreement']:.2f}",
            f"{found['sqnr_db']:.1f}",
            f"{found['seconds']:.0f}" if ours else "-",
        ]
    assert lines[-2].startswith("43 images of embedded test images, float network ")
    assert lines[-1] == str(FOLDER / "sweep.png")


def test_json_is_the_file(swept: Path, capsys: Capture) -> None:
    out = run(capsys, "sweep", "--budgets", "size=1MB", "--json")
    assert out == (FOLDER / "sweep.json").read_text()
    assert (FOLDER / "sweep.png").read_bytes().startswith(b"\x89PNG")


def drawn(name: str, size: int, top1: float, scheme: str | None, *, missed: str | None = None) -> Row:
    budget = "size" if scheme == "adaptive" else None
    return {"name": name, "bytes": size, "top1": top1, "scheme": scheme, "budget": budget, "missed": missed}


REPORT: dict[str, Any] = {
    "metric": "top1",
    "reference": {"top1": 79.5},
    "images": 1300,
    "data": "some/val",
    "effort": "best",
    "network": {"model": "mobilenet_v2", "weights": "imagenet", "classes": 1000},
    "rows": [
        drawn("fp32", 14_000_000, 79.5, "fp32"),
        drawn("8bit", 3_600_000, 79.3, "8bit"),
        drawn("4bit", 1_900_000, 78.7, "4bit"),
        drawn("2bit", 1_030_000, 66.0, "2bit"),
        drawn("adaptive-size-1.5MB", 1_500_000, 78.6, "adaptive"),
        drawn("adaptive-size-1MB-missed", 1_020_000, 65.0, "adaptive", missed="budget"),
        drawn("adaptive-size-1.2MB", 1_200_000, 74.0, "adaptive"),
        drawn("quantize_static", 3_800_000, 77.0, None),
    ],
}


def test_the_figure() -> None:
    figure = figures.sweep_figure(REPORT)
    (axes,) = figure.axes
    reference, front = axes.lines
    assert list(np.asarray(reference.get_ydata())) == [79.5, 79.5]
    assert reference.get_linestyle() == "--"
    np.testing.assert_allclose(np.asarray(front.get_xydata(), np.float64), [(1.02, 65.0), (1.2, 74.0), (1.5, 78.6)])
    marks = [mark for mark in axes.collections if isinstance(mark, PathCollection)]
    expected = [(row["bytes"] / 1e6, row["top1"]) for row in REPORT["rows"][1:]]
    np.testing.assert_allclose([np.asarray(mark.get_offsets())[0] for mark in marks], expected)
    hollow = [bool((np.asarray(mark.get_facecolor(), np.float64) == 1).all()) for mark in marks]  # white
    assert hollow == [i == 4 for i in range(7)]
    corners = [len(np.asarray(mark.get_paths()[0].vertices)) for mark in marks]
    assert len(set(corners[:6])) == 1
    assert corners[6] != corners[0]
    assert [text.get_text().split("\n")[0] for text in axes.texts] == [
        "fp32 reference 79.50 %", "8bit", "4bit", "2bit", "quantize_static", "adaptive",
    ]  # fmt: skip
    assert " ".join(figure.get_suptitle().split()) == (
        "adaptive is the smallest within 1 point of fp32: 1.50 MB, -0.90 points"
    )


def test_texts_of_the_figure_do_not_overlap() -> None:
    figure = figures.sweep_figure(REPORT)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


# --- budgets --------------------------------------------------------------------------------------------------------


def test_sizes_between() -> None:
    assert list(sweeping._between(1_030_000, 1_900_000, 6)) == [
        "size=1.15MB", "size=1.28MB", "size=1.4MB", "size=1.53MB", "size=1.65MB", "size=1.78MB",
    ]  # fmt: skip
    assert list(sweeping._between(1_900_000, 3_600_000, 2)) == ["size=2.5MB", "size=3MB"]
    assert list(sweeping._between(20_000, 20_900, 2)) == ["size=20.3kB", "size=20.6kB"]


@given(st.integers(1000, 10**9), st.integers(100, 10**9), st.sampled_from([2, 6]))
def test_sizes_rise_strictly_between_the_ends(start: int, distance: int, count: int) -> None:
    limits = [Budget.parse(text).limit for text in sweeping._between(start, start + distance, count)]
    assert len(limits) == count
    assert all(a < b for a, b in zip([start, *limits], [*limits, start + distance], strict=True))


def test_without_budgets_there_are_eight(swept: Path) -> None:
    record = CalibrationRecord.load(Path("calib/mobilenet_v2.calib"))
    two, four, eight = (plan(record, scheme).file_bytes for scheme in ("2bit", "4bit", "8bit"))
    budgets = sweeping.default_budgets(record)
    assert budgets == (*sweeping._between(two, four, 6), *sweeping._between(four, eight, 2))
    assert list(sweeping._plans(record, Sweep(budgets=budgets))) == [
        *("fp32", "8bit", "4bit", "2bit"),
        *(f"adaptive-{budget.replace('=', '-')}" for budget in budgets),
    ]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budgets", ["size=1", "", "size=1MB,,size=2MB"])
def test_a_budget_that_is_none(budgets: str, tiny: Path, capsys: Capture) -> None:
    assert "expected size=1.3MB" in fail(capsys, "sweep", "--budgets", budgets)


def test_an_unknown_effort(swept: Path) -> None:
    with pytest.raises(UnsupportedError, match="unknown effort 'most'; expected one of fast"):
        sweep(Sweep(budgets=BUDGETS, effort="most"))


@pytest.mark.parametrize("name", ["sweep.json", "sweep.png", "2bit.onnx", "2bit.unfinished"])
def test_files_of_others_are_not_replaced(name: str, swept: Path) -> None:
    (FOLDER / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name}: exists and was not written by edgeq"):
        sweep(SWEEP)
    sweep(Sweep(budgets=BUDGETS, force=True))
    assert not (FOLDER / name).exists() or (FOLDER / name).read_bytes() != b"mine"


def test_a_damaged_report(swept: Path) -> None:
    path = FOLDER / "sweep.json"
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ArtifactError, match=r"sweep\.json: expected an edgeq sweep \(JSON\), found something unread"):
        sweep(SWEEP)


def test_two_processes_share_a_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    """While this one exports its first row, another takes two of the others, one of which it is still at."""
    waited: list[float] = []

    def other_is_done(seconds: float) -> None:
        waited.append(seconds)
        for suffix in (".onnx", ".json", ".safetensors"):
            shutil.copy((finished / FOLDER / "2bit").with_suffix(suffix), FOLDER)
        busy.release()

    def counted_export(recipe: Recipe, record: Path | None, output: Path, *others: Any) -> Any:
        exported.append(output.stem)
        if len(exported) == 1:
            assert not FileLock(FOLDER / "fp32.lock").is_locked  # another object
            with pytest.raises(Timeout):
                FileLock(FOLDER / "fp32.lock", timeout=0).acquire()
            for suffix in (".onnx", ".json", ".safetensors"):
                shutil.copy((finished / FOLDER / "4bit").with_suffix(suffix), FOLDER)
            shutil.copy(finished / FOLDER / "sweep.json", FOLDER)
            busy.acquire()
        return export(recipe, record, output, *others)

    FOLDER.mkdir(parents=True)
    busy = FileLock(FOLDER / "2bit.lock")
    exported: list[str] = []
    heard = Heard()
    evaluated = counted(monkeypatch)[1]
    monkeypatch.setattr(sweeping, "export", counted_export)
    monkeypatch.setattr(sweeping, "sleep", other_is_done)
    body = sweep(SWEEP, heard)
    assert [row["name"] for row in body["rows"]] == NAMES
    assert exported == ["fp32", "8bit", "adaptive-size-1MB", "adaptive-size-100B"]
    assert evaluated == []  # all scores were in the other's report
    assert [text for text in heard.notices if "waiting" in text] == ["waiting for other processes, which work on 2bit"]
    assert waited == [1.0]
    assert not list(FOLDER.glob("*.lock"))
    stored = json.loads((finished / FOLDER / "sweep.json").read_text())["rows"]
    assert [row["sha256"] for row in body["rows"]] == [row["sha256"] for row in stored][: len(NAMES)]
