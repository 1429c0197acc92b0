"""A network as a page runs it, and what it has to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.exporters.answers import allowed, known_answers
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.native.program import End, Kind, Program


class Runnable(NamedTuple):
    """A network for an engine.

    Attributes:
        engine: what runs it: `integer` or `float` are edgeq's own.
        suffix: of the name of its file.
        content: of this file.
        arena: bytes of memory that it takes while it runs, if that is known.
        inputs: what it takes.
        outputs: what it makes.
        answers: its outputs for the images asked, float32 `[n, *shape]` each.
        allowed: how far the outputs may be from them: squares of errors, by squares of values.
        equal: which share of the values of every output is the same in ONNX Runtime, if that is known.
    """

    engine: str
    suffix: str
    content: bytes
    arena: int | None
    inputs: Sequence[End]
    outputs: Sequence[End]
    answers: Sequence[NDArray[np.float32]]
    allowed: float
    equal: Mapping[str, float] | None

    def about(self) -> dict[str, Any]:
        """What the network's file says of it."""
        inputs, outputs = ([_end(end) for end in ends] for ends in (self.inputs, self.outputs))
        sizes = {"bytes": len(self.content), "arena": self.arena}
        return {**sizes, "engine": self.engine, "inputs": inputs, "outputs": outputs, "equal": self.equal}


def for_engine(network: Network, program: Program, asked: Images) -> Runnable:
    """A program of edgeq's engine.

    Raises:
        ParityError: it does not compute what ONNX Runtime does.
    """
    answers, equal = known_answers(network, program, [asked], asked)
    engine = "float" if any(step.kind >= Kind.POINTWISE for step in program.steps) else "integer"
    content, ends = program.to_bytes(), (program.inputs, program.outputs)
    return Runnable(engine, ".eqp", content, program.arena, *ends, answers, allowed(program), equal)


def _end(end: End) -> dict[str, Any]:
    return {"name": end.name, "shape": [*end.shape], "type": "float32" if end.floats else "uint8"}
