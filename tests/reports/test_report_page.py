"""The report page: its tables have the numbers of the artifacts, and it asks for nothing from outside."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands.report import report
from edgeq.reports.page import page as pages
from edgeq.reports.page.files import Scores
from edgeq.reports.page.folder import read_folder
from edgeq.reports.page.page import LIBRARIES, page
from edgeq.reports.page.table import quantity
from edgeq.tasks.metrics import measure


class Tables(HTMLParser):
    """The tables of a page by their captions: rows of the texts of cells, the header first."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._in: list[str] = []
        self._text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("caption", "th", "td"):
            self._text = ""
        elif tag == "tr":
            self._rows.append([])

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._rows = self.found[self._text.strip()] = []
        elif tag in ("th", "td"):
            self._rows[-1].append(self._text.strip())


def rows(text: str, caption: str) -> list[dict[str, str]]:
    """A table whose caption starts so, as one dict for each row."""
    head, *body = next(found for name, found in Tables(text).found.items() if name.startswith(caption))
    return [dict(zip(head, row, strict=True)) for row in body]


def embedded(text: str) -> dict[str, Any]:
    """The data of the charts."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    body: dict[str, Any] = json.loads(found[1])
    return body


def read(path: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return body


def page_of(made: Path) -> str:
    return page(read_folder(Path("exports")), CalibrationRecord.load("calib/mobilenet_v2.calib"))


def test_every_file_with_its_numbers(made: Path) -> None:
    found = {row["file"]: row for row in rows(page_of(made), "Every export")}
    scored = {row["name"]: row for row in read("exports/evaluation.json")["models"]}
    timed = {row["name"]: row for row in read("exports/bench.json")["rows"]}
    manifests = [read(str(path)) for path in Path("exports").glob("mobilenet_v2-*.json")]
    assert len(found) == len(manifests) == 5
    for manifest in manifests:
        name = Path(manifest["file"]).stem
        row = found[name]
        assert float(row["MB"]) == pytest.approx(manifest["bytes"] / 1e6, rel=0.05)
        assert row["top-1 %"] == f"{scored[name]['top1']:.2f}"
        assert row["ms"] == f"{timed[name]['median_ms']:.2f}"
        assert row["load ms"] == f"{timed[name]['memory']['load_ms']:,.0f}"
        assert row["peak MB"] == f"{timed[name]['memory']['peak_rss_bytes'] / 1e6:.1f}"
        assert row["parity %"] == f"{100 * manifest['parity']['nodes_within_one_step']:.2f}"


def test_every_layer_with_its_numbers(made: Path) -> None:
    text, manifest = page_of(made), read("exports/mobilenet_v2-adaptive.json")
    record = CalibrationRecord.load("calib/mobilenet_v2.calib")
    found = rows(text, "Layers of mobilenet_v2-adaptive, in order")
    assert [row["layer"] for row in found] == ["stem", "depthwise", "pointwise", "classifier"]
    for row, layer, info in zip(found, manifest["layers"], record.layers, strict=True):
        assert row["bits"] == str(layer["bits"])
        assert row["kB"] == f"{layer['bytes'] / 1e3:,.1f}"
        assert row["M MACs"] == f"{layer['macs'] / 1e6:,.2f}"
        assert row["SQNR dB"] == f"{manifest['layer_sqnr_db'][layer['name']]:,.1f}"
        for bits, value in info.sensitivity.items():
            assert float(row[f"nats at {bits}"]) == pytest.approx(value, rel=0.1)
        stored = record.activations[info.output]
        assert row["stored range"] == f"{stored.low:.3g} … {stored.high:.3g}"
    worst = rows(text, "Layers of mobilenet_v2-adaptive that hurt most")
    damages = sorted((layer["damage"] for layer in manifest["layers"]), reverse=True)
    assert [float(row["nats"]) for row in worst] == pytest.approx(damages, rel=0.1)


def test_histograms_are_those_of_the_record(made: Path) -> None:
    record = CalibrationRecord.load("calib/mobilenet_v2.calib")
    found = embedded(page_of(made))["histograms"]
    for info in record.layers:
        bins = record.histograms[info.output]
        assert found[info.name] == [bins.start, bins.width, list(bins.counts)]
        assert sum(bins.counts) > 0


def test_a_sweep_with_files_of_other_tools(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    text = page(read_folder(Path("exports")), None)
    body = read("exports/sweep/sweep.json")
    found = {row["file"]: row for row in rows(text, f"Scores on {body['images']} images")}
    assert found["another"]["scheme"] == "other tool"
    for row in body["rows"]:
        assert found[row["name"]]["top-1 %"] == f"{row['top1']:.2f}"
    points = embedded(text)["specs"]["accuracy0"]["data"]["values"]
    assert {point["name"] for point in points} == {row["name"] for row in body["rows"] if row["scheme"] != "fp32"}
    assert "sensitivity at" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0.00"), (1_234_567_000, "1,234.57"), (99_999, "0.1"), (6_640, "0.0066")]
)
def test_small_quantities_keep_two_digits(value: float | None, text: str) -> None:
    assert quantity(value, 1e6) == text


def test_the_front_has_what_no_other_file_beats() -> None:
    sizes = {"a": (1, 50.0), "b": (2, 40.0), "c": (3, 60.0), "d": (3, 70.0), "e": (4, 70.0)}
    made = [{"name": name, "bytes": size, "scheme": "4bit", "top1": top1} for name, (size, top1) in sizes.items()]
    made.append({"name": "other", "bytes": 1, "scheme": None, "top1": 99.0})
    front = Scores(measure("top1"), "images", 1, {"top1": 80.0}, made).front()
    assert [row["name"] for row in front] == ["a", "d"]


def test_what_is_in_a_name_is_text(made: Path) -> None:
    path = Path("exports/mobilenet_v2-4bit.json")
    Path("exports/mobilenet_v2-4bit.onnx").unlink()
    evil = "</script><img src=x onerror=alert(1)>"
    path.write_text(path.read_text().replace('"stem"', json.dumps(evil)))
    text = page(read_folder(Path("exports")), None)
    assert evil not in text
    assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert embedded(text)["layers"]["mobilenet_v2-4bit.onnx"][0]["name"] == evil


def test_nothing_outside_is_named_but_in_the_libraries(made: Path) -> None:
    text = re.sub(r"<script>.*?</script>", "", page_of(made), flags=re.DOTALL)
    assert "://" not in text
    assert "default-src 'none'" in text
    assert len(page_of(made).encode()) < 1.5e6


def test_the_libraries_are_those_that_npm_has() -> None:
    folder = Path(pages.__file__).with_name("vendor")
    assert {path.name for path in folder.glob("*.js")} == LIBRARIES.keys()
    for name, (_, digest) in LIBRARIES.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "Redistribution and use" in (folder / "LICENSE").read_text()


def test_model_explorer_finds_every_layer_in_the_file(made: Path) -> None:
    written = report(model_explorer=True)
    nodes = {node.name for node in onnx.load("exports/mobilenet_v2-4bit.onnx").graph.node}
    found = [path for path in written if path.parent.name == "mobilenet_v2-4bit.nodes"]
    assert {"bits.json", "sqnr_db.json", "sensitivity_at_8.json", "wider_drop.json"} <= {path.name for path in found}
    for path in found:
        assert read(str(path))["results"].keys() <= nodes
    assert report(model_explorer=True) == written, "its own files are replaced, and are no artifacts"
