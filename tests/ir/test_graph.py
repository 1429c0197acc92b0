from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.ir.analysis import cuts, float_outputs, quantizer_groups, residual_inputs
from edgeq.ir.graph import INPUT, Graph, Input, Output
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.ir.passes.merge_clips import merged_clips

MAP = (4, 8, 8)


def node(name: str, op: str, *inputs: str) -> Node:
    return Node(name, op, inputs, MAP)


def in_float(name: str, operator: str, *inputs: str, **arguments: object) -> Node:
    attrs = {"operator": operator, "reads": ["self"], "arguments": arguments, "tensors": []}
    return Node(name, "float", inputs, MAP, attrs)


def graph(*nodes: Node) -> Graph:
    return Graph.of_image((3, 8, 8), nodes)


def groups(*nodes: Node) -> set[tuple[str, ...]]:
    """Those of what a layer reads from these nodes."""
    made = graph(*nodes, node("layer", "conv2d", nodes[-1].name))
    return {tuple(sorted(group)) for group in quantizer_groups(made)} - {("layer",)}


CONV = node("conv", "conv2d", INPUT)
RELU = node("relu", "relu", "conv")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "a network needs at least one node, found none"),
        ((node("a", "softmax", INPUT),), r"node a: unknown op softmax; expected one of add, avg_pool2d, border, cat"),
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
    made = graph(CONV, RELU, node("add", "add", "relu", "relu"), node("fc", "conv2d", "add"))
    assert [n.name for n in made.layers] == ["conv", "fc"]
    assert made.outputs == (Output("logits", "fc", "classification"),)
    assert made.uses() == {INPUT: 1, "conv": 1, "relu": 2, "add": 1, "fc": 1}


def test_to_dict_and_back_through_json() -> None:
    attrs = {"stride": [2, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    made = graph(Node("conv", "conv2d", (INPUT,), MAP, attrs), Node("clip", "clip", ("conv",), MAP, {"max": 6.0}))
    assert Graph.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_what_passes_insert_is_never_stored() -> None:
    stored = Graph.of_image(
        (1, 2, 2), (Node("x.codes", "to_codes", (INPUT,), (1, 2, 2), {"scale": 1.0, "zero_point": 0}),)
    )
    with pytest.raises(ArtifactError, match=r"^node x.codes: no stored network has an op to_codes$"):
        Graph.from_dict(stored.to_dict())


# --- inputs and outputs -------------------------------------------------------------------------------------------

IMAGE, META = Input("image", INPUT, (3, 8, 8)), Input("meta", "meta", MAP)
SUM = node("sum", "add", "conv", "meta")
LOGITS, SUMS = Output("logits", "conv", "classification"), Output("sums", "sum", "regression")
SEVERAL = Graph((IMAGE, META), (CONV, SUM), (LOGITS, SUMS))


def test_several_inputs_and_outputs() -> None:
    assert SEVERAL.input_values == (INPUT, "meta")
    assert SEVERAL.returned == {"conv", "sum"}
    assert SEVERAL.answers == ("conv", "sum")
    assert SEVERAL.behind_answers() == ()
    assert SEVERAL.uses() == {INPUT: 1, "meta": 1, "conv": 2, "sum": 1}
    assert SEVERAL.shapes() == {INPUT: (3, 8, 8), "meta": MAP, "conv": MAP, "sum": MAP}
    assert SEVERAL.sources(["conv"]) == {INPUT, "conv"}
    assert SEVERAL.sources(["sum"]) == {INPUT, "meta", "conv", "sum"}


def test_one_image_is_all_that_some_stages_take() -> None:
    assert graph(CONV).image == IMAGE
    with pytest.raises(UnsupportedError, match=r"^expected a network with one input, the image, found image, meta$"):
        _ = SEVERAL.image


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((), (LOGITS,), "node conv: its input input does not come before it"),
        ((IMAGE, META), (), "expected outputs with names of their own, found none"),
        ((IMAGE, replace(META, name="image")), (LOGITS,), "expected inputs with names of their own, found image, im"),
        ((IMAGE, META, replace(META, name="b")), (LOGITS,), "expected inputs with values of their own, found input, m"),
        ((IMAGE, META), (LOGITS, replace(SUMS, name="logits")), "expected outputs with names of their own, found logi"),
        ((IMAGE, META), (replace(SUMS, value="add"),), "output add: no node makes it"),
    ],
    ids=[
        "no input",
        "no output",
        "an input's name twice",
        "an input's value twice",
        "an output's name twice",
        "an output of nothing",
    ],
)
def test_ends_that_are_refused(inputs: tuple[Input, ...], outputs: tuple[Output, ...], message: str) -> None:
    with pytest.raises(ArtifactError, match=f"^{message}"):
        Graph(inputs, (CONV, SUM), outputs)


