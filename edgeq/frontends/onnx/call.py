"""One node of an ONNX file: its attributes, and those of its inputs that are the same for all images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from edgeq.errors import UnsupportedError


def aten(name: str) -> Callable[..., Any]:
    """An operator of PyTorch by its name and overload, as `softmax.int`."""
    packet, _, overload = name.partition(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    return function


def reason(error: BaseException) -> str:
    """The first line of what went wrong at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:300] if lines else type(error).__name__


class Call:
    """A node as handlers see it.

    Args:
        node: the node, whose name is not empty.
        opset: the version of the operators of the file.
        static: its inputs, `None` for those that are left out or computed from images.
    """

    def __init__(self, node: onnx.NodeProto, opset: int, static: Sequence[Tensor | None]) -> None:
        self.name, self.op, self.opset = node.name, node.op_type, opset
        self.attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        self.inputs, self.outputs, self.static = list(node.input), list(node.output), list(static)
        self.target: list[int] = []
        """Of a Reshape that works for any number of images: the sizes that it makes, -1 where the batch is."""

    def refuse(self, text: str) -> UnsupportedError:
        """An error about this node."""
        return UnsupportedError(f"node {self.name}: {self.op} {text}")

    def has(self, place: int) -> bool:
        """Whether an input is given."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def integer(self, name: str, default: int) -> int:
        """An attribute."""
        return int(self.attributes.get(name, default))

    def real(self, name: str, default: float) -> float:
        """An attribute."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """An attribute."""
        found = self.attributes.get(name, default)
        return found.decode() if isinstance(found, bytes) else str(found)

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """An attribute."""
        return [int(number) for number in self.attributes.get(name, default)]

    def constant(self, place: int) -> Tensor:
        """An input that is the same for all images.

        Raises:
            UnsupportedError: it is computed from them.
        """
        value = self.static[place] if place < len(self.static) else None
        if value is None:
            raise self.refuse(f"with input {place} computed from the images; expected a constant")
        return value

    def numbers(self, place: int) -> list[Any]:
        """The numbers of a constant input."""
        return list(self.constant(place).flatten().tolist())

    def number(self, place: int) -> Any:
        """A constant input of one number."""
        return self.constant(place).item()

    def axes(self, rank: int, place: int = 1) -> list[int]:
        """The attribute `axes`, or since newer opsets the input, counted from the front; empty if there is none."""
        given = self.numbers(place) if self.has(place) else self.integers("axes")
        if wrong := [axis for axis in given if not -rank <= axis < rank]:
            raise self.refuse(f"over axis {wrong[0]}; expected one of {rank}")
        return [int(axis) % rank for axis in given]


Handler = Callable[..., Any]
"""Computes a node: from a `Call` and its inputs, `None` where left out, to its output, or a tuple of them."""
