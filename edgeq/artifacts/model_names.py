"""The text that names a network, see `edgeq.load`: what files and titles call it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT: Final = "mobilenet_v2"
"""The network that comes with edgeq."""


def ending(model: str) -> str:
    """The ending of a file that is a whole model, `.onnx` or `.pt2`; empty for all other names."""
    found = Path(model).suffix.lower()
    return found if found in (".onnx", ".pt2") else ""


def short_name(model: str) -> str:
    """The name in file names and titles: the stem of a file, the network of timm, the function of a module."""
    return Path(model).stem if ending(model) else model.rpartition(":")[2]
