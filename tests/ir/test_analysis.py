"""What the outputs of a graph mean, and where quantization ends; groups, cuts and skips are in `test_graph`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeq.ir.analysis import clipped_layers, float_outputs, never_clipped, quantizer_groups, regressed, usual_task
from edgeq.ir.graph import INPUT, Graph, Input, Output
from edgeq.ir.node import Node

MAP = (4, 8, 8)


def operator(name: str, called: str, source: str, shape: tuple[int, ...], **arguments: Any) -> Node:
    attrs = {"operator": called, "reads": ["self"], "arguments": arguments, "tensors": []}
    return Node(name, "float", (source,), shape, attrs)


def returning(values: tuple[str, ...], *nodes: Node) -> Graph:
    outputs = tuple(Output(f"out.{value}", value, "regression") for value in values)
    return Graph((Input("image", INPUT, (3, 8, 8)),), nodes, outputs)


# --- tasks ----------------------------------------------------------------------------------------------------------


def layer(*shape: int) -> Node:
    return Node("last", "conv2d", (INPUT,), shape)


@pytest.mark.parametrize(
    ("nodes", "task"),
    [
        ((layer(5),), "classification"),
        ((layer(1),), "regression"),
        ((layer(5, 8, 8),), "regression"),
        ((layer(1), Node("p", "sigmoid", ("last",), (1,))), "classification"),
        ((layer(5), Node("p", "sigmoid", ("last",), (5,))), "classification"),
        ((layer(5, 1, 1), Node("p", "sigmoid", ("last",), (5, 1, 1))), "classification"),
        ((layer(1, 8, 8), Node("p", "sigmoid", ("last",), (1, 8, 8))), "classification"),
        ((layer(5, 8, 8), Node("p", "sigmoid", ("last",), (5, 8, 8))), "regression"),
        ((layer(5, 8, 8), operator("p", "softmax.int", "last", (5, 8, 8), dim=1)), "classification"),
        ((layer(5, 8, 8), operator("p", "softmax.int", "last", (5, 8, 8), dim=-3)), "classification"),
        ((layer(5, 8, 8), operator("p", "softmax.int", "last", (5, 8, 8), dim=-1)), "classification"),
        ((layer(40, 9), operator("p", "softmax.int", "last", (40, 9), dim=2)), "classification"),
        ((layer(5, 8, 8), operator("p", "softmax.int", "last", (5, 8, 8), dim=0)), "regression"),
        ((layer(5, 8, 8), operator("p", "argmax.default", "last", (8, 8), dim=1)), "classification"),
        ((layer(5, 8, 8), operator("p", "argmax.default", "last", (5, 8), dim=3)), "classification"),
        ((layer(5, 8, 8), operator("p", "argmax.default", "last", ())), "regression"),
        ((layer(5), operator("p", "exp.default", "last", (5,))), "classification"),
        ((layer(5, 8, 8), operator("p", "exp.default", "last", (5, 8, 8))), "regression"),
    ],
    ids=[
        "vector", "one number", "map", "sigmoid of one", "sigmoid of a vector", "sigmoid of one position",
        "sigmoid of one channel", "sigmoid of channels", "softmax", "softmax from the end", "softmax of the last",
        "softmax of a sequence", "softmax of the batch", "argmax", "argmax of rows", "argmax of all",
        "another operator of a vector", "another operator of a map",
    ],
)  # fmt: skip
def test_the_task_of_an_only_output(nodes: tuple[Node, ...], task: str) -> None:
    graph = returning((nodes[-1].name,), *nodes)
    assert usual_task(graph, graph.outputs[0]) == task


def test_a_vector_beside_other_outputs_is_regression_unless_it_ends_in_a_softmax() -> None:
    classes, box = Node("classes", "conv2d", (INPUT,), (5,)), Node("box", "conv2d", (INPUT,), (4,))
    graph = returning(("classes", "box"), classes, box)
    assert [usual_task(graph, one) for one in graph.outputs] == ["regression", "regression"]
    graph = returning(("p", "box"), classes, box, operator("p", "softmax.int", "classes", (5,), dim=1))
    assert [usual_task(graph, one) for one in graph.outputs] == ["classification", "regression"]


# --- where quantization ends ----------------------------------------------------------------------------------------

BOXES, SCORES = (4, 8, 8), (80, 8, 8)
DETECTOR = returning(
    ("all", "boxes"),
    Node("stem", "conv2d", (INPUT,), MAP), Node("relu", "relu", ("stem",), MAP),
    Node("box", "conv2d", ("relu",), BOXES), Node("class", "conv2d", ("relu",), SCORES),
    Node("exp", "float", ("box",), BOXES, operator("", "exp.default", "", BOXES).attrs),
    Node("boxes", "mul", ("exp", "exp"), BOXES), Node("scores", "sigmoid", ("class",), SCORES),
    Node("all", "cat", ("boxes", "scores"), (84, 8, 8)),
)  # fmt: skip


def test_a_detector_is_decoded_in_float_and_its_parts_share_no_scale() -> None:
    """Boxes of 0..640 and scores of 0..1, joined to one output, have the quantizers of their own layers."""
    assert float_outputs(DETECTOR) == {"exp", "boxes", "scores", "all"}
    assert {*quantizer_groups(DETECTOR)} == {(INPUT,), ("relu",), ("box",), ("class",)}


def test_parts_that_a_layer_reads_again_are_quantized() -> None:
    nodes = (*DETECTOR.nodes, Node("again", "conv2d", ("all",), MAP))
    graph = replace(DETECTOR, nodes=nodes, outputs=(Output("output", "again", "regression"),))
    assert float_outputs(graph) == frozenset()
    assert {"boxes", "scores", "all"} <= {name for group in quantizer_groups(graph) for name in group}


@pytest.mark.parametrize(
    ("ends", "floats"),
    [
        ((), set()),
        ((Node("end", "relu", ("last",), MAP),), set()),
        ((Node("sum", "add", ("last", INPUT), MAP), Node("end", "relu", ("sum",), MAP)), {"sum", "end"}),
        ((Node("pool", "global_avg_pool", ("last",), (4, 1, 1)), Node("end", "flatten", ("pool",), (4,))), None),
        ((Node("half", "slice", ("last",), (2, 8, 8)),), {"half"}),
    ],
    ids=["none", "a clip of the quantizer", "a clip behind a sum", "an average", "a part"],
)
def test_what_is_behind_the_last_layer_is_float(ends: tuple[Node, ...], floats: set[str] | None) -> None:
    nodes = Node("last", "conv2d", (INPUT,), MAP), *ends
    expected = {node.name for node in ends} if floats is None else floats
    graph = returning((nodes[-1].name,), *nodes)
    assert float_outputs(graph) == expected
    assert not expected & {name for group in quantizer_groups(graph) for name in group}


def test_a_relu_whose_layer_is_returned_too_is_float() -> None:
    """No quantizer can perform it: the layer has levels for negative values."""
    nodes = Node("last", "conv2d", (INPUT,), MAP), Node("end", "relu", ("last",), MAP)
    assert float_outputs(returning(("last", "end"), *nodes)) == {"end"}
    assert {*quantizer_groups(returning(("last", "end"), *nodes))} == {(INPUT,), ("last",)}
    total = returning(("sum",), *nodes, Node("sum", "add", ("last", "end"), MAP))
    assert regressed(total) == {"last"}


# --- what is never clipped ------------------------------------------------------------------------------------------


def test_answers_are_never_clipped_nor_what_they_are_moved_from() -> None:
    """Boxes are products of what their layer makes, which divergence may clip; scores are joined and returned."""
    assert never_clipped(DETECTOR) == {"all", "boxes", "scores"}
    nodes = (
        Node("a", "conv2d", (INPUT,), MAP),
        Node("b", "conv2d", ("a",), MAP),
        Node("cat", "cat", ("a", "b"), (8, 8, 8)),
        Node("flat", "flatten", ("cat",), (512,)),
    )
    assert never_clipped(returning(("flat",), *nodes)) == {"a", "b", "cat", "flat"}
    p = operator("p", "softmax.int", "flat", (512,), dim=1)
    classes = replace(returning(("p",), *nodes, p), outputs=(Output("p", "p", "classification"),))
    assert never_clipped(classes) == {"a", "b", "cat", "flat", "p"}


# --- activations that clip ------------------------------------------------------------------------------------------


def test_layers_that_only_a_clipping_activation_reads() -> None:
    def conv(name: str, source: str) -> Node:
        return Node(name, "conv2d", (source,), MAP)

    as_it_is = conv("a", INPUT), Node("a6", "clip", ("a",), MAP, {"max": 6.0})
    in_a_sum = conv("b", "a6"), Node("b+", "add", ("b", "a6"), MAP), Node("b0", "relu", ("b+",), MAP)
    of_a_sum_read_twice = conv("c", "b0"), Node("c+", "add", ("c", "b0"), MAP), Node("c0", "relu", ("c+",), MAP)
    not_clipped = conv("d", "c+"), Node("d+", "add", ("d", "c0"), MAP), Node("d-", "sigmoid", ("d+",), MAP)
    read_twice = conv("e", "d-"), Node("e0", "relu", ("e",), MAP), Node("end", "add", ("e", "e0"), MAP)
    graph = returning(("end",), *as_it_is, *in_a_sum, *of_a_sum_read_twice, *not_clipped, *read_twice)
    assert clipped_layers(graph) == {"a": 6.0, "b": float("inf")}
