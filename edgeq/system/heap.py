"""Trim the heap: return memory that is free in the process to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


def trim_heap() -> None:
    """Return freed memory to the system where the C library (glibc) would keep it.

    Tensors of some megabytes that come and go leave holes between those that stay, and larger ones do not fit into
    them. Without trimming, the process grows to a multiple of what it holds.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
