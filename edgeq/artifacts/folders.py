"""Folders that edgeq writes as a whole: a JSON file in each says what is in it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeq.artifacts.files import kind_of
from edgeq.errors import OutputError


def check_folder(folder: Path, about: str, kind: str, force: bool) -> None:
    """Refuse to replace what edgeq did not write.

    Args:
        folder: that is to be made. Of one of edgeq's, only the files that it wrote are replaced.
        about: the name of the JSON file that says what is in it.
        kind: of this file.
        force: replace a file, but never a folder of others.

    Raises:
        OutputError: there is something else at this path.
    """
    try:
        if folder.is_dir():
            if any(folder.iterdir()) and kind_of(folder / about) != kind:
                raise OutputError(
                    f"{folder}: expected a new folder or one of edgeq's, found other files; name another output"
                )
        elif folder.exists() and not force:
            raise OutputError(
                f"{folder}: edgeq did not write this file; name another output, or replace it with --force"
            )
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used: {error.strerror or error}; name another output") from error


@contextmanager
def replacing_folder(folder: Path, about: str) -> Iterator[Path]:
    """Yield a temporary folder; on success it replaces `folder`, of which what others have put there stays.

    Args:
        folder: to make, or to replace; of a symlink, its target.
        about: the name of the JSON file in it, whose field `files` lists what edgeq wrote.

    Raises:
        OutputError: it cannot be written.
    """
    folder = target_of(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".edgeq-", suffix=".part", dir=folder.parent))
        try:
            yield made
            made.chmod(0o755)
            _replace(made, folder, about)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write: {error.strerror or error}; name another output") from error


def target_of(folder: Path) -> Path:
    """The folder that a symlink stands for; any other path as it is."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def written_in(folder: Path) -> list[str]:
    """The files of a folder, as the field `files` of its JSON file lists them."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _replace(made: Path, folder: Path, about: str) -> None:
    old = made.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    if old.is_dir():
        own = {*json.loads((old / about).read_bytes()).get("files", ())} if (old / about).exists() else set()
        for path in sorted(old.rglob("*")):
            kept = folder / path.relative_to(old)
            if not path.is_dir() and path.relative_to(old).as_posix() not in own and not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                path.rename(kept)
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)
