from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgeq.system import heap as memory
from edgeq.system.heap import keep_freed_memory, trim_heap

BLOCK = 100_000  # bytes: below what glibc takes from the system block by block


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_holes_between_what_stays_are_given_back() -> None:
    """Of 300 MB every hundredth block stays."""
    blocks = [bytearray(BLOCK) for _ in range(3000)]
    kept = blocks[::100]
    full = resident()
    del blocks
    trim_heap()
    assert resident() < full - 250_000_000
    assert all(not any(block) for block in kept)


KEPT = """
import resource, sys
from edgeq.system.heap import keep_freed_memory, trim_heap
if sys.argv[1] == "kept":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks = [bytearray(20_000_000) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_serves_the_next_allocation(tmp_path: Path) -> None:
    """20 times 80 MB are 390 thousand pages, if each is asked for again."""

    def faults(way: str) -> int:
        made = subprocess.run([sys.executable, "-c", KEPT, way], capture_output=True, check=True, cwd=tmp_path)
        return int(made.stdout)

    assert faults("kept") < 25_000
    assert faults("returned") > 250_000


def test_other_systems_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    memory._of_glibc.cache_clear()
    trim_heap()
    keep_freed_memory()
    memory._of_glibc.cache_clear()