def test_an_input_or_one_value_twice_may_be_returned() -> None:
    ends = (Output("x", INPUT, "regression"), LOGITS, Output("again", "conv", "regression"))
    made = replace(SEVERAL, outputs=ends)
    assert made.answers == (INPUT, "conv", "conv")
    assert made.uses() == {INPUT: 2, "meta": 1, "conv": 3}


def test_each_output_has_its_own_logits() -> None:
    """Others may read them, and the probabilities, too."""
    ends = in_float("p", "softmax.int", "fc"), in_float("q", "softmax.int", "sum"), in_float("r", "softmax.int", "sum")
    twice = node("twice", "add", "r", "r")
    made = replace(
        SEVERAL,
        nodes=(CONV, SUM, node("fc", "conv2d", "sum"), *ends, twice),
        outputs=tuple(Output(name, name, "classification") for name in ("p", "q", "r", "twice")),
    )
    assert made.answers == ("fc", "sum", "sum", "twice")
    assert [n.name for n in made.behind_answers()] == ["p", "q"]
    as_numbers = replace(made, outputs=tuple(replace(one, task="regression") for one in made.outputs))
    assert as_numbers.answers == ("p", "q", "r", "twice")


def test_several_go_to_dict_and_back_through_json() -> None:
    body = json.loads(json.dumps(SEVERAL.to_dict()))
    assert Graph.from_dict(body) == SEVERAL
    assert body["inputs"][1] == {"name": "meta", "value": "meta", "shape": [4, 8, 8]}
    assert body["outputs"][1] == {"name": "sums", "value": "sum", "task": "regression"}
    body["outputs"][1]["task"] = "detection"
    with pytest.raises(ArtifactError, match=r"^unknown task detection; expected one of classification, regression$"):
        Graph.from_dict(body)


# --- groups -------------------------------------------------------------------------------------------------------


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


def test_a_clip_behind_a_clip_leaves_it_its_quantizer() -> None:
    """Such a chain is left only where the first has other readers, or comes from elsewhere than tracing."""
    assert groups(CONV, RELU, node("clip", "clip", "relu")) == {("input",), ("relu",), ("clip",)}


def test_concatenation_shares_one_scale() -> None:
    a, b = node("a", "conv2d", INPUT), node("b", "conv2d", INPUT)
    assert groups(a, b, node("cat", "cat", "a", "b")) == {("input",), ("a", "b", "cat")}


def test_a_concatenation_of_values_behind_relus_shares_one_scale() -> None:
    found = groups(
        CONV, RELU, node("pool", "max_pool2d", "relu"), node("b", "conv2d", INPUT), node("clip", "clip", "b"),
        node("cat", "cat", "pool", "clip"), node("flat", "flatten", "cat"),
    )  # fmt: skip
    assert found == {("input",), ("cat", "clip", "flat", "pool", "relu")}


@pytest.mark.parametrize("inputs", [("pool", "b"), ("b", "pool")], ids=" + ".join)
def test_what_comes_from_a_relu_shares_no_scale_with_what_does_not(inputs: tuple[str, str]) -> None:
    """Its quantizer would have levels for negative values, and be no ReLU any more."""
    found = groups(
        CONV, RELU, node("pool", "max_pool2d", "relu"), node("b", "conv2d", INPUT), node("cat", "cat", *inputs),
        node("flat", "flatten", "cat"), node("again", "cat", "flat", "pool"),
    )  # fmt: skip
    assert found == {("input",), ("again", "b", "cat", "flat"), ("pool", "relu")}


def test_scales_are_shared_through_chains() -> None:
    found = groups(
        node("pool", "max_pool2d", INPUT), node("a", "conv2d", "pool"), node("b", "conv2d", "pool"),
        node("low", "cat", "a", "pool"), node("high", "cat", "b", "low"), node("flat", "flatten", "high"),
    )  # fmt: skip
    assert found == {("a", "b", "flat", "high", "input", "low", "pool")}


