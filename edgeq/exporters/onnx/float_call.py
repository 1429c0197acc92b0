"""One call of a float operator, on the way to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgeq.ir.ops.op import Writer

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        writer: of the graph.
        name: of the node, for its constants.
        values: ONNX names of the arguments that are computed.
        held: those that are parameters, float32.
        shapes: their shapes, with 1 for the batch.
        arguments: the other ones.
        result: which of several results is wanted.
        shape: of the result, with 1 for the batch.
    """

    writer: Writer
    name: str
    values: dict[str, str]
    held: dict[str, Floats]
    shapes: dict[str, tuple[int, ...]]
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    result: int = 0

    def __getitem__(self, argument: str) -> Any:
        """An argument that is no tensor; None if it was left out."""
        return self.arguments.get(argument)

    @property
    def x(self) -> str:
        """The ONNX name of the value that it is called on."""
        return self.tensor("self" if self.has("self") else "input")

    @property
    def size(self) -> tuple[int, ...]:
        """Its shape."""
        return self.shapes["self" if "self" in self.values else "input"]

    def has(self, argument: str) -> bool:
        """Whether an argument is a tensor."""
        return argument in self.values or argument in self.held

    def tensor(self, argument: str) -> str:
        """The ONNX name of an argument that is a tensor."""
        if argument in self.values:
            return self.values[argument]
        return self.writer.constant(f"{self.name}.{argument}", self.held[argument])

    def make(self, op: str, *inputs: str | float | None, **attributes: Any) -> str:
        """Append a node; numbers become constants, None is an input left out."""
        names = [self.floats(value) if isinstance(value, int | float) else value or "" for value in inputs]
        return self.writer.node(op, names, **attributes)

    def cast(self, value: str, to: int = TensorProto.FLOAT) -> str:
        """A value in another type, without one in float32."""
        return self.make("Cast", value, to=to)

    def truth(self, op: str, *inputs: str | float) -> str:
        """What an operator finds true as 1, and what not as 0."""
        return self.cast(self.make(op, *inputs))

    def floats(self, value: float | Floats) -> str:
        """A constant in float32."""
        array = np.asarray(value, np.float32)
        return self.writer.constant(f"{self.name}.{len(array.shape)}.{array.size}.{float(array.flat[0])!r}", array)

    def ints(self, values: Sequence[int]) -> str:
        """A constant in int64."""
        return self.writer.constant(f"{self.name}.{'_'.join(map(str, values))}", np.array(values, np.int64))

    def operand(self, argument: str) -> str:
        """A tensor, or a number as a constant."""
        return self.tensor(argument) if self.has(argument) else self.floats(float(self.arguments[argument]))

    def dims(self) -> list[int]:
        """The dimensions of a reduction."""
        dim = self["dim"]
        return [dim] if isinstance(dim, int) else list(dim)

    def reduced(self, op: str, value: str, keep: bool | None = None) -> str:
        """A reduction over its dimensions."""
        keepdims = bool(self["keepdim"]) if keep is None else keep
        return self.make(op, value, self.ints(self.dims()), keepdims=int(keepdims))


Translation = Callable[[Call], str]
"""Writes a call, and returns the name of what it makes: the output of the last node."""


def simple(op: str, **attributes: Any) -> Translation:
    """An operator that ONNX has, too."""
    return lambda c: c.make(op, c.x, **attributes)
