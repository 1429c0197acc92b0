"""`edgeq evaluate` and `edgeq sweep` of networks that are no classifiers, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import Capture, fail, run
from PIL import Image
from torch import Tensor, nn

import edgeq
from edgeq.commands.judging import setting_of
from edgeq.commands.sweep import Sweep
from edgeq.commands.sweep_report import SweepReport
from edgeq.data.preprocess import Preprocess
from edgeq.frontends import sources
from edgeq.frontends.sources import Source
from edgeq.reports import figures, tables
from edgeq.system.progress import SILENT

SIDE = 16
PREPROCESS = Preprocess(SIDE, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
COLOURS = np.array([(200, 30, 20), (10, 220, 40), (25, 15, 210)], np.uint8)


class Colours(nn.Module):
    """The main colour of every pixel as class scores, and one box for an image: its centre and size, and two scores."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.image = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 6, SIDE)
        self.pixels.weight = nn.Parameter(torch.eye(3)[:, :, None, None])
        self.image.weight = nn.Parameter(torch.linspace(-1e-4, 1e-4, 18 * SIDE**2).reshape(6, 3, SIDE, SIDE))
        self.image.bias = nn.Parameter(torch.tensor([8, 8, 8, 8, 0.9, 0.1]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": self.pixels(x), "found": self.image(x).flatten(2)}


def photo(seed: int) -> tuple[Image.Image, Image.Image]:
    """An image of three colours in blocks, and the class of every pixel."""
    blocks = np.random.default_rng(seed).integers(0, 3, (4, 4)).astype(np.uint8)
    classes = blocks.repeat(4, 0).repeat(4, 1)
    return Image.fromarray(COLOURS[classes]), Image.fromarray(classes)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source]:
    """Float and 8-bit files of `Colours` in `exports/`."""
    folder = tmp_path_factory.mktemp("colours")
    network = edgeq.trace(Colours(), PREPROCESS.shape)
    source = Source(network, PREPROCESS, "colours", "mine.pt", "7" * 64, 0)
    images = [np.stack([PREPROCESS(photo(4 * i + j)[0]) for j in range(4)]) for i in range(3)]
    sources = {"network": source.to_dict(), "preprocess": PREPROCESS.to_dict(), "data": {}}
    record = edgeq.calibrate(network, images, sources=sources)
    record.save(folder / "colours.calib")
    (folder / "exports").mkdir()
    for scheme in ("fp32", "8bit"):
        plan = edgeq.plan(record, scheme)
        layers = edgeq.quantize(network, record, plan, images)
        packed = edgeq.pack(network, layers, record, plan) if layers else network
        edgeq.export(packed, folder / f"exports/{scheme}.onnx", record, plan, images)
    return folder, source


@pytest.fixture
def work(stored: tuple[Path, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photos, masks and annotations, whose network is `Colours`."""
    folder, source = stored
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "load", lambda *_, **__: source)
    (tmp_path / "exports").symlink_to(folder / "exports")
    (tmp_path / "colours.calib").symlink_to(folder / "colours.calib")
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for i in range(4):
        for kind, image in zip(("images", "masks"), photo(100 + i), strict=True):
            image.save(tmp_path / f"data/{kind}/{i}.png")
    body = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(4)],
        "annotations": [{"image_id": i, "category_id": 5, "bbox": [4, 4, 8, 8]} for i in range(4)],
        "categories": [{"id": 5}, {"id": 6}],
    }
    (tmp_path / "data/images/annotations.json").write_text(json.dumps(body))
    return tmp_path


def evaluate(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """The report of both files."""
    files = ("exports/8bit.onnx", "exports/fp32.onnx")
    found: dict[str, Any] = json.loads(run(capsys, "evaluate", *files, *arguments, "--output", "e.json", "--json"))
    return found


def table(capsys: Capture, *arguments: str) -> list[str]:
    """The printed lines for the 8-bit file, without empty ones: headers, a rule, rows, the report."""
    found = run(capsys, "evaluate", "exports/8bit.onnx", *arguments, "--output", "e.json")
    return [line for line in found.splitlines() if line.strip()]


def test_any_outputs_by_their_likeness(work: Path, capsys: Capture) -> None:
    body = evaluate(capsys, "--data", "data/images")
    assert (body["version"], body["task"], body["metric"], body["images"], body["labels"]) == (
        2, "regression", "sqnr_db", 4, None,
    )  # fmt: skip
    row, exact = body["models"]
    assert list(row["outputs"]) == ["map", "found"]
    assert row["sqnr_db"] == min(one["sqnr_db"] for one in row["outputs"].values())
    assert 30 < row["sqnr_db"] < 80
    assert 0.999 < min(one["cosine"] for one in row["outputs"].values()) < 1
    assert exact["sqnr_db"] is None or exact["sqnr_db"] > 110
    assert (row["top1"], row["agreement"], row["predictions"], row["metrics"]) == (None, None, [], {})


def test_the_table_has_a_row_for_each_output(work: Path, capsys: Capture) -> None:
    lines = table(capsys, "--data", "data/images")
    assert lines[0].split() == ["model", "scheme", "MB", "SQNR", "dB", "cosine"]
    assert [line.split()[0] for line in lines[2:6]] == ["reference", "8bit", "map", "found"]
    assert lines[-1] == "e.json: 4 images of data/images"
    assert max(map(len, lines)) <= 100


def test_segmentation(work: Path, capsys: Capture) -> None:
    body = evaluate(capsys, "--data", "data", "--task", "segmentation")
    assert (body["metric"], body["reference"]["metrics"]) == ("miou", {"miou": 100.0})
    assert [row["metrics"] for row in body["models"]] == [{"miou": 100.0}] * 2
    headers, _, reference, row, *_ = table(capsys, "--data", "data", "--task", "segmentation")
    assert headers.split()[3:] == ["mIoU", "%", "drop", "SQNR", "dB", "cosine"]
    assert reference.split() == ["reference", "float", "-", "100.00", "0.00", "-", "1.0000"]
    assert row.split()[3:5] == ["100.00", "0.00"]


def test_detection(work: Path, capsys: Capture) -> None:
    body = evaluate(capsys, "--data", "data/images", "--task", "detection")
    assert (body["metric"], body["images"]) == ("map", 4)
    assert body["reference"]["metrics"]["map50"] == pytest.approx(100)
    assert body["models"][1]["metrics"] == body["reference"]["metrics"]


def test_annotations_elsewhere(work: Path, capsys: Capture) -> None:
    Path("data/images/annotations.json").rename("mine.json")
    options = ("--data", "data/images", "--task", "detection")
    message = "error: data/images/annotations.json: no such file; name the annotations, as COCO has them, with --anno"
    assert fail(capsys, "evaluate", *options).startswith(message)
    assert evaluate(capsys, *options, "--annotations", "mine.json")["metric"] == "map"


METRICS = """
calls = []
def brightness(outputs, images):
    assert list(outputs) == ["map", "found"] and len(images) == len(outputs["map"])
    return float(images[0].name[0])
def fails(outputs, images):
    raise ValueError("no such\\nthing")
def endless(outputs, images):
    return float("nan")
def word(outputs, images):
    return "much"
def leaves(outputs, images):
    raise SystemExit(3)
number = 3
"""


def test_a_function_of_the_user(work: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are one run, whose first is 0.png."""
    Path("mine_judging.py").write_text(METRICS)
    monkeypatch.syspath_prepend(str(work))
    body = evaluate(capsys, "--data", "data/images", "--metric", "mine_judging:brightness")
    assert (body["task"], body["metric"]) == ("regression", "mine_judging:brightness")
    assert [row["metrics"] for row in body["models"]] == [{"mine_judging:brightness": 0.0}] * 2
    headers = table(capsys, "--data", "data/images", "--metric", "mine_judging:brightness")[0]
    assert headers.split()[3:5] == ["brightness", "drop"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mine_failing:fails",
            "mine_failing:fails: the metric raised ValueError: no such thing (mine_failing.py, line 7)",
        ),
        ("mine_failing:endless", "mine_failing:endless: expected a finite number of the metric, found nan"),
        ("mine_failing:word", "mine_failing:word: expected a finite number of the metric, found 'much'"),
        ("mine_failing:leaves", "mine_failing:leaves: the metric raised SystemExit: 3 (mine_failing.py, line "),
        ("mine_failing:number", "mine_failing:number: expected a function number in mine_failing, found none"),
        ("mine_failing:none", "mine_failing:none: expected a function none in mine_failing, found none"),
        ("no_such_module:f", "no_such_module:f: cannot import no_such_module: ModuleNotFoundError: No module named"),
        ("brightness", "brightness: expected a function as MODULE:FUNCTION, found another form"),
    ],
)
def test_functions_that_measure_nothing(
    name: str, message: str, work: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine_failing.py").write_text(METRICS)
    Path("data/images/annotations.json").unlink()
    monkeypatch.syspath_prepend(str(work))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    found = fail(
        capsys, "evaluate", "exports/8bit.onnx", "--data", "data/images", "--metric", name, "--output", "e.json"
    )
    assert found.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data", "data", "--task", "classification"],
            "classification: expected one output of class scores [classes], found map [3, 16, 16], found [6, 1]",
        ),
        (["--data", "data", "--annotations", "a.json"], "a.json: expected annotations with --task detection, found re"),
        (
            ["--data", "data", "--task", "segmentation", "--metric", "a:b"],
            "--metric a:b: expected no other metric, found --task segmentation; leave one out",
        ),
        (
            ["--data", "data", "--class-order", "name"],
            "class order name: expected labelled images, found --task regression",
        ),
        (
            ["--data", "embedded", "--task", "detection"],
            "detection: expected a folder of images, found embedded ones; ",
        ),
        (
            ["--task", "detection"],
            "mine.pt weights need images of their own, found none; name a folder with --data DIR",
        ),
        (
            ["--data", "data/images", "--task", "segmentation"],
            "data/images: expected folders images and masks in it, fou",
        ),
    ],
)
def test_options_that_do_not_go_together(options: list[str], message: str, work: Path, capsys: Capture) -> None:
    assert fail(capsys, "evaluate", "exports/8bit.onnx", *options).startswith(f"error: {message}")


