"""The command line as tests run it, and what is in the folders that they run it in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeq
from edgeq.cli import main

RECORD = Path("calib/mobilenet_v2.calib")
ADAPTIVE = Path("exports/mobilenet_v2-adaptive.onnx")
FP32 = Path("exports/mobilenet_v2-fp32.onnx")

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str | Path) -> str:
    """Run a command that succeeds; return its standard output."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fail(capsys: Capture, *arguments: str | Path) -> str:
    """Run a command that fails; check that it changes no file, and return its one line."""
    before = tree(Path())
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert tree(Path()) == before
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def tree(folder: Path) -> dict[str, str]:
    """All files, hidden ones too, with a digest of each."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def picture(path: Path, mode: str = "RGB", seed: int = 0) -> Path:
    """Save an image of noise, in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(path)
    return path


def environment() -> dict[str, str]:
    """For a child that must find this package, wherever it starts."""
    return {**os.environ, "PYTHONPATH": str(Path(edgeq.__file__).parents[1])}
