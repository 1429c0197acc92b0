"""The native engine from Python: its kernels, which are a plain C library, and programs that run on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.native.program import ALIGNED, Program, read_head

_MODULE: Final = "edgeq.native._kernels"
"""The library as setup.py names it; it is no module of Python, but is found like one."""


def is_compiled() -> bool:
    """Whether the kernels are there: they are compiled when edgeq is installed, if there is a C compiler."""
    return find_spec(_MODULE) is not None


@cache
def library() -> ctypes.CDLL:
    """Load the kernels.

    Raises:
        UnsupportedError: they are not there, as there was no C compiler when edgeq was installed.
    """
    found = find_spec(_MODULE)
    if found is None or found.origin is None:
        raise UnsupportedError(
            "the native engine: expected its compiled kernels, found none, as there was no C compiler when edgeq was "
            "installed; install gcc or clang, then edgeq again"
        )
    kernels = ctypes.CDLL(found.origin)
    kernels.eq_program_bytes.restype = ctypes.c_size_t
    kernels.eq_open.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    kernels.eq_open.restype = ctypes.c_char_p
    kernels.eq_run_program.argtypes = [ctypes.c_void_p] * 4
    kernels.eq_run_program.restype = None
    kernels.eq_encode.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 6, *[ctypes.c_void_p] * 4]
    kernels.eq_encode.restype = None
    return kernels


class Engine:
    """A program as a function from arrays to arrays. Threads may call it at the same time; each call takes one CPU.

    Args:
        content: the program's file, uint8 `[bytes]`, at a multiple of 64. It is run where it lies, so it must not
            change.
        name: what messages call it.

    Attributes:
        inputs, outputs: what numbers each has for one image.

    Raises:
        UnsupportedError: see `library`.
        ArtifactError: no program, or a damaged one.
    """

    def __init__(self, content: NDArray[np.uint8], name: str) -> None:
        self._library, self._content, self._name = library(), content, name
        self._program = ctypes.create_string_buffer(self._library.eq_program_bytes())
        problem = self._library.eq_open(content.ctypes.data, content.size, self._program)
        if problem:
            raise ArtifactError(f"{name}: expected a program of the native engine, found {problem.decode()}")
        self.inputs, self.outputs, self._arena_bytes = read_head(content.data)
        self._arenas: list[NDArray[np.uint8]] = []  # those that no call uses now

    @staticmethod
    def of(program: Program, name: str) -> Engine:
        """Return the engine of a program in memory."""
        file = program.to_bytes()
        content = _aligned(len(file))
        content[:] = np.frombuffer(file, np.uint8)
        return Engine(content, name)

    @staticmethod
    def mapped(path: Path) -> Engine:
        """Return the engine of a program's file, which is mapped into memory: it must not change meanwhile.

        Raises:
            ArtifactError: there is no such file, or it cannot be read.
        """
        try:
            return Engine(np.memmap(path, np.uint8, "r"), str(path))
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise ArtifactError(f"{path}: expected a program of the native engine, found {error}") from error

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run images one after the other.

        Args:
            arrays: one for each input, `[n, ...]` of its type, with its numbers for each of the `n` images:
                float maps have their channels first, pixels last.

        Returns:
            One array for each output, `[n, elements]`, maps with their channels first.

        Raises:
            DataError: arrays of other types or sizes.
        """
        self._check(arrays)
        taken = [np.require(array, requirements=["C", "A"]) for array in arrays]
        images = len(taken[0])
        made = [np.zeros((images, elements), dtype) for dtype, elements in self.outputs]
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = _aligned(self._arena_bytes)
        for i in range(images):
            self._library.eq_run_program(self._program, _places(taken, i), _places(made, i), arena.ctypes.data)
        self._arenas.append(arena)
        return made

    def _check(self, arrays: Sequence[NDArray[Any]]) -> None:
        found = [(array.dtype, array[:1].size) for array in arrays if array.ndim]
        counts = {len(array) for array in arrays if array.ndim}
        if len(counts) == 1 and counts != {0} and found == [*self.inputs]:
            return
        wanted = " and ".join(f"[n, {elements}] of {dtype}" for dtype, elements in self.inputs)
        given = " and ".join(f"{list(array.shape)} of {array.dtype}" for array in arrays) or "nothing"
        raise DataError(f"{self._name}: expected {wanted} for n images, found {given}")


def _places(arrays: Sequence[NDArray[Any]], image: int) -> ctypes.Array[ctypes.c_void_p]:
    """Where one image of each array lies."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data + image * array.strides[0] for array in arrays))


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zeros at a multiple of 64."""
    room = np.zeros(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start : start + size]
