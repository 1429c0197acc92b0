"""Whether a change of the code has changed what the code writes: the embedded network's files, beside another commit's.

    python tools/same_bytes.py COMMIT              # the whole record, and every file that `edgeq demo` exports
    python tools/same_bytes.py COMMIT --samples 64 # a first look in a fifth of the time

Both states write record, ONNX files, manifests and packed files into folders of their own, in processes of their own;
the exit code is 1 if any file differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import click

from edgeq.artifacts.files import sha256

ROOT: Final = Path(__file__).resolve().parent.parent
EXPORTS: Final = (
    ("fp32",), ("8bit",), ("4bit",), ("2bit",), ("adaptive",), ("8bit", "--portable"), ("4bit", "--input", "uint8"),
)  # fmt: skip


def written(source: Path, folder: Path, samples: int) -> dict[str, str]:
    """The digest of each file that a state of the code writes, by its name."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}

    def edgeq(*arguments: str) -> None:
        command = [sys.executable, "-m", "edgeq", *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

    edgeq("calibrate", "--samples", str(samples))
    for scheme in EXPORTS:
        edgeq("export", "--scheme", *scheme)
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@click.command()
@click.argument("commit")
@click.option("--samples", default=516, show_default=True, help="Images to calibrate on.")
def main(commit: str, samples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "source"
        subprocess.run(["git", "worktree", "add", "--detach", str(other), commit], cwd=ROOT, check=True)
        try:
            with ThreadPoolExecutor() as pool:
                now = pool.submit(written, ROOT, Path(folder) / "now", samples)
                then = pool.submit(written, other, Path(folder) / "then", samples)
            found, expected = now.result(), then.result()
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)
    for name in sorted({*found, *expected}):
        same = found.get(name) == expected.get(name)
        click.echo(f"{'same     ' if same else 'different'}  {found.get(name, 'missing')[:12]}  {name}")
    sys.exit(found != expected)


if __name__ == "__main__":
    main()
