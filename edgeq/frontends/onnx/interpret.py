"""What the nodes of a folded ONNX graph make of one image, and of two: shapes, constants, and where the batch is.

A file is often exported for one image, and says so in the targets of its reshapes. So where a node puts the batch is
found out by giving it one image, and two; no number is computed but what is the same for all images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final

import onnx
import torch
from torch import Tensor

from edgeq.errors import UnsupportedError
from edgeq.frontends.onnx.call import Call, reason
from edgeq.frontends.onnx.operators.shapes import sizes_of_reshape
from edgeq.frontends.onnx.operators.table import OPERATORS
from edgeq.frontends.onnx.tensors import as_tensor
from edgeq.numerics.activations import MAX_ELEMENTS

_WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
_OF_SHAPES: Final = ("Shape", "Size")
_BY_VALUES: Final = ("NonMaxSuppression", "NonZero", "Unique", "Compress")  # how much they make depends on values
_VIEWS: Final = ("Reshape", "Flatten")


@dataclass(frozen=True)
class Value:
    """A value that is computed from the images.

    Attributes:
        one: what it is for one image, and `two` for two, without numbers (on the device `meta`).
        axis: where the batch is; the axis may be merged with others.
        outer: the size of those that come before the batch in it.
    """

    one: Tensor
    two: Tensor
    axis: int
    outer: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, with the batch."""
        return tuple(self.one.shape)


@dataclass
class Interpretation:
    """What became of a graph.

    Attributes:
        calls: the nodes that compute something from the images, in order.
        values: what they make, and the inputs.
        static: what is the same for all images.
        beyond: the nodes behind the last layers that PyTorch or the batch cannot follow, and all that read them.
        needed: the names of the nodes that layers depend on.
        floating: the names of layers that depend on operators whose results differ in size from image to image, as the
            heads over the regions of a two-stage detector do; they are beyond, too.
        unsure: the names of reshapes that may put the batch at two places, and have it at the likelier one.
        turned: those that have it at the other.
    """

    calls: list[Call] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    static: dict[str, Tensor] = field(default_factory=dict)
    beyond: list[onnx.NodeProto] = field(default_factory=list)
    needed: frozenset[str] = frozenset()
    floating: tuple[str, ...] = ()
    unsure: list[str] = field(default_factory=list)
    turned: frozenset[str] = frozenset()


def interpret(
    graph: onnx.GraphProto, opset: int, shapes: Mapping[str, tuple[int, ...]], beyond: Collection[str] = ()
) -> Interpretation:
    """Follow a graph.

    Args:
        graph: folded; all its nodes have names of their own.
        opset: of its operators.
        shapes: of its inputs, without the batch.
        beyond: names of nodes that are left behind the network in any case.

    Raises:
        UnsupportedError: a node that layers depend on is not known, or has no place for the batch; there are no layers.
    """
    turned: set[str] = set()
    layers, floating = _layers(graph)
    needed = _needed(graph, layers)
    while True:
        found = Interpretation(needed=needed, floating=floating, turned=frozenset(turned))
        try:
            _follow_all(found, graph, opset, shapes, beyond)
        except UnsupportedError:
            if not found.unsure:
                raise
            turned.add(found.unsure[-1])
        else:
            return found


def _follow_all(
    found: Interpretation,
    graph: onnx.GraphProto,
    opset: int,
    shapes: Mapping[str, tuple[int, ...]],
    beyond: Collection[str],
) -> None:
    for name, shape in shapes.items():
        one, two = (torch.empty((count, *shape), device="meta") for count in (1, 2))
        found.values[name] = Value(one, two, 0, 1)
    for tensor in graph.initializer:
        found.static[tensor.name] = as_tensor(tensor)
    lost: set[str] = set()  # values that nodes beyond make
    for node in graph.node:
        reads = [name for name in names_read(node) if name]
        try:
            if node.name in beyond:
                raise UnsupportedError(f"node {node.name}: it was left behind the network")  # noqa: TRY301
            if any(name in lost for name in reads):
                raise UnsupportedError(f"node {node.name}: it reads what is computed behind the network")  # noqa: TRY301
            _follow(found, node, opset)
        except UnsupportedError:
            if node.name in found.needed:
                raise
            found.beyond.append(node)
            lost.update(node.output)


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, those that its subgraphs take from outside included."""
    yield from node.input
    for graph in _subgraphs(node):
        inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            yield from (name for name in names_read(inner) if name not in inside)
            inside.update(inner.output)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


def _goes_by_values(node: onnx.NodeProto) -> bool:
    """Whether how much a node makes depends on values, or that of a node within it does."""
    return node.op_type in _BY_VALUES or any(
        _goes_by_values(inner) for graph in _subgraphs(node) for inner in graph.node
    )


def _layers(graph: onnx.GraphProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the nodes with weights, and of those behind an operator that makes more or less by the values."""
    constant = {tensor.name for tensor in graph.initializer} | {""}
    by_values: set[str] = set()
    layers: tuple[list[str], list[str]] = [], []
    for node in graph.node:
        reads = set(names_read(node))
        if node.op_type in _OF_SHAPES or constant.issuperset(reads):
            constant.update(node.output)
            continue
        behind = not by_values.isdisjoint(reads)
        if behind or _goes_by_values(node):
            by_values.update(node.output)
        if node.op_type in _WEIGHTED and any(name in constant for name in node.input[:2] if name):
            layers[behind].append(node.name)
    if not layers[False]:
        where = f" in front of {layers[True][0]}, which depends on the values in an image" if layers[True] else ""
        raise UnsupportedError(f"expected a convolution or a product with constant weights{where}, found none")
    return tuple(layers[False]), tuple(layers[True])


