from __future__ import annotations

import pytest
import torch
from nets import float_network, images
from torch import nn

from edgeq.errors import ArtifactError, DataError
from edgeq.ir.graph import INPUT, Graph, Input, Output
from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.ir.ops.registry import OPS
from edgeq.tasks import Channels

GEOMETRY = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
CONV = Node("conv", "conv2d", (INPUT,), (1, 2, 2), GEOMETRY)


def test_missing_layer() -> None:
    with pytest.raises(ArtifactError, match=r"^layer conv: its weights are missing$"):
        Network(Graph.of_image((1, 2, 2), (CONV,)), {})


def test_known_values() -> None:
    nodes = (
        CONV,
        Node("add", "add", ("conv", INPUT), (1, 2, 2)),
        Node("clip", "clip", ("add",), (1, 2, 2), {"max": 6.0}),
    )
    layer = float_layer(CONV, torch.full((1, 1, 1, 1), 2.0), torch.tensor([1.0]))
    network = Network(Graph.of_image((1, 2, 2), nodes), {"conv": layer})
    assert network(torch.tensor([[[[-1.0, 0.0], [1.0, 3.0]]]])).tolist() == [[[[0.0, 1.0], [4.0, 6.0]]]]


def several() -> Network:
    """Of `x` and `y` the sum, their product behind a softmax, and `y` itself."""
    softmax = {"operator": "softmax.int", "reads": ["self"], "arguments": {"dim": 1}, "tensors": []}
    nodes = (
        Node("sum", "add", ("x", "y"), (2,)),
        Node("product", "mul", ("x", "y"), (2,)),
        Node("p", "float", ("product",), (2,), softmax),
    )
    outputs = Output("sum", "sum", "regression"), Output("p", "p", "classification"), Output("same", "y", "regression")
    graph = Graph((Input("first", "x", (2,)), Input("second", "y", (2,))), nodes, outputs)
    return Network(graph, {"p": FloatOperator("softmax.int", ["self"], {"dim": 1}, {})})


X, Y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])


def test_several_inputs_and_outputs() -> None:
    network = several()
    total, p, same = network(X, Y)
    assert total.tolist() == [[4.0, 6.0]]
    torch.testing.assert_close(p, torch.tensor([[3.0, 8.0]]).softmax(1))
    assert torch.equal(same, Y)
    total, logits, same = network.answers([X, Y])
    assert (total.tolist(), logits.tolist(), same.tolist()) == ([[4.0, 6.0]], [[3.0, 8.0]], [[3.0, 4.0]])
    assert network.values([X, Y], ["product"]).keys() == {"product"}
    with pytest.raises(DataError, match=r"^expected the inputs first, second, found 1$"):
        network(X)


def test_tasks_of_several_outputs() -> None:
    tasks = several().tasks({"sum": Channels((0,), (2.0, 4.0)), "same": Channels((0,), (1.0, 0.5))})
    total, logits, same = tasks.answers(several().answers([X, Y]))
    assert (total.tolist(), logits.tolist(), same.tolist()) == ([[2.0, 1.5]], [[3.0, 8.0]], [[3.0, 8.0]])
    with pytest.raises(ArtifactError, match=r"^expected 2 positive units for an output \[2\], found 3; calibrate"):
        several().tasks({"sum": Channels((0,), (2.0, 4.0, 1.0))})


def test_known_values_of_what_passes_insert() -> None:
    def made(op: str, x: torch.Tensor, **attrs: object) -> list[object]:
        run = OPS[op].run
        assert run is not None
        found: list[object] = run([x], attrs).tolist()
        return found

    assert made("to_codes", torch.tensor([-9.0, 0.25, 0.75, 1.0, 99.0]), scale=0.5, zero_point=3) == [0, 3, 5, 5, 201]
    codes = torch.tensor([0, 3, 7, 255], dtype=torch.uint8)
    assert made("clip_codes", codes, max=7) == [0, 3, 7, 7]
    assert made("dequantize", codes, scale=0.5, zero_point=3) == [-1.5, 0.0, 2.0, 126.0]
    image = torch.tensor([[[[0, 51], [102, 153]]]], dtype=torch.uint8)  # a row of two pixels of two channels
    fifths = torch.tensor(made("read_pixels", image)) * 5
    assert fifths.round(decimals=5).tolist() == [[[[0.0, 2.0]], [[1.0, 3.0]]]]
    fifths = torch.tensor(made("read_pixels", image, view=[1, 1, 4])) * 5
    assert fifths.round(decimals=5).tolist() == [[[[0.0]], [[1.0]], [[2.0]], [[3.0]]]]
    bordered = made("pixel_border", image[:, :, :1], pads=[0, 1, 1, 0], values=[7, 8])
    assert bordered == [[[[7, 8], [0, 51]], [[7, 8], [7, 8]]]]
    grouped = torch.arange(4.0).reshape(1, 4, 1, 1)
    assert made("regroup_columns", grouped, view=[1, 2, 2]) == [[[[0.0, 2.0]], [[1.0, 3.0]]]]


def test_layers_are_found_by_names_with_dots() -> None:
    network = float_network("residual")
    layer = network.layer("block.3")
    assert isinstance(layer, nn.Conv2d)
    weight, bias = network.weight_and_bias("block.3")
    assert torch.equal(weight, layer.weight)
    assert weight.shape == (16, 1, 3, 3)
    assert bias.shape == (16,)


def test_values_are_freed_after_their_last_reader() -> None:
    network = float_network("residual")
    freed = {node.name: sorted(network.last_reads(node)) for node in network.graph.nodes}
    assert freed["block.0"] == []  # the residual addition still reads the stem
    assert freed["add"] == ["block.6", "stem.2.clip"]
    assert sorted(name for names in freed.values() for name in names) == sorted(
        [INPUT, *(node.name for node in network.graph.nodes[:-1])]
    )


def test_float_layer_copies_and_fills_in_a_bias() -> None:
    weight = torch.ones(1, 1, 1, 1)
    layer = float_layer(CONV, weight, None)
    weight.zero_()
    assert layer.state_dict() == {"weight": torch.ones(1, 1, 1, 1), "bias": torch.zeros(1)}


@pytest.mark.parametrize("name", ["residual", "flat"])
def test_each_image_of_a_batch_is_computed_alone(name: str) -> None:
    network = float_network(name)
    x = torch.from_numpy(images(3, 4))
    torch.testing.assert_close(torch.cat([network(one[None]) for one in x]), network(x), rtol=1e-5, atol=1e-6)
