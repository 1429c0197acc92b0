"""What several of these scripts do: time a process, compare answers, publish a report."""

from __future__ import annotations

import os
import re
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
    """Run a command in a folder, on so many threads of torch; its wall and CPU seconds, and peak resident memory."""
    click.echo(f"$ {' '.join(command)}", err=True)
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    began, peak, pid = time.monotonic(), 0, 0
    process = subprocess.Popen(command, cwd=folder, env=os.environ | limit, stdout=subprocess.DEVNULL)
    while not pid:  # others may run beside it, so its own CPU time is asked for
        # The peak that `wait4` reports is at least that of this process, from which the other was forked.
        peak = max(peak, _high_water(process.pid))
        time.sleep(0.02)
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_rss_mb": round(peak / 1e6),
    }


def _high_water(pid: int) -> int:
    """Largest resident set of a process so far, in bytes; 0 where Linux does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return int((status.partition("VmHWM:")[2].split() or ["0"])[0]) * 1024


def publish(report: Path, target: Path, private: Iterable[Path]) -> None:
    """Copy a report, without the folders that this machine keeps its data in."""
    text = report.read_text(encoding="utf-8")
    for path in private:
        text = re.sub(rf'"[^"]*/{re.escape(path.name)}', f'"{path.name}', text)
    target.write_text(text, encoding="utf-8")


def divergence(before: Tensor, after: Tensor) -> float:
    """Kullback-Leibler divergence in nats, summed over images; both are log probabilities `[images, classes]`."""
    return float((before.exp() * (before - after)).sum())
