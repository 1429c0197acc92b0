"""Files on disk: atomic writes, versioned JSON, digests.

Every output is first written to a temporary file in its folder and then renamed, so a full disk or an interrupt leaves
the previous file as it was. Temporary files of killed processes, `.edgeq-*.part`, are removed by the next process that
writes into the folder. Every JSON artifact starts with `format` and `version`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from edgeq.errors import ArtifactError

if sys.platform != "win32":
    import fcntl

from edgeq.artifacts.schema import Schema, validate
from edgeq.errors import OutputError

_MAGIC: Final = "edgeq-"
HEAD_BYTES: Final = 4096
"""Number of bytes at the start of a file in which its producer is named."""


_TEMPORARY: Final = re.compile(r"\.edgeq-[a-z0-9_]{8}\.part")  # what mkstemp makes of the prefix and suffix below


def check_output(path: Path, force: bool = False) -> None:
    """Refuse to replace a file that edgeq did not write, unless `force`.

    Called before long work starts, so that a wrong path costs nothing. A file counts as edgeq's when `edgeq` stands
    in its first 4 KiB, where all formats that edgeq writes name their producer. A symlink counts as its target.

    Raises:
        OutputError: the path is a folder or a device, or another program's file; or its folder cannot be made.
    """
    if path.exists() and not path.is_file():
        found = "a folder; name a file in it" if path.is_dir() else "a device or pipe; name another output"
        raise OutputError(f"{path}: expected a file to write, found {found}")
    if path.exists() and not force:
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            raise OutputError(f"{path}: exists and cannot be read: {error.strerror}; name another output") from error
        if b"edgeq" not in head:
            raise OutputError(f"{path}: exists and was not written by edgeq; name another output or add --force")
    folder = _target(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder: {error.strerror}; name another output") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: no permission to write here; name another output")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any failure it is removed.

    If `path` is a symlink, its target is replaced.

    Raises:
        OutputError: the file cannot be created, written or renamed (no permission, disk full).
    """
    with replacing_all(path) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(*paths: Path) -> Iterator[list[Path]]:
    """Like `replacing`, for files that belong together: all are on the disk before any is replaced, the first one last.

    If several processes write the same files at once, all files end as those of the process that finishes last.

    Raises:
        OutputError: as for `replacing`.
    """
    targets = [_target(path) for path in paths]
    with ExitStack() as stack:
        try:
            with _locked(targets[0].parent):
                temporaries = [stack.enter_context(_temporary(target.parent)) for target in targets]
        except OSError as error:
            raise OutputError(f"{paths[0]}: cannot write: {error.strerror}; name another output") from error
        try:
            yield temporaries
            for temporary in temporaries:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.chmod(0o666 & ~_umask())
            with _locked(targets[0].parent):
                for temporary, target in reversed(list(zip(temporaries, targets, strict=True))):
                    temporary.replace(target)
        except OSError as error:
            raise OutputError(
                f"{paths[0]}: cannot write: {error.strerror or error}; free some space or name another output"
            ) from error


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Remove temporary files of killed processes from a folder, then yield a new one, which is removed at the end."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError), _locked(path, wait=False) as free:
                if free:
                    path.unlink()
    handle, name = tempfile.mkstemp(prefix=".edgeq-", suffix=".part", dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        with _locked(path):
            yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file or folder; the system frees it when the process is killed.

    Yields whether the lock is held. It is not if another process holds it (with `wait=False`) or if the file system has
    no locks.
    """
    with ExitStack() as stack:
        held = False
        if sys.platform != "win32":
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
        yield held


def _target(path: Path) -> Path:
    """Resolve a symlink, whose target may not exist yet; any other path is returned as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_json(path: Path, kind: str, version: int, body: Mapping[str, Any]) -> None:
    """Write `body` as JSON, after the fields `{"format": "edgeq-<kind>", "version": <version>}`, atomically.

    Raises:
        OutputError: as for `replacing`.
    """
    text = dumps(kind, version, body)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def dumps(kind: str, version: int, body: Mapping[str, Any]) -> str:
    """Return the exact text that `write_json` writes."""
    return json.dumps({"format": _MAGIC + kind, "version": version, **body}, indent=1, allow_nan=False) + "\n"


def read_json(path: Path, kind: str, version: int, schema: Schema, way_out: str = "write it again") -> dict[str, Any]:
    """Read and validate what `write_json` wrote.

    Args:
        path: path of the file.
        kind: the kind that it must have.
        version: the version that it must have.
        schema: schema of its body.
        way_out: what to do about a body that does not match; ends the message.

    Raises:
        ArtifactError: no such file, not JSON, another kind of file, another version, or a body that does not match.
    """
    if path.is_dir():
        raise ArtifactError(f"{path}: expected an edgeq {kind}, found a folder")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except OSError as error:
        raise ArtifactError(f"{path}: expected an edgeq {kind} (JSON), found something unreadable: {error}") from error
    return checked_json(content, str(path), kind, version, schema, way_out)


def checked_json(
    content: bytes, path: str, kind: str, version: int, schema: Schema, way_out: str = "write it again"
) -> dict[str, Any]:
    """Validate the content of a file that `write_json` wrote, as `read_json` does; `path` is where it is from.

    Raises:
        ArtifactError: not JSON, another kind of file, another version, or a body that does not match.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected an edgeq {kind} (JSON), found something unreadable: {error}") from error
    if not isinstance(body, dict) or body.get("format") != _MAGIC + kind:
        found = body.get("format", "no format line") if isinstance(body, dict) else type(body).__name__
        raise ArtifactError(f"{path}: expected an edgeq {kind}, found {found}")
    if body.get("version") != version:
        raise ArtifactError(
            f"{path}: expected version {version} of an edgeq {kind}, found {body.get('version')}; "
            "write it again with this edgeq"
        )
    problem = validate(body, schema)
    try:
        json.dumps(body, allow_nan=False)
    except ValueError:  # Python parses NaN and infinity, which are not JSON
        problem = problem or "numbers are not all finite"
    if problem:
        raise ArtifactError(f"{path}: a damaged {kind}, its {problem}; {way_out}")
    return body


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def kind_of(path: Path) -> str | None:
    """Return the kind of a JSON artifact, from its field `format`; None for any other file."""
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    name = body.get("format") if isinstance(body, dict) else None
    return name.removeprefix("edgeq-") if isinstance(name, str) and name.startswith("edgeq-") else None