# --- cuts -----------------------------------------------------------------------------------------------------------


def depthwise(name: str, source: str) -> Node:
    return Node(name, "conv2d", (source,), MAP, {"groups": 4})


def test_cuts_of_a_chain_leave_out_what_an_activation_reads() -> None:
    made = graph(CONV, RELU, node("next", "conv2d", "relu"), node("clip", "clip", "next"), node("fc", "conv2d", "clip"))
    assert cuts(made) == ("relu", "clip")


def test_nothing_passes_by_a_cut() -> None:
    """While `relu` waits for the addition, no value beside it is all there is; the addition is."""
    made = graph(
        CONV, RELU, node("one", "conv2d", "relu"), node("two", "conv2d", "one"), node("add", "add", "relu", "two"),
        node("fc", "conv2d", "add"),
    )  # fmt: skip
    assert cuts(made) == ("relu", "add")


def test_cuts_of_inverted_residuals_leave_out_what_a_depthwise_convolution_reads() -> None:
    made = graph(
        node("expand", "conv2d", INPUT), node("six", "clip", "expand"), depthwise("deep", "six"),
        node("clip", "clip", "deep"), node("project", "conv2d", "clip"),
        node("expand2", "conv2d", "project"), node("six2", "clip", "expand2"), depthwise("deep2", "six2"),
        node("clip2", "clip", "deep2"), node("project2", "conv2d", "clip2"), node("add", "add", "project", "project2"),
        node("head", "conv2d", "add"),
    )  # fmt: skip
    assert cuts(made) == ("clip", "project", "add")


def test_branches_are_cut_where_they_meet() -> None:
    made = graph(
        node("squeeze", "conv2d", INPUT), node("left", "conv2d", "squeeze"), node("right", "conv2d", "squeeze"),
        node("cat", "cat", "left", "right"), node("last", "conv2d", "cat"),
    )  # fmt: skip
    assert cuts(made) == ("squeeze", "cat")


def test_a_value_read_twice_by_one_node_is_cut_once() -> None:
    made = graph(CONV, node("double", "add", "conv", "conv"), node("fc", "conv2d", "double"))
    assert cuts(made) == ("conv", "double")


def test_the_input_read_again_forbids_cuts_until_then() -> None:
    made = graph(CONV, node("one", "conv2d", "conv"), node("add", "add", INPUT, "one"), node("fc", "conv2d", "add"))
    assert cuts(made) == ("add",)


def test_one_layer_has_no_cuts() -> None:
    assert cuts(graph(CONV)) == ()


# --- skips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [("relu", "project"), ("project", "relu")], ids=" + ".join)
def test_a_residual_makes_up_for_its_skip(inputs: tuple[str, str]) -> None:
    made = graph(
        CONV, RELU, node("expand", "conv2d", "relu"), node("clip", "clip", "expand"), node("project", "conv2d", "clip"),
        node("add", "add", *inputs), node("fc", "conv2d", "add"),
    )  # fmt: skip
    assert residual_inputs(made) == {"project": "relu"}


def test_each_block_of_a_chain_of_residuals_has_its_own_skip() -> None:
    made = graph(
        CONV, node("one", "conv2d", "conv"), node("add", "add", "conv", "one"),
        node("two", "conv2d", "add"), node("again", "add", "add", "two"),
    )  # fmt: skip
    assert residual_inputs(made) == {"one": "conv", "two": "add"}


@pytest.mark.parametrize("inputs", [("left", "right"), ("right", "left")], ids=" + ".join)
def test_of_two_layers_that_are_added_the_later_makes_up_for_the_earlier(inputs: tuple[str, str]) -> None:
    made = graph(CONV, node("left", "conv2d", "conv"), node("right", "conv2d", "conv"), node("add", "add", *inputs))
    assert residual_inputs(made) == {"right": "left"}


def test_the_input_may_be_the_skip() -> None:
    conv = Node("conv", "conv2d", (INPUT,), (3, 8, 8))
    assert residual_inputs(graph(conv, Node("add", "add", (INPUT, "conv"), (3, 8, 8)))) == {"conv": INPUT}


def test_what_is_computed_after_the_layer_is_no_skip() -> None:
    """When `conv` is rounded, nobody knows yet what will be wrong with `right`."""
    made = graph(
        CONV, node("other", "conv2d", INPUT), node("right", "relu", "other"), node("add", "add", "conv", "right")
    )
    assert residual_inputs(made) == {}


