"""Networks of one op alone, with attributes and weights drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.packed.activations import ActivationQuantizer


def _alone(
    op: str,
    shape: Sequence[int],
    attrs: Mapping[str, Any] | None = None,
    *,
    others: int = 0,
    layer: Callable[[Node], nn.Module] | None = None,
) -> Network:
    """A network of one node, which reads the image and, if it reads more, what a ReLU makes of it."""
    beside = tuple(Node(f"other{i}", "relu", (INPUT,), tuple(shape)) for i in range(others))
    node = Node("alone", op, (INPUT, *(other.name for other in beside)), (), attrs or {})
    network = Network(Graph.of_image(tuple(shape), (*beside, node)), {"alone": layer(node)} if layer else {})
    made = network.run(node, [torch.zeros(1, *shape)] * len(node.inputs))
    return network.with_graph(Graph.of_image(tuple(shape), (*beside, replace(node, shape=tuple(made.shape[1:])))))


_MAPS = st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(2, 7))
_PAIRS = st.lists(st.integers(1, 2), min_size=2, max_size=2)
_VALUES = st.floats(0.125, 4, width=32)
_SLOPES = st.floats(-2, 2, width=32)


def _weighted(draw: st.DrawFn, *weight: int, bias: int) -> Callable[[Node], nn.Module]:
    torch.manual_seed(draw(st.integers(0, 99)))
    return lambda node: float_layer(node, torch.randn(weight), torch.randn(bias))


def _conv(draw: st.DrawFn) -> Network:
    groups, per_group, out = (draw(st.integers(1, 3)) for _ in range(3))
    kernel, padding = draw(_PAIRS), draw(st.lists(st.integers(0, 1), min_size=2, max_size=2))
    attrs: dict[str, Any] = {"stride": draw(_PAIRS), "padding": padding, "dilation": draw(_PAIRS), "groups": groups}
    layer = _weighted(draw, out * groups, per_group, *kernel, bias=out * groups)
    return _alone("conv2d", (per_group * groups, draw(st.integers(4, 7)), 5), attrs, layer=layer)


def _norm(draw: st.DrawFn) -> Network:
    shape = (draw(st.integers(2, 6)), 3, 4)
    return _alone("layer_norm", shape, {"eps": 1e-5}, layer=_weighted(draw, shape[0], bias=shape[0]))


def _pool(draw: st.DrawFn, op: str) -> Network:
    kernel = draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))
    padding, stride = [draw(st.integers(0, size // 2)) for size in kernel], draw(_PAIRS)
    ceil = draw(st.booleans())
    own = {"dilation": [1, 1]} if op == "max_pool2d" else {"count_padding": not ceil and draw(st.booleans())}
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil} | own
    return _alone(op, (2, draw(st.integers(3, 7)), draw(st.integers(3, 7))), attrs)


def _slice(draw: st.DrawFn) -> Network:
    shape, dim = draw(_MAPS), draw(st.integers(1, 3))
    start = draw(st.integers(0, shape[dim - 1] - 1))
    return _alone("slice", shape, {"dim": dim, "start": start, "end": draw(st.integers(start + 1, shape[dim - 1]))})


def _gather(draw: st.DrawFn) -> Network:
    shape, dim = draw(_MAPS), draw(st.integers(1, 3))
    indices = draw(st.lists(st.integers(0, shape[dim - 1] - 1), min_size=1, max_size=9))
    return _alone("gather", shape, {"dim": dim, "indices": indices})


def _reshape(draw: st.DrawFn) -> Network:
    a, b, c = draw(_MAPS)
    return _alone("reshape", (a, b, c), {"sizes": draw(st.permutations([a * b, c]))})


def _blocks(draw: st.DrawFn, op: str) -> Network:
    (channels, height, width), block = draw(_MAPS), draw(_PAIRS)
    rows, columns = block
    deep = op == "depth_to_space"
    shape = (channels * rows * columns, height, width) if deep else (channels, height * rows, width * columns)
    return _alone(op, shape, {"block": block})


def _float(draw: st.DrawFn) -> Network:
    layer = FloatOperator(draw(st.sampled_from(["abs.default", "mish.default", "selu.default"])), ["self"], {}, {})
    return _alone("float", draw(_MAPS), layer.attrs, layer=lambda _: layer)


def _quantizer(draw: st.DrawFn) -> Network:
    attrs = {"scale": draw(st.sampled_from([0.5, 0.03125])), "zero_point": draw(st.integers(0, 255))}
    return _alone("quantize", draw(_MAPS), attrs, layer=lambda node: ActivationQuantizer(**node.attrs))


def _border(draw: st.DrawFn) -> Network:
    pads = draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    return _alone("border", (3, 4, 5), {"pads": pads, "values": [0.2, 0.4, 0.6]})


def _prelu(draw: st.DrawFn) -> Network:
    shape = draw(_MAPS)
    count = draw(st.sampled_from([1, shape[0]]))
    return _alone("prelu", shape, {"slopes": draw(st.lists(_SLOPES, min_size=count, max_size=count))})


def _of_a_map(op: str, **attrs: st.SearchStrategy[Any]) -> Callable[[st.DrawFn], Network]:
    return lambda draw: _alone(op, draw(_MAPS), {key: draw(strategy) for key, strategy in attrs.items()})


DRAWN: dict[str, Callable[[st.DrawFn], Network]] = {
    "conv2d": _conv,
    "layer_norm": _norm,
    "relu": _of_a_map("relu"),
    "clip": _of_a_map("clip", max=_VALUES),
    "leaky_relu": _of_a_map("leaky_relu", slope=_VALUES),
    "prelu": _prelu,
    "sigmoid": _of_a_map("sigmoid"),
    "tanh": _of_a_map("tanh"),
    "gelu": _of_a_map("gelu"),
    "hardsigmoid": _of_a_map("hardsigmoid"),
    "hardswish": _of_a_map("hardswish"),
    "add": lambda draw: _alone("add", draw(_MAPS), others=1),
    "mul": lambda draw: _alone("mul", draw(_MAPS), others=1),
    "max_pool2d": lambda draw: _pool(draw, "max_pool2d"),
    "avg_pool2d": lambda draw: _pool(draw, "avg_pool2d"),
    "global_avg_pool": _of_a_map("global_avg_pool"),
    "flatten": _of_a_map("flatten"),
    "reshape": _reshape,
    "permute": _of_a_map("permute", dims=st.permutations([1, 2, 3]).map(lambda dims: [0, *dims])),
    "cat": lambda draw: _alone("cat", draw(_MAPS), {"dim": draw(st.integers(1, 3))}, others=2),
    "slice": _slice,
    "gather": _gather,
    "pad": _of_a_map("pad", pads=st.lists(st.integers(0, 2), min_size=4, max_size=4)),
    "depth_to_space": lambda draw: _blocks(draw, "depth_to_space"),
    "space_to_depth": lambda draw: _blocks(draw, "space_to_depth"),
    "float": _float,
    "quantize": _quantizer,
    "border": _border,
}


def networks_of(op: str) -> st.SearchStrategy[Network]:
    """Networks of an op, as `DRAWN` has it."""
    return st.composite(DRAWN[op])()
