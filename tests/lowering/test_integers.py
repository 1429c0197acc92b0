"""What stands between quantizers is what ONNX Runtime makes of it, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from engine import Engine
from float_cases import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import quantized
from numpy.typing import NDArray
from single_ops import networks_of
from torch import nn

from edgeq.errors import UnsupportedError
from edgeq.exporters.onnx.model import to_onnx
from edgeq.ir.graph import Graph, Input, Output
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.lowering.floats import pointwise
from edgeq.lowering.lower import lower
from edgeq.packed.modules import PackedConv2d
from edgeq.packed.pack import quantizer
from edgeq.runtimes.onnxruntime import EXACT, session_of

Shape = tuple[int, ...]
Levels = tuple[float, int]
"""Scale and zero point."""

LEVELS = st.tuples(st.floats(1 / 256, 3 / 16, width=32), st.integers(0, 255))
MOVING = (
    "max_pool2d", "slice", "gather", "pad", "permute", "reshape", "flatten", "depth_to_space", "space_to_depth",
)  # fmt: skip


def between(node: Node, shapes: Sequence[Shape], levels: Sequence[Levels], layer: nn.Module | None = None) -> Network:
    """A node that reads quantized inputs, and whose value is quantized by the last of the levels."""
    ends = tuple(Input(f"in{i}", f"in{i}", shape) for i, shape in enumerate(shapes))
    reads = [
        Node(f"{end.name}.q", "quantize", (end.name,), end.shape, _attrs(each))
        for end, each in zip(ends, levels[:-1], strict=True)
    ]
    node = Node("f", node.op, tuple(read.name for read in reads), node.shape, node.attrs)
    last = Node("f.q", "quantize", ("f",), node.shape, _attrs(levels[-1]))
    layers: dict[str, nn.Module] = {one.name: quantizer(one) for one in (*reads, last)}
    graph = Graph(ends, (*reads, node, last), (Output("y", "f.q", "regression"),))
    return Network(graph, layers | ({} if layer is None else {"f": layer}))


def _attrs(levels: Levels) -> dict[str, Any]:
    return {"scale": levels[0], "zero_point": levels[1]}


def in_both(network: Network, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the engine and ONNX Runtime make of random codes."""
    rng, inputs = np.random.default_rng(seed), {}
    for end, node in zip(network.graph.inputs, network.graph.nodes, strict=False):
        codes = rng.permutation(np.arange(np.prod(end.shape)) % 256).reshape(end.shape)
        scale = np.float32(node.attrs["scale"])
        inputs[end.name] = (codes - node.attrs["zero_point"]).astype(np.float32) * scale
    session = session_of(to_onnx(network).SerializeToString(), threads=1, settings=EXACT)
    (expected,) = session.run(None, {name: x[None] for name, x in inputs.items()})
    return Engine(lower(network))(*inputs.values())[0], expected[0]


@pytest.mark.parametrize("op", MOVING)
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_only_moves(op: str, data: st.DataObject) -> None:
    network, levels = data.draw(networks_of(op)), data.draw(LEVELS)
    made = between(network.graph.nodes[-1], [network.graph.image.shape], [levels, levels])
    assert np.array_equal(*in_both(made, data.draw(st.integers(0, 99))))


@pytest.mark.parametrize("op", ["avg_pool2d", "global_avg_pool"])
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data(), same=st.booleans())
def test_averages(op: str, data: st.DataObject, same: bool) -> None:
    """With the same levels before and behind, many a mean is in the middle between two codes."""
    network, first = data.draw(networks_of(op)), data.draw(LEVELS)
    last = (first[0], data.draw(LEVELS)[1]) if same else data.draw(LEVELS)
    made = between(network.graph.nodes[-1], [network.graph.image.shape], [first, last])
    assert np.array_equal(*in_both(made, data.draw(st.integers(0, 99))))


@pytest.mark.parametrize("size", [7, 14, 28])
def test_averages_of_large_maps(size: int) -> None:
    attrs = {"kernel": [size, size], "stride": [1, 1], "padding": [0, 0], "ceil": False, "count_padding": False}
    for node in (Node("f", "global_avg_pool", (), (5, 1, 1)), Node("f", "avg_pool2d", (), (5, 1, 1), attrs)):
        for zero in (0, 77):
            made = between(node, [(5, size, size)], [(0.02, zero), (0.001, zero)])
            assert np.array_equal(*in_both(made, size))


