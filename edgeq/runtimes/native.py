"""The native engine: programs of packed networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.data.preprocess import Preprocess, interleaved
from edgeq.errors import DataError
from edgeq.native.library import Engine
from edgeq.native.program import End, Program
from edgeq.runtimes.jobs import Inputs, Job, Run


def open_native(job: Job) -> Run:
    """Map the file of a program, which runs on as many threads as it was made for.

    Raises:
        UnsupportedError: the engine was not compiled.
        ArtifactError: the file is no program.
    """
    return Engine.mapped(Path(job.file))


class NativeModel:
    """A program as a function from images to all its outputs by name, float32 `[n, ...]`.

    Args:
        program: from `edgeq.lowering.lower.lower`.
        name: what messages call it.
        preprocess: preprocessing of the images; a program that takes pixels needs it to get them back. Without it,
            images for such a program must be pixels in 0..1.

    Raises:
        UnsupportedError: the engine was not compiled.
    """

    def __init__(self, program: Program, name: str, preprocess: Preprocess | None = None) -> None:
        self._program, self._name, self._preprocess = program, name, preprocess
        self._engine = Engine.of(program, name)

    def __call__(self, batch: Inputs) -> dict[str, NDArray[Any]]:
        """Run the program on `n` images, float32 `[n, ...]`.

        Raises:
            DataError: other inputs than the program has, or of other shapes.
        """
        names = [end.name for end in self._program.inputs]
        given = batch if isinstance(batch, Mapping) else dict.fromkeys(names[:1], batch)
        if given.keys() != {*names}:
            raise DataError(f"{self._name}: expected the inputs {', '.join(names)}, found {', '.join(given)}")
        made = self._engine([self._as_taken(given[end.name], end) for end in self._program.inputs])
        return {
            end.name: values.reshape(len(values), *end.shape)
            for end, values in zip(self._program.outputs, made, strict=True)
        }

    def _as_taken(self, array: NDArray[np.float32], end: End) -> NDArray[Any]:
        taken: NDArray[Any] = array.astype(np.float32, copy=False)
        if not end.floats:
            taken = interleaved(taken if self._preprocess is None else self._preprocess.pixels(taken))
        if taken.shape[1:] != end.shape:
            wanted, found = list(end.shape), list(taken.shape[1:])
            raise DataError(f"{self._name}: expected images {wanted} of input {end.name}, found {found}")
        return taken