def _needed(graph: onnx.GraphProto, layers: Collection[str]) -> frozenset[str]:
    """The nodes that layers depend on, and these."""
    needed, values = set(layers), set[str]()
    for node in reversed(graph.node):
        if node.name in needed or values.intersection(node.output):
            needed.add(node.name)
            values.update(names_read(node))
    return frozenset(needed)


def _follow(found: Interpretation, node: onnx.NodeProto, opset: int) -> None:
    static = [found.static.get(name) if name else None for name in node.input]
    call = Call(node, opset, static)
    if missing := [name for name in node.input if name and name not in found.static and name not in found.values]:
        raise call.refuse(f"reads {missing[0]}, which nothing makes")
    if node.op_type == "Constant":
        found.static[node.output[0]] = _constant(call)
        return
    if node.op_type not in OPERATORS:
        inside = " (control flow) is not known" if any(a.HasField("g") for a in node.attribute) else " is not known"
        raise UnsupportedError(
            f"node {node.name}: {node.op_type}{inside} to edgeq; expected operators of one flow, or such ones behind "
            "the last layer"
        )
    computed = [found.values[name] for name in node.input if name in found.values]
    one = _made(call, [_meta(found, name, 0) for name in node.input])
    if not computed:
        one = _made(call, static)
    if not computed or node.op_type in _OF_SHAPES:
        found.static.update((name, value.cpu()) for name, value in zip(node.output, one, strict=False) if name)
        return
    merged = next((value.outer for value in computed if value.shape[value.axis] > 1), 1)
    if node.op_type in _VIEWS:
        merged = _settle(found, call, computed[0])
        one = _made(call, [_meta(found, name, 0) for name in node.input])
    two = _made(call, [_meta(found, name, 1) for name in node.input])
    for name, first, second in zip(node.output, one, two, strict=False):
        if name:
            found.values[name] = _placed(call, first, second, merged)
    found.calls.append(call)


def _meta(found: Interpretation, name: str, which: int) -> Tensor | None:
    if name in found.values:
        value = found.values[name]
        return value.two if which else value.one
    return found.static[name].to("meta") if name else None


def _made(call: Call, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """What a node makes of these inputs."""
    try:
        with torch.no_grad():
            made = OPERATORS[call.op](call, *inputs)
    except UnsupportedError:
        raise
    except Exception as error:  # PyTorch raises many types
        shapes = ", ".join(str(list(x.shape)) for x in inputs if x is not None)
        raise call.refuse(f"cannot be computed of {shapes or 'nothing'}: {reason(error)}") from error
    values = made if isinstance(made, tuple) else (made,)
    if len(values) < len([name for name in call.outputs if name]):
        raise call.refuse(f"has {len(call.outputs)} outputs; expected {len(values)}")
    if large := [value for value in values if value.numel() > MAX_ELEMENTS]:
        raise call.refuse(f"makes {list(large[0].shape)}; expected at most {MAX_ELEMENTS} numbers")
    return values


def _constant(call: Call) -> Tensor:
    for name, value in call.attributes.items():
        if name == "value" and isinstance(value, onnx.TensorProto):
            return as_tensor(value)
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
    raise call.refuse("of another kind; expected numbers")


def _settle(found: Interpretation, call: Call, value: Value) -> int:
    """Find the sizes of a reshape for any number of images; return what is before the batch in its new axis.

    Where the batch is between two axes, it is merged with the one before or the one behind: `[time, n, 2, c]` becomes
    `[time * n, 2 * c]`, but also `[time, n * heads, c]`. Which it is, shows in what follows.
    """
    sizes = sizes_of_reshape(call, list(value.shape))
    before = prod(value.shape[: value.axis]) * value.outer
    ahead = [prod(sizes[:place]) for place in range(len(sizes))]
    alone = [place for place, size in enumerate(sizes) if size == 1 and ahead[place] == before]
    inside = [place for place in range(len(sizes)) if ahead[place] <= before and before % max(ahead[place], 1) == 0]
    if not sizes or not (alone or inside):
        raise call.refuse(f"of {list(value.shape)} to {sizes} leaves no place for the batch")
    place = alone[0] if alone else inside[-1]
    if not alone and place and ahead[place] == before:
        turned = call.name in found.turned
        if not turned:
            found.unsure.append(call.name)
        place -= (len(sizes) == 2) != turned
    outer = before // max(ahead[place], 1)
    if sizes[place] % max(outer, 1):
        raise call.refuse(f"of {list(value.shape)} to {sizes} tears images apart")
    call.target = [-1 if axis == place else size for axis, size in enumerate(sizes)]
    return outer


def _placed(call: Call, one: Tensor, two: Tensor, merged: int) -> Value:
    """A value with the place of its batch."""
    axes = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=False)) if a != b]
    if one.dim() != two.dim() or len(axes) != 1 or two.shape[axes[0]] != 2 * one.shape[axes[0]]:
        raise call.refuse(
            f"makes {list(one.shape)} of one image and {list(two.shape)} of two; expected what it does for each image "
            "by itself"
        )
    size = one.shape[axes[0]]
    return Value(one, two, axes[0], merged if size > 1 and size % merged == 0 else 1)
