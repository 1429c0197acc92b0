from __future__ import annotations

import json

import pytest

from edgeq.errors import ArtifactError
from edgeq.graph import INPUT, Graph, Node

MAP = (4, 8, 8)


def node(name: str, op: str, *inputs: str) -> Node:
    return Node(name, op, inputs, MAP)


def graph(*nodes: Node) -> Graph:
    return Graph((3, 8, 8), nodes)


def groups(*nodes: Node) -> set[tuple[str, ...]]:
    return {tuple(sorted(group)) for group in graph(*nodes).quantizer_groups()}


CONV = node("conv", "conv2d", INPUT)
RELU = node("relu", "relu", "conv")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "a network needs at least one node, found none"),
        ((node("a", "softmax", INPUT),), r"node a: unknown op softmax; expected one of add, avg_pool2d, cat"),
        ((CONV, node("conv", "relu", "conv")), "node conv: this name is used twice"),
        ((node(INPUT, "relu", INPUT),), "node input: this name is used twice"),
        ((node("a", "relu", "conv"), CONV), "node a: its input conv does not come before it"),
        ((node("a", "relu", "a"),), "node a: its input a does not come before it"),
    ],
    ids=["empty", "unknown op", "name twice", "named like the input", "input comes later", "reads itself"],
)
def test_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        graph(*nodes)


def test_layers_output_and_uses() -> None:
    made = graph(CONV, RELU, node("add", "add", "relu", "relu"), node("fc", "linear", "add"))
    assert [n.name for n in made.layers] == ["conv", "fc"]
    assert made.output == "fc"
    assert made.uses() == {INPUT: 1, "conv": 1, "relu": 2, "add": 1, "fc": 1}


def test_to_dict_and_back_through_json() -> None:
    attrs = {"stride": [2, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    made = graph(Node("conv", "conv2d", (INPUT,), MAP, attrs), Node("clip", "clip", ("conv",), MAP, {"max": 6.0}))
    assert Graph.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_residual_values_have_their_own_scales() -> None:
    found = groups(CONV, RELU, node("project", "conv2d", "relu"), node("add", "add", "relu", "project"))
    assert found == {("input",), ("relu",), ("project",), ("add",)}


def test_relu_absorbs_a_layer_only_it_reads() -> None:
    assert groups(CONV, RELU) == {("input",), ("relu",)}
    assert groups(CONV, RELU, node("add", "add", "conv", "relu")) == {("input",), ("conv",), ("relu",), ("add",)}


def test_relu_of_the_input_or_of_moved_values_absorbs_nothing() -> None:
    assert groups(node("relu", "relu", INPUT)) == {("input",), ("relu",)}
    assert groups(CONV, node("pool", "max_pool2d", "conv"), node("relu", "relu", "pool")) == {
        ("input",), ("conv", "pool"), ("relu",),
    }  # fmt: skip


def test_concatenation_shares_one_scale() -> None:
    found = groups(CONV, RELU, node("b", "conv2d", INPUT), node("cat", "cat", "relu", "b"))
    assert found == {("input",), ("b", "cat", "relu")}


def test_scales_are_shared_through_chains() -> None:
    found = groups(
        node("pool", "max_pool2d", INPUT), node("a", "conv2d", "pool"), node("b", "conv2d", "pool"),
        node("low", "cat", "a", "pool"), node("high", "cat", "b", "low"), node("flat", "flatten", "high"),
    )  # fmt: skip
    assert found == {("a", "b", "flat", "high", "input", "low", "pool")}
