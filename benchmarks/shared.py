"""What several of these scripts do: time a process, compare answers, publish a report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import click
from torch import Tensor

CLI: Final = (sys.executable, "-m", "edgeq")


def timed(command: Sequence[str], folder: Path, threads: int | None = None) -> dict[str, float]:
    """Run a command in a folder, on so many threads of torch; its wall seconds and peak resident memory."""
    click.echo(f"$ {' '.join(command)}", err=True)
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env=os.environ | limit, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return {"seconds": round(time.monotonic() - began, 1), "peak_rss_mb": round(usage.ru_maxrss / 1e3)}


def publish(report: Path, target: Path, private: Iterable[Path]) -> None:
    """Copy a report, without the folders that this machine keeps its data in."""
    text = report.read_text(encoding="utf-8")
    for path in private:
        text = text.replace(str(path), path.name)
    target.write_text(text, encoding="utf-8")


def divergence(before: Tensor, after: Tensor) -> float:
    """Kullback-Leibler divergence in nats, summed over images; both are log probabilities `[images, classes]`."""
    return float((before.exp() * (before - after)).sum())
