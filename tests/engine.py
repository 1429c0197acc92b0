"""The native engine for tests: its library, compiled once, and programs that it runs."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeq.native
from edgeq.native.program import ALIGNED, Program

SOURCES = Path(edgeq.native.__file__).parent / "sources"
_HANDLE_BYTES = 128  # more than an eq_program has


@cache
def library() -> ctypes.CDLL:
    """The compiled library; tests that need it are skipped where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = Path(tempfile.mkdtemp()) / "libedgeq.so"
    sources = sorted(map(str, SOURCES.glob("*.c")))
    flags = ["-std=c99", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, *sources, "-o", str(made), "-lm"], check=True, capture_output=True)
    found = ctypes.CDLL(str(made))
    found.eq_open.restype = ctypes.c_char_p
    return found


def aligned(size: int) -> NDArray[np.uint8]:
    """Bytes that start where the engine needs it."""
    whole = np.zeros(size + ALIGNED, np.uint8)
    start = -whole.ctypes.data % ALIGNED
    return whole[start : start + size]


class Engine:
    """A program in the native engine."""

    def __init__(self, program: Program) -> None:
        self.program, self.arena = program, aligned(program.arena + ALIGNED)
        content = program.to_bytes()
        self._file, self._handle = aligned(len(content)), ctypes.create_string_buffer(_HANDLE_BYTES)
        self._file[:] = np.frombuffer(content, np.uint8)
        problem = library().eq_open(
            ctypes.c_void_p(self._file.ctypes.data), ctypes.c_size_t(len(content)), self._handle
        )
        assert problem is None, problem

    def __call__(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Outputs without the batch, from inputs without it."""
        given = [np.ascontiguousarray(one) for one in inputs]
        assert [one.size for one in given] == [end.elements for end in self.program.inputs]
        made = [np.full(end.shape, np.nan, np.float32) for end in self.program.outputs]
        library().eq_run_program(
            self._handle, _pointers(given), _pointers(made), ctypes.c_void_p(self.arena.ctypes.data)
        )
        return made

    def step(self, number: int) -> Engine:
        """An engine that runs one step in the same arena."""
        steps, names = self.program.steps, self.program.names
        one = Engine(replace(self.program, steps=steps[number : number + 1], names=names[number : number + 1]))
        one.arena = self.arena
        return one


def _pointers(arrays: Sequence[NDArray[Any]]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
