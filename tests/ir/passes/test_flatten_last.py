"""Values of one pixel stay maps, and the network computes the same."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeq.ir.graph import INPUT, Graph, Input, Output
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.passes.flatten_last import flattens_last


def graph_of(shape: tuple[int, ...], outputs: tuple[str, ...], *nodes: Node) -> Graph:
    returned = tuple(Output(f"out.{value}", value, "regression") for value in outputs)
    return Graph((Input("image", INPUT, shape),), nodes, returned)


def flatten(name: str, source: str, size: int) -> Node:
    return Node(name, "flatten", (source,), (size,))


def pixel(name: str, source: str, size: int) -> Node:
    return Node(name, "reshape", (source,), (size, 1, 1), {"sizes": [size, 1, 1]})


def test_what_lies_between_two_pixels_is_computed_on_the_pixel() -> None:
    before = flatten("flat", INPUT, 4), Node("relu", "relu", ("flat",), (4,)), pixel("again", "relu", 4)
    found = flattens_last(graph_of((4, 1, 1), ("end", "relu"), *before, Node("end", "relu", ("again",), (4, 1, 1))))
    assert found.nodes == (
        Node("relu", "relu", (INPUT,), (4, 1, 1)), Node("end", "relu", ("relu",), (4, 1, 1)),
        flatten("relu.flatten", "relu", 4),
    )  # fmt: skip
    assert [output.value for output in found.outputs] == ["end", "relu.flatten"]


def test_a_larger_map_is_seen_as_one_pixel_without_being_flattened_before() -> None:
    end = Node("sum", "add", ("a", "b"), (8, 1, 1))
    views = flatten("flat", INPUT, 8), pixel("a", "flat", 8), pixel("b", "flat", 8)
    found = flattens_last(graph_of((2, 2, 2), ("sum",), *views, end))
    assert found.nodes == (pixel("a", INPUT, 8), replace(end, inputs=("a", "a")))


def test_a_pixel_is_flattened_once() -> None:
    before = flatten("one", INPUT, 4), flatten("two", INPUT, 4), Node("both", "cat", ("one", "two"), (8,), {"dim": 1})
    found = flattens_last(graph_of((4, 1, 1), ("both",), *before))
    name = f"{INPUT}.flatten"
    assert found.nodes == (flatten(name, INPUT, 4), Node("both", "cat", (name, name), (8,), {"dim": 1}))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Of views, activations, sums and concatenations of a map of 4 values, any of which are returned."""
    shapes = {INPUT: draw(st.sampled_from([(4, 1, 1), (4,), (2, 1, 2), (1, 2, 2)]))}
    nodes: list[Node] = []
    for i in range(draw(st.integers(1, 8))):
        source = draw(st.sampled_from([*shapes]))
        like = [name for name, shape in shapes.items() if shape == shapes[source]]
        op = draw(st.sampled_from(["flatten", "reshape", "relu", "tanh", "add", "slice"]))
        shape, attrs = shapes[source], dict[str, Any]()
        inputs: tuple[str, ...] = (source,)
        if op == "flatten":
            shape = (prod(shape),)
        elif op == "reshape":
            shape = (prod(shape), 1, 1)
            attrs = {"sizes": [*shape]}
        elif op == "slice":
            attrs = {"dim": 1, "start": 0, "end": shape[0]}
        elif op == "add":
            inputs = source, draw(st.sampled_from(like))
        nodes.append(Node(f"n{i}", op, inputs, shape, attrs))
        shapes[f"n{i}"] = shape
    outputs = draw(st.lists(st.sampled_from([node.name for node in nodes]), min_size=1, max_size=3, unique=True))
    return graph_of(shapes[INPUT], tuple(outputs), *nodes)


@given(graphs())
def test_all_outputs_stay_the_same(graph: Graph) -> None:
    x = torch.linspace(-2, 2, 8).reshape(2, *graph.inputs[0].shape)
    made = flattens_last(graph)
    wanted, found = ([output.value for output in one.outputs] for one in (graph, made))
    before, after = Network(graph, {}).values([x], wanted), Network(made, {}).values([x], found)
    for old, new in zip(wanted, found, strict=True):
        assert torch.equal(before[old], after[new])
    assert all(tuple(after[name].shape[1:]) == made.shapes()[name] for name in found)
