"""The native engine from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import ADAPTIVE, FP32, Capture, fail, run
from native_engine import compiled

from edgeq.exporters.web.onnxruntime_web import FILES
from edgeq.native import library as library_module
from edgeq.native.library import library

PIXELS = Path("exports/mobilenet_v2-8bit-uint8.onnx")


@compiled
def test_files_are_measured_and_judged_by_their_packed_networks(made: Path, capsys: Capture) -> None:
    run(capsys, "export", "--scheme", "8bit", "--input", "uint8")
    body = json.loads(run(capsys, "bench", ADAPTIVE, PIXELS, "--runtime", "native", "--runs", "2", "--json"))
    assert [row["name"] for row in body["rows"]] == [ADAPTIVE.stem, PIXELS.stem]
    assert all(row["memory"]["peak_rss_bytes"] < 2**22 for row in body["rows"])
    body = json.loads(run(capsys, "bench", FP32, PIXELS, "--runtime", "torch", "--runs", "2", "--json"))
    assert [row["name"] for row in body["rows"]] == [FP32.stem, PIXELS.stem]
    reports = [
        json.loads(run(capsys, "evaluate", ADAPTIVE, PIXELS, "--runtime", runtime, "--json"))
        for runtime in ("native", "onnxruntime")
    ]
    assert [report["runtime"] for report in reports] == ["native", "onnxruntime"]
    ours, theirs = ([row["predictions"] for row in report["models"]] for report in reports)
    assert ours[0] == theirs[0]  # of weights that no CPU overflows on
    assert sum(a == b for a, b in zip(ours[1], theirs[1], strict=True)) > 0.9 * len(ours[1])


def test_a_page_for_browsers(made: Path, capsys: Capture) -> None:
    """A folder, a page with several networks as one file, and what has no such page."""
    found = run(capsys, "export", "--scheme", "4bit", "--format", "web", "--output", "exports/page")
    assert "exports/page" in found
    about = json.loads(Path("exports/page/page.json").read_text())
    assert about["networks"] == ["4bit"]
    assert {"index.html", "edgeq.js", "edgeq.wasm"} <= {path.name for path in Path("exports/page").iterdir()}
    run(capsys, "export", "--scheme", "2bit", "--format", "web", "--output", "exports/page.html")
    page = Path("exports/page.html").read_text()
    assert page.startswith("<!doctype html>") and 'src="' not in page and 'href="http' not in page
    for path in (Path("exports/page.html"), Path("exports/page"), Path("exports/page/page.json")):
        out = run(capsys, "inspect", path)
        bits = "2bit" if path.suffix == ".html" else "4bit"
        assert [line.split()[0] for line in out.splitlines() if "integer" in line] == [bits]
        body = json.loads(run(capsys, "inspect", path, "--json"))
        assert [*body["about"]] == body["networks"] == [bits]
    mine = Path("exports/mine.html")
    mine.write_text("<p>mine</p>")
    assert "expected a page of edgeq with page.json in it, found another file" in fail(capsys, "inspect", mine)
    assert "--force" in fail(capsys, "export", "--scheme", "2bit", "--format", "web", "--output", mine)
    float_weights = fail(capsys, "export", "--scheme", "fp32", "--format", "web", "--output", "exports/float")
    assert "expected weights and activations in integers, found float ones; --onnxruntime-web FOLDER" in float_weights
    packed = FP32.with_suffix(".safetensors")
    web = ("export", "--scheme", "2bit", "--format", "web")
    for path, found_there in ((FP32, "another file"), (Path("nope.safetensors"), "no such file")):
        line = f"--beside {path}: expected a packed network, NAME.safetensors, found {found_there}"
        assert line in fail(capsys, *web, "--beside", path)
    assert "nope.txt: expected the name of one class a line: No such file" in fail(capsys, *web, "--labels", "nope.txt")
    assert "expected the name of a page, so .html or a folder" in fail(capsys, *web, "--output", "exports/a.onnx")
    named = fail(capsys, *web, "--format", "onnx", "--output", "exports/a.html")
    assert "expected the name of the ONNX file, after which the page is named" in named
    Path("names.txt").write_text("\ufeff" + "\r\n".join(f"class {i}" for i in range(43)), encoding="utf-8")
    run(capsys, *web, "--labels", "names.txt", "--output", "exports/named")
    assert json.loads(Path("exports/named/labels.json").read_text())[:2] == ["class 0", "class 1"]
    assert f"{packed}, layer " in fail(capsys, "export", "--scheme", "2bit", "--format", "web", "--beside", packed)
    beside = ("--format", "web", "--beside", packed, "--onnxruntime-web")
    assert "expected the folder of onnxruntime-web" in fail(capsys, "export", "--scheme", "2bit", *beside, "exports")
    for name in FILES:
        Path("npm/dist").mkdir(parents=True, exist_ok=True)
        Path("npm/dist", name).write_text("")
    for scheme, engines in (("2bit", ["integer", "onnxruntime-web"]), ("fp32", ["onnxruntime-web"])):
        more = (*beside, "npm") if scheme == "2bit" else ("--format", "web", "--onnxruntime-web", "npm")
        run(capsys, "export", "--scheme", scheme, *more, "--output", "exports/float.html", "--force")
        body = json.loads(run(capsys, "inspect", "exports/float.html", "--json"))
        assert [about["engine"] for about in body["about"].values()] == engines
    assert "onnxruntime-web" in run(capsys, "inspect", "exports/float.html")


@compiled
def test_what_the_engine_does_not_run(made: Path, capsys: Capture) -> None:
    expected = f"{FP32.with_suffix('.safetensors')}: layer "
    assert expected in fail(capsys, "evaluate", FP32, "--runtime", "native")
    assert "runtime other: expected one of onnxruntime, native" in fail(capsys, "evaluate", "--runtime", "other")
    ADAPTIVE.with_suffix(".safetensors").unlink()
    missing = fail(capsys, "evaluate", ADAPTIVE, "--runtime", "native")
    assert "the native runtime needs this file beside mobilenet_v2-adaptive.onnx; export it again" in missing


def test_without_a_compiler(made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    library.cache_clear()
    monkeypatch.setattr(library_module, "find_spec", lambda name: None)
    assert "no C compiler when edgeq was installed" in fail(capsys, "evaluate", ADAPTIVE, "--runtime", "native")
    run(capsys, "evaluate", ADAPTIVE)
    library.cache_clear()