def test_classes_beyond_those_of_the_network(work: Path, capsys: Capture) -> None:
    Image.new("L", (SIDE, SIDE), 7).save("data/masks/2.png")
    Path("data/images/annotations.json").unlink()
    found = fail(capsys, "evaluate", "--data", "data", "--task", "segmentation", "--output", "e.json")
    assert found == "error: data/masks/2.png: expected class indices below 3, or 255 where no class counts, found 7\n"


def test_the_original_file_is_the_reference(
    work: Path, stored: tuple[Path, Source], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that came from an ONNX file: here the 8-bit one, so that the float file is the one that differs."""
    source = Source(**{**vars(stored[1]), "reference": Path("exports/8bit.onnx")})
    monkeypatch.setattr(sources, "load", lambda *_, **__: source)
    same, other = evaluate(capsys, "--data", "data/images")["models"]
    assert same["outputs"]["map"] == {"sqnr_db": None, "cosine": pytest.approx(1.0), "other_shape": 0}
    assert 30 < other["sqnr_db"] < 80


def test_plot_draws_the_score_of_the_task(work: Path, capsys: Capture) -> None:
    evaluated = evaluate(capsys, "--data", "data", "--task", "segmentation")
    (work / "made").mkdir()
    for file in (work / "exports").iterdir():
        (work / "made" / file.name).write_bytes(file.read_bytes())
    (work / "made/evaluation.json").write_text(json.dumps(evaluated))
    assert "made/accuracy_size.png" in run(capsys, "plot", "--exports", "made").splitlines()


def test_sweep_by_the_score_of_the_task(work: Path, capsys: Capture) -> None:
    """The scores of a row are those that `evaluate` finds."""
    options = ("--data", "data", "--task", "segmentation")
    expected = evaluate(capsys, *options)["models"][0]
    setting = setting_of(Sweep(data="data", task="segmentation"), sources.load())
    stored = {"runtime": "onnxruntime", "effort": "fast", "seed": 0}
    report = SweepReport(Path("sweep.json"), sources.load(), setting, stored, False, SILENT)
    facts = dict.fromkeys(("scheme", "budget", "missed", "bitops", "estimated_drop"))
    report.add(Path("exports/8bit.onnx"), {**facts, "scheme": "8bit", "bytes": 9, "sha256": "1"})
    body = report.finish(["8bit"])
    (row,) = body["rows"]
    assert (body["metric"], body["reference"]["metrics"], row["drop"]) == ("miou", {"miou": 100.0}, 0.0)
    assert (row["metrics"], row["sqnr_db"], row["top1"]) == (expected["metrics"], expected["sqnr_db"], None)
    assert tables.sweep_text(body).splitlines()[1] == (
        "4 images of data/images, float network 100.00 %, effort fast, seed 0"
    )
    assert figures.sweep_figure(body).axes[0].get_ylabel() == "mIoU, %"