@st.composite
def repeated(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Two shapes of values of the same rank, one of which may be repeated to the other's, or both."""
    whole = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    parts = [tuple(size if draw(st.booleans()) else 1 for size in whole) for _ in range(2)]
    kept = draw(st.sampled_from([(), (0,), (1,), (0, 1)]))
    a, b = (whole if i in kept else part for i, part in enumerate(parts))
    return a, b


@pytest.mark.parametrize("op", ["add", "mul"])
@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(shapes=repeated(), levels=st.tuples(LEVELS, LEVELS, LEVELS), seed=st.integers(0, 99))
def test_sums_and_products(op: str, shapes: tuple[Shape, Shape], levels: tuple[Levels, ...], seed: int) -> None:
    node = Node("f", op, (), np.broadcast_shapes(*shapes))
    assert np.array_equal(*in_both(between(node, shapes, levels), seed))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(networks_of("cat"), st.tuples(LEVELS, LEVELS, LEVELS, LEVELS), st.integers(0, 99))
def test_joins_of_other_scales(network: Network, levels: tuple[Levels, ...], seed: int) -> None:
    node, shape = network.graph.nodes[-1], network.graph.image.shape
    assert np.array_equal(*in_both(between(node, [shape] * 3, levels), seed))


@settings(max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.tuples(LEVELS, LEVELS), st.data(),
    st.integers(0, 99),
)  # fmt: skip
def test_softmax_of_codes(shape: Shape, levels: tuple[Levels, ...], data: st.DataObject, seed: int) -> None:
    dim = data.draw(st.integers(1, len(shape)))
    last = (data.draw(st.sampled_from([1 / 255, 1 / 256, 0.003])), data.draw(st.sampled_from([0, 3])))
    layer = FloatOperator("softmax.int", ["self"], {"dim": dim}, {})
    node = Node("f", "float", (), shape, layer.attrs)
    found, expected = in_both(between(node, [shape], [levels[0], last], layer), seed)
    off = np.abs(found - expected)
    assert off.max() <= 1.01 * last[0]
    assert np.count_nonzero(off) <= 1  # one in a million is in the middle between two codes, where a last bit decides


FUNCTIONS: dict[str, dict[str, Any]] = {
    "sigmoid": {}, "tanh": {}, "gelu": {}, "hardsigmoid": {}, "hardswish": {}, "leaky_relu": {"slope": 0.1},
    "relu": {}, "clip": {"max": 4.0},
}  # fmt: skip
OPERATORS = sorted(
    name
    for name, (case, *_) in CASES.items()
    if pointwise(Node("", "float", ("x",), (), FloatOperator(name, case.reads, case.arguments, case.tensors).attrs))
)


@pytest.mark.parametrize("function", [*FUNCTIONS, *OPERATORS])
def test_a_table_has_what_onnx_runtime_computes(function: str) -> None:
    rng = np.random.default_rng(0)
    layer = None if function in FUNCTIONS else FloatOperator(function, ["self"], CASES[function][0].arguments, {})
    attrs = FUNCTIONS[function] if layer is None else layer.attrs
    node = Node("f", function if layer is None else "float", (), (4, 8, 8), attrs)
    for _ in range(8):
        zero = int(rng.integers(0, 256)) if function not in _POSITIVE else 0
        first, last = (float(np.float32(10 ** rng.uniform(-2.5, -0.8))) for _ in range(2))
        made = between(node, [(4, 8, 8)], [(first, zero), (last, 100)], layer)
        found, expected = in_both(made, 0)
        off = np.abs(found - expected)[np.isfinite(found)]
        assert off.max() <= 1.01 * last, (first, zero, last)
        # Where a value is in the middle between two codes, the last bit of a function decides: CPUs differ in these.
        assert np.count_nonzero(off) <= (function not in _EXACT), (first, zero, last)


_EXACT = {
    "relu",
    "clip",
    "abs.default",
    "clamp.default",
    "ceil.default",
    "floor.default",
    "round.default",
    "trunc.default",
}
_POSITIVE = {"log.default", "log10.default", "log1p.default", "log2.default", "rsqrt.default", "sqrt.default"}


def test_a_sigmoid_in_the_middle_between_two_codes() -> None:
    """By PyTorch's sigmoid, one code of this table would be another."""
    node, levels = Node("f", "sigmoid", (), (4, 8, 8)), [(0.07250937074422836, 124), (0.00392127363011241, 0)]
    assert np.array_equal(*in_both(between(node, [(4, 8, 8)], levels), 0))


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 3), LEVELS, st.data())
def test_prelu_has_a_slope_for_each_channel(channels: int, levels: Levels, data: st.DataObject) -> None:
    slopes = [data.draw(st.floats(-2, 2, width=32)) for _ in range(channels)]
    node = Node("f", "prelu", (), (channels, 3, 3), {"slopes": slopes})
    found, expected = in_both(between(node, [(channels, 3, 3)], [levels, levels]), 0)
    assert np.abs(found - expected).max() <= levels[0] * 1.01


def test_a_layer_whose_sums_are_too_large_is_named() -> None:
    network = deepcopy(quantized("flat", "8bit").packed)
    layer = network.layer("conv")
    assert isinstance(layer, PackedConv2d)
    layer.bias.fill_(1e9)
    with pytest.raises(UnsupportedError, match="layer conv: its sums do not fit int32"):
        lower(network)
