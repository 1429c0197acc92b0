"""The native engine as WebAssembly, as `tools/build_wasm.py` has made it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from edgeq.artifacts.files import read_json
from edgeq.artifacts.schema import COUNT, TEXT, Schema
from edgeq.errors import ArtifactError

FOLDER: Final = Path(__file__).parent
INDEX: Final = "engines.json"
KIND: Final = "engines"
VERSION: Final = 1
_SCHEMA: Final[Schema] = {
    "compiler": TEXT,
    "sources": TEXT,
    "engines": {str: {"file": TEXT, "bytes": COUNT, "gzip": COUNT, "sha256": TEXT}},
}


def read_index(folder: Path = FOLDER) -> dict[str, Any]:
    """Read what `engines.json` says of the engines beside it.

    Raises:
        ArtifactError: there is none, or a damaged one.
    """
    return read_json(folder / INDEX, KIND, VERSION, _SCHEMA, "run tools/build_wasm.py")


def read_engine(name: str) -> tuple[str, bytes]:
    """Return the name of an engine's file, and its content.

    Args:
        name: `integer`, `relaxed` or `float`.

    Raises:
        ArtifactError: it is missing, or not the one that was made.
    """
    engine = read_index()["engines"][name]
    path = FOLDER / engine["file"]
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != engine["sha256"]:
        raise ArtifactError(f"{path}: expected the engine that {INDEX} names, found another; install edgeq again")
    return engine["file"], content
