"""Trim the heap: return freed memory to the operating system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


def trim_heap() -> None:
    """Return freed memory to the operating system with `malloc_trim` of glibc; elsewhere a no-op.

    Short-lived tensors of a few megabytes leave holes between long-lived ones, and larger tensors do not fit into them.
    Without trimming, the process grows to several times what it holds.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
