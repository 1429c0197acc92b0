"""The heap: when freed memory goes back to the operating system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Final

_MMAP_THRESHOLD: Final = (-3, 32 << 20)  # a parameter of `mallopt`, and the largest value that glibc takes
_TRIM_THRESHOLD: Final = (-1, 512 << 20)


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation, until `trim_heap`, with `mallopt` of glibc; elsewhere a no-op.

    By default glibc returns every large tensor at once. The next operation then gets new pages, which the operating
    system has to clear first: nearly half of the time of a stage. Tensors of 32 MB and more are returned as before, so
    that none of the large ones that stay keep the memory between them from being returned.
    """
    if set_parameter := _of_glibc("mallopt"):
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            set_parameter(*parameter)


def trim_heap() -> None:
    """Return freed memory to the operating system with `malloc_trim` of glibc; elsewhere a no-op.

    Short-lived tensors of a few megabytes leave holes between long-lived ones, and larger tensors do not fit into them.
    Without trimming, the process grows to several times what it holds.
    """
    if trim := _of_glibc("malloc_trim"):
        trim(0)


@cache
def _of_glibc(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
