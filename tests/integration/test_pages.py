"""The README and docs/: every command runs and prints what the page says, tables are up to date, links resolve."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pages
import pytest
from conftest import SAMPLES, Demo
from PIL import Image
from test_imports import ROWS

import edgeq
from edgeq.cli import cli, main
from edgeq.native.library import is_compiled
from edgeq.planning.recipe import EFFORTS

COMMANDS = cli.list_commands(click.Context(cli))
LINKED = (
    *pages.PAGES,
    pages.ROOT / "CHANGELOG.md",
    *(pages.ROOT / folder / "README.md" for folder in ("benchmarks", "calib", "exports")),
)


# --- commands -------------------------------------------------------------------------------------------------------


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def prepared(tiny: Path) -> Path:
    """A working folder with what the pages call the reader's own."""
    write_images(Path("photos"), SAMPLES)
    for folder in ("val", "imagenet/val"):
        write_images(Path(folder) / "7", 4)
    Path("weights.safetensors").write_bytes(b"the tiny network takes their place")
    return tiny


def test_every_command_of_the_readme_runs(prepared: Path, demo: Demo) -> None:
    found = pages.examples(pages.README)
    assert found[0].arguments == ("demo",)
    assert demo.code == 0
    for example in found[1:]:
        assert main(example.arguments) == 0, example
    for suffix in (".onnx", ".json", ".safetensors"):
        assert (prepared / f"exports/mine{suffix}").exists()


def test_every_command_of_its_page_runs_and_prints_the_same_words(
    prepared: Path, made: Path, demo: Demo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are those of another network, so words and headings are compared."""
    monkeypatch.setitem(EFFORTS, "balanced", EFFORTS["fast"])
    found = pages.examples(pages.DOCS / "cli.md")
    assert {example.arguments[0] for example in found} == set(COMMANDS)
    for example in found:
        if "other.onnx" in example.arguments:
            Path("other.onnx").write_bytes(Path("mine/4bit.onnx").read_bytes())
        if example.arguments == ("demo",):  # the fixture has run it
            assert demo.code == 0
            continue
        if "torch" in example.arguments and not is_compiled():
            continue
        Path("edgeq.toml").unlink(missing_ok=True)
        if example.arguments[0] == "run":
            Path("edgeq.toml").write_text(*pages.blocks((pages.DOCS / "cli.md").read_text(encoding="utf-8"), "toml"))
        capsys.readouterr()
        assert main(example.arguments) == 0, (example.arguments, capsys.readouterr().err)
        printed = capsys.readouterr().out
        if example.output:
            assert pages.wording(printed) == pages.wording(example.output), example.arguments


def test_numbers_and_rows_are_no_words() -> None:
    text = "\n name   MB\n ─────\n a   1.5\n b   -\n\n total  2.0e-03\nx.json: 3 runs, batch 1, Some CPU (R) 5\n"
    assert pages.wording(text) == ["name MB", "total #", "x.json: # runs, batch #"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_section_with_its_options_and_what_it_prints(name: str) -> None:
    text = (pages.DOCS / "cli.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition(f"\n## {name}\n")[2], flags=re.MULTILINE)[0]
    assert f"```sh\nedgeq {name}" in section
    assert f"<!-- table: options-{name} -->" in section
    assert name in ("demo", "run") or f"<!-- table: printed-{name} -->" in section


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """`tools/benchmark_tables.py`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "path", [str(pages.ROOT / "tools"), *sys.path])
        return importlib.import_module("benchmark_tables")


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_tables_are_up_to_date(page: Path, tables: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text


def test_every_table_is_on_a_page(tables: ModuleType) -> None:
    found = {name for page in pages.PAGES for name in tables.named(page.read_text(encoding="utf-8"))}
    assert found == tables.TABLES.keys()


def test_a_table_that_has_changed_is_seen(tables: ModuleType) -> None:
    text = "before\n<!-- table: faults -->\nold\n<!-- end -->\nafter\n"
    filled = tables.filled(text)
    assert filled != text
    assert filled.startswith("before\n<!-- table: faults -->\n| repaired")
    assert filled.endswith("|\n<!-- end -->\nafter\n")


# --- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_somewhere(page: Path) -> None:
    for link in pages.links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_names_of_the_package_exist(page: Path) -> None:
    for name in re.findall(r"`(?:python -m )?(edgeq(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        if name.endswith((".toml", ".js", ".ts", ".wasm")):  # files, of a user or of a page
            continue
        found: Any = edgeq
        for part in name.split(".")[1:]:
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:edgeq|tools|tests|benchmarks)/[\w/.]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (pages.ROOT / path).exists()] == []


def test_every_figure_is_shown() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in pages.PAGES)
    results = pages.ROOT / "benchmarks" / "results"
    figures = {str(path.relative_to(results)) for path in results.rglob("*.png")}
    assert {name for name in figures if f"benchmarks/results/{name}" not in text} == set()


# --- packages -------------------------------------------------------------------------------------------------------


def test_the_table_of_packages_has_the_rows_of_the_imports() -> None:
    text = (pages.DOCS / "architecture.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)
    expected = [(str(i), name) for i, row in enumerate(ROWS, 1) for name in row.split() if name != "__main__"]
    assert found == expected
