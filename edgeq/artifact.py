"""Files on disk: atomic writes, versioned JSON, digests.

Every file that edgeq leaves behind was first written under a temporary name beside its place and then renamed, so
a full disk or an interrupt leaves what was there before. Every JSON artifact starts with `format` and `version`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeq.errors import ArtifactError, OutputError

MANIFEST_VERSION = 1
"""Of the manifest beside an ONNX file; here because those who read it must not import what writes it."""

_MAGIC = "edgeq-"
_HEAD_BYTES = 4096


def check_output(path: Path, force: bool = False) -> None:
    """Refuse to replace a file that edgeq did not write, unless `force`.

    Called before long work starts, so that a wrong path costs nothing. A file counts as edgeq's when `edgeq` stands
    in its first 4 KiB, where all formats that edgeq writes name their producer.

    Raises:
        OutputError: the path is a folder, its folder cannot be made, or it holds somebody else's file.
    """
    if path.is_dir():
        raise OutputError(f"{path}: expected a file to write, found a folder; name a file in it")
    if path.exists() and not force:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
        except OSError as error:
            raise OutputError(f"{path}: exists and cannot be read: {error.strerror}; name another output") from error
        if b"edgeq" not in head:
            raise OutputError(f"{path}: exists and was not written by edgeq; name another output or add --force")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot make this folder: {error.strerror}; name another output") from error
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent}: no permission to write here; name another output")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any failure it is removed.

    Raises:
        OutputError: the file cannot be created, written or renamed (no permission, disk full).
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}; name another output") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot write: {error.strerror or error}; free some space or name another output"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, kind: str, version: int, body: Mapping[str, Any]) -> None:
    """Write `body` as JSON under the head `{"format": "edgeq-<kind>", "version": <version>}`, atomically."""
    text = dumps(kind, version, body)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def dumps(kind: str, version: int, body: Mapping[str, Any]) -> str:
    """Return the exact text that `write_json` writes."""
    return json.dumps({"format": _MAGIC + kind, "version": version, **body}, indent=1, allow_nan=False) + "\n"


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        ArtifactError: no such file, not JSON, another kind of file, or another version.
    """
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected an edgeq {kind} (JSON), found something unreadable: {error}") from error
    if not isinstance(body, dict) or body.get("format") != _MAGIC + kind:
        found = body.get("format", "no format line") if isinstance(body, dict) else type(body).__name__
        raise ArtifactError(f"{path}: expected an edgeq {kind}, found {found}")
    if body.get("version") != version:
        raise ArtifactError(
            f"{path}: expected version {version} of an edgeq {kind}, found {body.get('version')}; "
            "write it again with this edgeq"
        )
    return body


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
