"""Every command of the README is run, and every table in it is that of the stored results."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pages
import pytest
from conftest import SAMPLES
from PIL import Image

from edgeq.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The lines of the shell blocks that call edgeq, without their comments."""
    lines = [line.split("#")[0].strip() for block in pages.blocks(README, "sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("edgeq ")]


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def test_every_command_runs_in_the_order_of_the_readme(tiny: Path) -> None:
    write_images(Path("photos"), SAMPLES)
    write_images(Path("val/7"), 4)
    Path("weights.safetensors").write_bytes(b"the tiny network is taken in their place")
    found = commands()
    assert len(found) >= 11
    for command in found:
        assert main(shlex.split(command)[1:]) == 0, command
    assert Path("exports/mine-4bit.onnx").exists()
    assert Path("exports/mobilenet_v2-adaptive.safetensors").exists()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = pages.run(ROOT / "README.md")["manifest"]
    assert manifest["bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert [layer["bits"] for layer in manifest["layers"]] == [4, 4]


def test_tables_are_those_of_the_stored_results() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec
    assert spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.filled(README) == README


def test_pictures_exist() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert len(pictures) >= 4
    assert [path for path in pictures if not (ROOT / path).exists()] == []


def test_the_map_names_every_module() -> None:
    modules = {path.name for path in (ROOT / "edgeq").glob("*.py")} - {
        "__init__.py",
        "__main__.py",
        "errors.py",
        "artifact.py",
    }
    named = set(re.findall(r"(\w+\.py)`", README))
    assert modules - named == set()
