"""The README is short, installs as the main job does, and its Python runs."""

from __future__ import annotations

from pathlib import Path

import pages
import pytest

TEXT = pages.README.read_text(encoding="utf-8")


def test_it_is_read_in_a_minute() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert TEXT.count("![") == 1


def test_the_main_job_installs_with_its_line() -> None:
    (line,) = (line for block in pages.blocks(TEXT, "sh") for line in block.splitlines() if "[test" in line)
    install, _, test = line.partition(" && ")
    job = (pages.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install.split()[-1] == '".[test,openvino]"'
    assert install.split()[-1] in job
    assert f"\n{test}" in job


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = pages.run(pages.README)["manifest"]
    assert manifest["bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert {layer["bits"] for layer in manifest["layers"]} == {4}
