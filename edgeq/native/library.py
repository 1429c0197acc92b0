"""The native engine from Python: its kernels, which are a plain C library, and programs that run on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path
from threading import Lock
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
    kernels.eq_run_program.argtypes = [ctypes.c_void_p] * 5
    kernels.eq_run_program.restype = None
    kernels.eq_encode_bytes.argtypes = kernels.eq_round_bytes.argtypes = [ctypes.c_void_p]
    kernels.eq_encode_bytes.restype = kernels.eq_round_bytes.restype = ctypes.c_size_t
    kernels.eq_encode.argtypes = [ctypes.c_void_p, ctypes.c_int32, *[ctypes.c_void_p] * 4]
    kernels.eq_encode.restype = None
    kernels.eq_gptq.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 2, *[ctypes.c_void_p] * 5]
    kernels.eq_descend.argtypes = kernels.eq_gptq.argtypes
    kernels.eq_gptq.restype = kernels.eq_descend.restype = None
    for kernel in (kernels.eq_to_codes, kernels.eq_from_codes, kernels.eq_round_to_codes):
        kernel.argtypes = [ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_float, ctypes.c_int32, ctypes.c_void_p]
        kernel.restype = None
    return kernels


class _Barrier(ctypes.Structure):
    """`eq_barrier`."""

    _fields_ = (("parts", ctypes.c_int32), ("arrived", ctypes.c_int32), ("round", ctypes.c_int32))


class _Team(ctypes.Structure):
    """`eq_team`."""

    _fields_ = (
        ("part", ctypes.c_int32),
        ("parts", ctypes.c_int32),
        ("wait", ctypes.c_void_p),
        ("barrier", ctypes.c_void_p),
    )


class Engine:
    """A program as a function from arrays to arrays. Threads may call it at the same time.

    A call takes as many CPUs as the program was made for: images run side by side on them, and what remains of a batch
    is shared by them image by image.

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
        self.inputs, self.outputs, self._arena_bytes, self._threads = read_head(content.data)
        self._arenas: list[NDArray[np.uint8]] = []  # those that no call uses now
        self._others = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None
        self._one_at_a_time = Lock()  # teams: threads that wait for each other must all be running

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
        """Run images.

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
        places = [(_places(taken, i), _places(made, i)) for i in range(images)]
        alone = images - images % self._threads
        if alone:
            self._on_all(lambda part: self._alone(places[part : alone : self._threads]))
        for place in places[alone:]:
            with self._one_at_a_time:
                self._together(*place)
        return made

    def _on_all(self, run: Callable[[int], None]) -> None:
        """Call a function with the number of each thread, on all of them."""
        others = [self._others.submit(run, part) for part in range(1, self._threads)] if self._others else []
        run(0)
        for other in others:
            other.result()

    def _alone(self, places: Sequence[tuple[_Places, _Places]]) -> None:
        """Run images one after the other."""
        with self._arena() as arena:
            for inputs, outputs in places:
                self._library.eq_run_program(self._program, inputs, outputs, arena, None)

    def _together(self, inputs: _Places, outputs: _Places) -> None:
        """Run one image on all threads."""
        barrier = _Barrier(self._threads, 0, 0)
        wait = ctypes.cast(self._library.eq_wait, ctypes.c_void_p)
        with self._arena() as arena:

            def run(part: int) -> None:
                team = _Team(part, self._threads, wait, ctypes.addressof(barrier))
                self._library.eq_run_program(self._program, inputs, outputs, arena, ctypes.byref(team))

            self._on_all(run)

    @contextmanager
    def _arena(self) -> Iterator[int]:
        """Where there is an arena that nobody else uses meanwhile."""
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = _aligned(self._arena_bytes)
        yield arena.ctypes.data
        self._arenas.append(arena)

    def _check(self, arrays: Sequence[NDArray[Any]]) -> None:
        found = [(array.dtype, prod(array.shape[1:])) for array in arrays if array.ndim]
        counts = {len(array) for array in arrays if array.ndim}
        if len(counts) == 1 and found == [*self.inputs]:
            return
        wanted = " and ".join(f"[n, {elements}] of {dtype}" for dtype, elements in self.inputs)
        given = " and ".join(f"{list(array.shape)} of {array.dtype}" for array in arrays) or "nothing"
        raise DataError(f"{self._name}: expected {wanted} for n images, found {given}")


_Places = ctypes.Array[ctypes.c_void_p]


def _places(arrays: Sequence[NDArray[Any]], image: int) -> _Places:
    """Where one image of each array lies."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data + image * array.strides[0] for array in arrays))


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zeros at a multiple of 64."""
    room = np.zeros(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start : start + size]
