"""One ONNX model for images of any size, of the models of the same network for two sizes.

A network is traced for one size, and what depends on it is constant in its file: the shapes in which values are viewed,
the ends of slices. Where a file shall take other sizes, too, the network is traced for a second size. What differs
between the two models must be such numbers, and is computed from the shape of a value instead. All else must be equal:
else the network depends on the size in another way, as by positions that are added, or a window for each part of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeq.errors import UnsupportedError

_SIZES: Final = {"Reshape": (1,), "Slice": (1, 2), "Expand": (1,)}
"""Inputs of operators that have sizes of what they make of the first one."""

_ELEMENTWISE: Final = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")

Names = Mapping[tuple[str, int], str]

Shape = tuple[int | None, ...]
"""Of a value; None for the number of images."""


@dataclass(frozen=True)
class _Sized:
    """A model for one size, its constants, and the shapes of its values."""

    graph: onnx.GraphProto
    constants: Mapping[str, NDArray[Any]]
    shapes: Mapping[str, Shape]

    @staticmethod
    def of(model: onnx.ModelProto) -> _Sized:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        return _Sized(model.graph, constants, {value.name: _shape(value) for value in values})

    def described(self, node: onnx.NodeProto) -> tuple[Any, ...]:
        """What a node does, apart from its constants."""
        computed = [name for name in node.input if name not in self.constants]
        attributes = [attribute.SerializeToString(deterministic=True) for attribute in node.attribute]
        return node.op_type, node.domain, computed, len(node.input), list(node.output), attributes


def opened(one: onnx.ModelProto, other: onnx.ModelProto, names: Names = MappingProxyType({})) -> onnx.ModelProto:
    """Merge the models of a network for two sizes into one for any size.

    Args:
        one: for the first size.
        other: for the second size; every dimension that is to be open differs from that of the first.
        names: what dimensions of inputs and outputs are called where they differ between the two, by the value and the
            number of the dimension; else they have the name of the value and that number, such as `image.2`.

    Returns:
        A model that computes what either does for its size.

    Raises:
        UnsupportedError: something else than a size differs; the message names the node.
    """
    first, second = _Sized.of(one), _Sized.of(other)
    if len(first.graph.node) != len(second.graph.node):
        raise UnsupportedError("the network has other operations for images of another size")
    nodes, constants = list[onnx.NodeProto](), dict(first.constants)
    for node, twin in zip(first.graph.node, second.graph.node, strict=True):
        if first.described(node) != second.described(twin):
            raise _tied(node)
        made = onnx.NodeProto.FromString(node.SerializeToString())
        for place, name in enumerate(node.input):
            if name in first.constants and not _same(first.constants[name], second.constants[twin.input[place]]):
                arrays = first.constants[name], second.constants[twin.input[place]]
                shapes = first.shapes.get(node.input[0], ()), second.shapes.get(node.input[0], ())
                found = _Varying(node, place, *arrays, *shapes, f"{node.output[0]}.{place}")
                made.input[place] = found.value
                nodes += found.computed(constants)
        nodes.append(made)
    return _model(one, second, nodes, constants, names)


@dataclass(frozen=True)
class _Varying:
    """A constant of a node that depends on the size.

    Attributes:
        node: reads it.
        place: among the inputs of the node.
        a, b: the constant in the two models.
        before, after: the shapes of the node's first input there.
        value: the name of what takes its place.
    """

    node: onnx.NodeProto
    place: int
    a: NDArray[Any]
    b: NDArray[Any]
    before: Shape
    after: Shape
    value: str

    def computed(self, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
        """The nodes that compute it; none where one constant does for all sizes."""
        op = self.node.op_type
        if op in _ELEMENTWISE and self.a.ndim == self.b.ndim and {*self.a.flat} == {*self.b.flat} == {self.a.flat[0]}:
            constants[self.value] = self.a.reshape(-1)[:1].reshape([1] * self.a.ndim)
            return []
        if self.a.ndim == self.b.ndim == 1 and self.before and self.after:
            if self.place in _SIZES.get(op, ()) and len(self.a) == len(self.b):
                return self._sizes(constants)
            if op == "Gather" and self.place == 1:
                return self._indices(constants)
        raise _tied(self.node)

    def _sizes(self, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
        """Sizes of the result, from the shape of what the node reads."""
        op, fixed, left = self.node.op_type, self.a.copy(), list[int]()
        for i in map(int, np.flatnonzero(self.a != self.b)):
            same = i < len(self.before) and (self.before[i], self.after[i]) == (self.a[i], self.b[i])
            if same and op == "Reshape":
                fixed[i] = 0  # the same dimension of what is viewed
            else:
                left.append(i)
        if op == "Reshape" and len(left) == 1 and -1 not in self.a:
            fixed[left.pop()] = -1
        if not left:
            constants[self.value] = fixed
            return []
        dims, times, over = np.zeros_like(fixed), np.zeros_like(fixed), np.ones_like(fixed)
        for i in left:
            dims[i], times[i], over[i] = self._ratio(int(self.a[i]), int(self.b[i]))
            fixed[i] = 0
        steps = [("Shape", [self.node.input[0]]), ("Gather", [dims]), ("Mul", [times]), ("Div", [over])]
        return self._chain([*steps, ("Add", [fixed])], constants)

    def _ratio(self, a: int, b: int) -> tuple[int, int, int]:
        """A dimension that a size is proportional to, and numerator and denominator of the factor."""
        for dim, (x, y) in enumerate(zip(self.before, self.after, strict=True)):
            if x and y and x != y and a * y == b * x:
                return dim, a // gcd(a, x), x // gcd(a, x)
        raise _tied(self.node)

    def _indices(self, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
        """Every so many positions of a dimension, or each of them several times: `(i * step) // times + start`."""
        axis = next((helper.get_attribute_value(found) for found in self.node.attribute if found.name == "axis"), 0)
        start, times = int(self.a[0]), int((self.a == self.a[0]).sum())
        step = int(self.a[times] - start) if times < len(self.a) else 1

        def expected(size: int) -> NDArray[np.int64]:
            return np.arange(-(-(size - start) * times // step), dtype=np.int64) // times * step + start

        sizes = [shape[axis] or 0 for shape in (self.before, self.after)]
        if step < 1 or any(
            not np.array_equal(expected(n), found) for n, found in zip(sizes, (self.a, self.b), strict=True)
        ):
            raise _tied(self.node)
        number = np.int64
        steps: list[tuple[str, Sequence[str | Any]]] = [
            ("Shape", [self.node.input[0]]), ("Gather", [number(axis)]), ("Sub", [number(start - step + 1)]),
            ("Div", [number(step)]), ("Mul", [number(times)]),
        ]  # fmt: skip
        count = self._chain(steps, constants, f"{self.value}.count")
        positions: list[tuple[str, Sequence[str | Any]]] = [
            ("Range", [number(0), f"{self.value}.count", number(1)]),
            ("Div", [number(times)]),
        ]
        return count + self._chain([*positions, ("Mul", [number(step)]), ("Add", [number(start)])], constants)

    def _chain(
        self, steps: Sequence[tuple[str, Sequence[str | Any]]], constants: dict[str, NDArray[Any]], value: str = ""
    ) -> list[onnx.NodeProto]:
        """Nodes that each read what the one before makes, and inputs of their own: names or constants."""
        made, source, value = list[onnx.NodeProto](), list[str](), value or self.value
        for i, (op, inputs) in enumerate(steps):
            output = value if i == len(steps) - 1 else f"{value}.{op}"
            names = [x if isinstance(x, str) else f"{output}.by{place}" for place, x in enumerate(inputs)]
            constants |= {name: np.asarray(x) for name, x in zip(names, inputs, strict=True) if not isinstance(x, str)}
            made.append(helper.make_node(op, [*source, *names], [output]))
            source = [output]
        return made


def _model(
    one: onnx.ModelProto,
    second: _Sized,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    names: Names,
) -> onnx.ModelProto:
    """The first model with these nodes and constants, and with names for the dimensions that differ from the second."""
    made = onnx.ModelProto()
    made.CopyFrom(one)
    graph, read = made.graph, {name for node in nodes for name in node.input}
    for field in (graph.node, graph.initializer, graph.value_info):
        del field[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in constants if name in read)
    for found in (*graph.input, *graph.output):
        sizes = found.type.tensor_type.shape.dim
        for i, (dim, size) in enumerate(zip(sizes, second.shapes[found.name], strict=True)):
            if dim.HasField("dim_value") and dim.dim_value != size:
                dim.dim_param = names.get((found.name, i)) or f"{found.name}.{i}"
    onnx.checker.check_model(made, full_check=True)
    return made


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _tied(node: onnx.NodeProto) -> UnsupportedError:
    return UnsupportedError(f"{node.name or node.output[0]}: {node.op_type} depends on the size of the image")