def test_a_layer_that_something_else_reads_too_makes_up_for_nothing() -> None:
    """What is better for the sum would be wrong there."""
    project, add = node("project", "conv2d", "relu"), node("add", "add", "relu", "project")
    assert residual_inputs(graph(CONV, RELU, project, add, node("pool", "global_avg_pool", "add"))) == {
        "project": "relu"
    }
    assert residual_inputs(graph(CONV, RELU, project, add, node("mul", "mul", "project", "add"))) == {}


def test_a_layer_added_to_itself_makes_up_for_nothing() -> None:
    assert residual_inputs(graph(CONV, node("double", "add", "conv", "conv"), node("fc", "conv2d", "double"))) == {}


def test_an_activation_between_layer_and_sum_forbids_it() -> None:
    made = graph(CONV, node("next", "conv2d", "conv"), node("clip", "clip", "next"), node("add", "add", "conv", "clip"))
    assert residual_inputs(made) == {}


@pytest.mark.parametrize(
    ("skip", "layer"), [((4, 1, 1), MAP), (MAP, (4, 1, 1)), ((1, 8, 8), MAP)], ids=["skip", "layer", "channels"]
)
def test_shapes_that_are_broadcast_are_no_skips(skip: tuple[int, ...], layer: tuple[int, ...]) -> None:
    made = graph(
        Node("early", "conv2d", (INPUT,), skip), Node("late", "conv2d", (INPUT,), layer),
        node("add", "add", "early", "late"),
    )  # fmt: skip
    assert residual_inputs(made) == {}


def test_other_operators_than_additions_have_no_skips() -> None:
    assert residual_inputs(graph(CONV, node("gate", "conv2d", "conv"), node("mul", "mul", "conv", "gate"))) == {}
    assert residual_inputs(graph(CONV, node("more", "conv2d", "conv"), node("cat", "cat", "conv", "more"))) == {}


# --- clips behind clips ---------------------------------------------------------------------------------------------


def clip(name: str, source: str, high: float) -> Node:
    return Node(name, "clip", (source,), MAP, {"max": high})


