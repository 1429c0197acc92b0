"""The errors that edgeq raises on bad input. A caller can catch `EdgeqError` and print it as one line.

    EdgeqError
    ├── DataError         images and folders: missing, empty, unreadable, classes that do not fit
    ├── WeightsError      weights: not found, of another architecture, not finite
    ├── UnsupportedError  a network, layer or option that edgeq cannot handle
    ├── ArtifactError     a record, plan, packed file or ONNX file: corrupt, of another version, changed sources
    ├── OutputError       an output that cannot be written, or would overwrite somebody's file
    ├── ParityError       the exported file does not compute what PyTorch computes
    ├── WorkerError       another process of a distributed run has ended early
    └── BudgetError       no choice of widths meets the budget; the closest file has a name that says so

Every message says what was expected, what was found, and the way out.
"""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 2000


class EdgeqError(Exception):
    """Base of all errors that a user can cause and fix. `str()` is one printable line, even if it quotes a file."""

    def __str__(self) -> str:
        return printable(super().__str__())


class DataError(EdgeqError):
    """Images or image folders that cannot be used."""


class WeightsError(EdgeqError):
    """Weights that cannot be found, do not fit the network, or are not finite."""


class UnsupportedError(EdgeqError):
    """A network, layer, scheme or option that edgeq cannot handle.

    Attributes:
        layer: the path of the module that it is about; empty if it is about another thing.
    """

    def __init__(self, text: str, layer: str = "") -> None:
        super().__init__(text)
        self.layer = layer


class ArtifactError(EdgeqError):
    """A stored artifact that is corrupt, of another version, or whose sources have changed."""


class OutputError(EdgeqError):
    """An output that cannot be written, or that would replace a file not written by edgeq."""


class ParityError(EdgeqError):
    """An exported file whose results differ from PyTorch's by more than the tolerance."""


class WorkerError(EdgeqError):
    """Another process of the same distributed run has ended early."""


class BudgetError(EdgeqError):
    """A budget that no choice of widths can meet."""


def one_line(error: BaseException) -> str:
    """Return the message of any exception without line breaks, or the name of its class if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    """Return a text, which may quote a file, as one printable line of about 2000 characters at most."""
    line = "".join(char if char.isprintable() else " " for char in text)
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"  # keep the end: it says what to do
