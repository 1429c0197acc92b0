from __future__ import annotations

import platform
import sys

import psutil
import pytest

from edgeq.system import heap as memory
from edgeq.system.heap import trim_heap

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


def test_other_systems_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    memory._malloc_trim.cache_clear()
    trim_heap()
    memory._malloc_trim.cache_clear()
