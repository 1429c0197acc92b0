"""Programs in the native engine, step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeq.native
from edgeq.native import library
from edgeq.native.program import Program

SOURCES = Path(edgeq.native.__file__).parent / "sources"


class Engine:
    """A program, on images without the batch; tests are skipped where the engine was not compiled."""

    def __init__(self, program: Program) -> None:
        if not library.is_compiled():
            pytest.skip("the native engine was not compiled: no C compiler when edgeq was installed")
        self.program, self._engine = program, library.Engine.of(program, "a test")

    def __call__(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        made = self._engine([one[None] for one in inputs])
        return [values.reshape(end.shape) for values, end in zip(made, self.program.outputs, strict=True)]

    @property
    def arena(self) -> NDArray[np.uint8]:
        """What the last run has left in memory."""
        return self._engine._arenas[-1]

    def step(self, number: int) -> Engine:
        """An engine that runs one step in the same arena."""
        steps, names = self.program.steps, self.program.names
        one = Engine(replace(self.program, steps=steps[number : number + 1], names=names[number : number + 1]))
        one._engine._arenas = self._engine._arenas
        return one
