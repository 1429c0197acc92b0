"""Memory that is free in the process, but not for the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


def give_back() -> None:
    """Return freed memory to the system, where its C library (glibc) would keep it.

    Tensors of some megabytes that come and go leave holes between those that stay, into which the next, larger ones do
    not fit; unless the pages of the holes are given back, the process grows to a multiple of what it holds.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