CLIPS: dict[str, tuple[tuple[Node, ...], tuple[Node, ...]]] = {
    "relu, relu": (
        (CONV, RELU, node("again", "relu", "relu"), node("fc", "conv2d", "again")),
        (CONV, node("again", "relu", "conv"), node("fc", "conv2d", "again")),
    ),
    "relu, clip": ((CONV, RELU, clip("six", "relu", 6.0)), (CONV, clip("six", "conv", 6.0))),
    "clip, relu": ((CONV, clip("six", "conv", 6.0), node("end", "relu", "six")), (CONV, clip("end", "conv", 6.0))),
    "three": (
        (CONV, clip("six", "conv", 6.0), clip("one", "six", 1.0), clip("two", "one", 2.0)),
        (CONV, clip("two", "conv", 1.0)),
    ),
    "of the image": ((node("a", "relu", INPUT), clip("b", "a", 6.0)), (clip("b", INPUT, 6.0),)),
    "read by another, without effect": (
        (CONV, clip("six", "conv", 6.0), node("relu", "relu", "six"), node("add", "add", "six", "relu")),
        (CONV, clip("six", "conv", 6.0), node("add", "add", "six", "six")),
    ),
    "read by another, tighter": (
        (CONV, RELU, clip("six", "relu", 6.0), node("add", "add", "six", "relu")),
        (CONV, RELU, clip("six", "relu", 6.0), node("add", "add", "six", "relu")),
    ),
    "read through another": (
        (
            CONV, RELU, node("b", "relu", "relu"), node("add", "add", "relu", "b"), clip("six", "b", 6.0),
            node("cat", "cat", "add", "six"),
        ),
        (CONV, RELU, node("add", "add", "relu", "relu"), clip("six", "relu", 6.0), node("cat", "cat", "add", "six")),
    ),
    "the output": (
        (CONV, RELU, node("add", "add", "relu", "relu"), node("b", "relu", "add"), node("end", "relu", "b")),
        (CONV, RELU, node("add", "add", "relu", "relu"), node("end", "relu", "add")),
    ),
    "through a pooling": (
        (CONV, RELU, node("pool", "max_pool2d", "relu"), node("b", "relu", "pool")),
        (CONV, RELU, node("pool", "max_pool2d", "relu"), node("b", "relu", "pool")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLIPS)
def test_a_clip_behind_a_clip_is_one(case: str) -> None:
    before, after = CLIPS[case]
    assert merged_clips(graph(*before)).nodes == after


@st.composite
def clipped(draw: st.DrawFn) -> Graph:
    """Clips and sums of any values before them."""
    nodes: list[Node] = []
    for i in range(draw(st.integers(1, 8))):
        sources = [INPUT, *(made.name for made in nodes)]
        first, second = (draw(st.sampled_from(sources[-3:])) for _ in range(2))
        high = draw(st.sampled_from([0.0, 1.0, 2.0, 2.0, 6.0]))
        made = draw(
            st.sampled_from(
                [node(str(i), "relu", first), clip(str(i), first, high), node(str(i), "add", first, second)]
            )
        )
        nodes.append(made)
    return Graph.of_image(MAP, tuple(nodes))


@given(clipped())
def test_merging_clips_changes_no_value_and_every_clip_has_a_range(made: Graph) -> None:
    merged = merged_clips(made)
    x = torch.linspace(-3, 8, 256).reshape(1, *MAP)
    assert torch.equal(Network(merged, {})(x), Network(made, {})(x))
    last = made.nodes[-1].name
    ranged = {name for group in quantizer_groups(graph(*made.nodes, node("fc", "conv2d", last))) for name in group}
    assert {n.name for n in made.nodes if OPS[n.op].clipping and n.name in made.sources([last])} <= ranged


def test_nothing_is_quantized_between_operators_in_float() -> None:
    """Nor around what is moved, pooled or added among them; what a layer or an integer op reads is."""
    island = (
        in_float("a", "abs.default", "conv"),
        node("pool", "avg_pool2d", "a"),
        in_float("b", "sqrt.default", "pool"),
    )
    assert groups(CONV, *island, node("last", "conv2d", "b")) == {(INPUT,), ("conv",), ("b",), ("last",)}
    beside = node("sum", "add", "pool", "conv")
    found = groups(CONV, *island, beside, node("all", "add", "b", "sum"), node("last", "conv2d", "all"))
    assert found == {(INPUT,), ("conv",), ("a",), ("pool",), ("b",), ("sum",), ("all",), ("last",)}


@pytest.mark.parametrize(
    ("end", "logits"),
    [
        ((), "fc"),
        ((in_float("p", "softmax.int", "fc"),), "fc"),
        ((in_float("p", "softmax.int", "fc"), node("one", "slice", "p")), "fc"),
        ((node("flat", "reshape", "fc"), in_float("p", "argmax.default", "flat")), "flat"),
        ((in_float("p", "log_softmax.int", "fc"), in_float("c", "argmax.default", "p")), "fc"),
        ((node("gate", "sigmoid", "fc"),), "fc"),
        ((node("gate", "sigmoid", "fc"), node("mul", "mul", "fc", "gate")), "mul"),
        ((in_float("p", "exp.default", "fc"),), "p"),
        ((node("moved", "slice", "fc"),), "moved"),
        ((Node("one", "reshape", ("fc",), (), {"sizes": []}),), "fc"),
    ],
    ids=["none", "softmax", "part", "argmax", "both", "sigmoid", "gate", "other", "moved", "no dimension"],
)
def test_logits(end: tuple[Node, ...], logits: str) -> None:
    made = graph(CONV, node("fc", "conv2d", "conv"), *end)
    assert made.logits(made.outputs[0].value) == logits
    assert made.answers == (logits,)
    behind = [n.name for n in made.behind_answers()]
    assert behind == [n.name for n in made.nodes][[n.name for n in made.nodes].index(logits) + 1 :]
    assert float_outputs(made) >= set(behind)
    assert not set(behind) & set(cuts(made))


@pytest.mark.parametrize(
    ("dim", "axis"), [(1, 0), (-1, 2), (2, 1), (0, -1), (None, -1), ([3], 2), ([2, 3], -1)], ids=str
)
def test_classes_are_along_the_dimension_of_a_softmax(dim: int | list[int] | None, axis: int) -> None:
    made = graph(CONV, in_float("p", "softmax.int", "conv", **({} if dim is None else {"dim": dim})))
    assert made.class_axis("p") == axis
    assert made.class_axis("conv") == 0
