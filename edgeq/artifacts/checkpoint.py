"""Checkpoints: a killed command resumes where it was, and its output has the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgeq.artifacts.files import replacing

_KEY: Final = "edgeq-checkpoint"


class Checkpoint:
    """Tensors by name in one safetensors file, valid for one piece of work only.

    Args:
        path: path of the file; None keeps everything in memory.
        work: everything that the result depends on, as text. A file of other work, or an unreadable one, is ignored.
    """

    def __init__(self, path: Path | None = None, work: str = "") -> None:
        self._path = path
        self._digest = hashlib.sha256(work.encode()).hexdigest()
        self._tensors = self._read()

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with a prefix, keyed by the rest of their names."""
        return {name.removeprefix(prefix): found for name, found in self._tensors.items() if name.startswith(prefix)}

    def put(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Add tensors, replacing those of the same name, and write the file atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        self._tensors |= {prefix + name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        if self._path:
            with replacing(self._path) as temporary:
                temporary.write_bytes(save(self._tensors, metadata={_KEY: self._digest}))

    def remove(self) -> None:
        """Delete the file: the work is done."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Tensor]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            with safe_open(self._path, framework="pt") as file:
                if (file.metadata() or {}).get(_KEY) != self._digest:
                    return {}
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError):
            return {}
