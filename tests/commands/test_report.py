"""`edgeq report`: what it says, and one line for every folder that it cannot report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import Capture, fail, run

from edgeq.cli import main
from edgeq.commands import report as module


def test_it_says_where_the_page_is(made: Path, capsys: Capture) -> None:
    assert run(capsys, "report") == "exports/report.html\n"
    assert json.loads(run(capsys, "report", "--output", "page.html", "--json"))["files"] == ["page.html"]
    assert Path("page.html").read_bytes() == Path("exports/report.html").read_bytes()


def test_without_a_record(made: Path, capsys: Capture) -> None:
    Path("calib/mobilenet_v2.calib").rename("elsewhere.calib")
    Path("calib/old.calib").write_text('{"format": "edgeq-record", "version": 7}')
    assert main(["report"]) == 0
    told = capsys.readouterr().err
    assert "left out: calib/old.calib: expected version 8 of an edgeq record, found 7" in told
    assert "no record of these exports in calib, so the page has no sensitivities" in told
    alone = Path("exports/report.html").read_text()
    assert "stored range" not in alone
    run(capsys, "report", "--record", "elsewhere.calib")
    assert "stored range" in Path("exports/report.html").read_text()


def other_network(folder: Path) -> None:
    path = folder / "mobilenet_v2-4bit.json"
    (folder / "mobilenet_v2-4bit.onnx").unlink()
    path.write_text(path.read_text().replace('"sha256": "5555', '"sha256": "6666'))


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:300])

    return damage


def emptied(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(b"")

    return damage


def changed(folder: Path) -> None:
    path = folder / "mobilenet_v2-4bit.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def unmeasured(folder: Path) -> None:
    path = folder / "evaluation.json"
    path.write_text(path.read_text().replace('"top1"', '"top2"'))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (cut("mobilenet_v2-4bit.json"), "mobilenet_v2-4bit.json: expected an edgeq manifest (JSON), found something"),
        (cut("evaluation.json"), "evaluation.json: expected an edgeq evaluation (JSON), found something unreadable"),
        (
            emptied("mobilenet_v2-4bit.json"),
            "mobilenet_v2-4bit.json: expected an edgeq manifest (JSON), found something",
        ),
        (emptied("bench.json"), "bench.json: expected an edgeq bench (JSON), found something unreadable"),
        (changed, "mobilenet_v2-4bit.onnx: changed since mobilenet_v2-4bit.json was written"),
        (unmeasured, "evaluation.json: a damaged evaluation, its reference.top1 is missing"),
        (other_network, "exports: expected exports of one network, found "),
    ],
    ids=["manifest", "evaluation", "empty manifest", "empty bench", "file", "field", "networks"],
)
def test_a_broken_artifact(damage: Callable[[Path], None], line: str, made: Path, capsys: Capture) -> None:
    damage(Path("exports"))
    assert line in fail(capsys, "report")


def test_no_exports(made: Path, capsys: Capture) -> None:
    Path("empty").mkdir()
    assert "empty: expected manifests of exported models, found none; run `edgeq export`" in fail(
        capsys, "report", "empty"
    )
    assert "nowhere: expected a folder of exports, no such folder" in fail(capsys, "report", "nowhere")
    assert "expected a folder of exports, found a file" in fail(capsys, "report", "exports/bench.json")


def test_a_record_of_another_network(made: Path, capsys: Capture) -> None:
    path = Path("calib/other.calib")
    text = Path("calib/mobilenet_v2.calib").read_text()
    path.write_text(text.replace('"name": "stem"', '"name": "root"', 1))
    line = fail(capsys, "report", "--record", path)
    assert f"{path}: expected the record that exports was exported with, found another one" in line


def test_files_of_others_are_kept(made: Path, capsys: Capture) -> None:
    Path("exports/report.html").write_text("mine")
    assert "exports/report.html" in fail(capsys, "report")
    run(capsys, "report", "--force")


def test_a_page_that_is_too_large(made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 10_000)
    assert "report.html: expected a page of at most 0 MB, found" in fail(capsys, "report")
