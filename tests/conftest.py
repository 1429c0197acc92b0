"""A tiny network in place of the embedded one, and what `edgeq demo` leaves behind when it runs on that."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import settings
from torch import nn

from edgeq.cli import main
from edgeq.commands import defaults
from edgeq.commands.sweep import FOLDER, Sweep, sweep
from edgeq.data.preprocess import EMBEDDED, Preprocess
from edgeq.frontends import presets, sources
from edgeq.frontends.loaded import Loaded
from edgeq.frontends.preparing import prepared
from edgeq.frontends.sources import Source
from edgeq.frontends.torch_export.trace import trace

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # processes with many threads each are slow
    share = max(1, (os.cpu_count() or 1) // workers)
    os.environ["OMP_NUM_THREADS"] = str(share)  # of the processes that tests start
    torch.set_num_threads(share)

settings.register_profile("edgeq", deadline=None)  # how long an example takes says more of the machine than of edgeq
settings.load_profile("edgeq")

CLASSES = 43
SAMPLES = 16
BUDGETS = ("size=1MB", "size=100B")
"""Of the sweep that `finished` runs."""


class TinyNet(nn.Module):
    """A stem, a depthwise and a pointwise convolution with a dead channel, and a classifier of 43 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 16, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, CLASSES)
        with torch.no_grad():
            self.pointwise.weight[3] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.stem(x))))
        x = torch.relu(self.pointwise(x))
        logits: torch.Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


Load = Callable[..., Source]


@pytest.fixture(scope="session")
def tiny_load() -> Load:
    """What takes the place of `edgeq.frontends.sources.load`."""
    torch.manual_seed(0)
    module = TinyNet()
    network = trace(module, EMBEDDED.shape)

    def load(
        model: str = "mobilenet_v2",
        weights: str | None = None,
        preprocess: Preprocess | Mapping[str, Any] | None = None,
        **options: object,
    ) -> Source:
        weights = weights or "embedded"
        known = presets.known(model, weights)
        assumed = None if known else f"as for torchvision's weights of {model}"
        loaded = Loaded(module, weights, weights, "5" * 64, known or presets.usual(model), assumed)
        taken, notes = prepared(loaded, preprocess, None)
        assert taken is not None
        found = network if taken.shape == EMBEDDED.shape else trace(module, taken.shape)
        return Source(found, taken, model, weights, "5" * 64, CLASSES, notes=notes)

    return load


@pytest.fixture
def tiny(tiny_load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder in which every network is the tiny one and sets of images are small."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    _shrink(monkeypatch, tiny_load)
    return folder


def _shrink(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    monkeypatch.setattr(sources, "load", load)
    monkeypatch.setattr(defaults, "CALIBRATION_SAMPLES", SAMPLES)
    monkeypatch.setattr(defaults, "TEST_SAMPLES", CLASSES)


@dataclass(frozen=True)
class Demo:
    """A finished run of `edgeq demo`: its folder, exit code and output."""

    folder: Path
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def demo(tiny_load: Load, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.chdir(folder):
        _shrink(monkeypatch, tiny_load)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["demo"])
    return Demo(folder, code, out.getvalue(), err.getvalue())


@pytest.fixture
def made(tiny: Path, demo: Demo) -> Path:
    """A working folder with a copy of what `edgeq demo` has made."""
    shutil.copytree(demo.folder, tiny, dirs_exist_ok=True)
    return tiny


@pytest.fixture(scope="session")
def finished(tiny_load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a sweep has run, with an ONNX file of another tool in it: the 8-bit one, as if by another."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.chdir(folder):
        _shrink(monkeypatch, tiny_load)
        sweep(Sweep(budgets=BUDGETS))
        model = onnx.load(FOLDER / "8bit.onnx")
        model.producer_name = "another"
        onnx.save(model, FOLDER / "another.onnx")
        sweep(Sweep(budgets=BUDGETS))
    return folder
