from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from nets import MODULES, float_network, images, quantized
from torch import Tensor, nn

from edgeq import streams
from edgeq.activations import ActivationQuantizer
from edgeq.graph import INPUT, Graph, Node
from edgeq.network import Network
from edgeq.quantize import ActivationRange
from edgeq.streams import Stream

BATCHES = [torch.from_numpy(images(3, 1)), torch.from_numpy(images(2, 2))]


def walk(stream: Stream, graph: Graph) -> dict[str, list[Tensor]]:
    """The inputs that every node reads, at the time when it is its turn, and the output."""
    seen: dict[str, list[Tensor]] = {}
    for node in graph.nodes:
        for name in (*node.inputs, *([node.name] if node.name == graph.output else [])):
            seen[f"{name} for {node.name}"] = [stream.value(name, i) for i in range(stream.batches)]
        stream.advance(node)
    return seen


def directly(network: Network, x: Tensor, storage: Mapping[str, Callable[[Tensor], Tensor]]) -> dict[str, Tensor]:
    """All values of a network, each as it is stored."""

    def stored(name: str, value: Tensor) -> Tensor:
        return storage[name](value) if name in storage else value

    values = {INPUT: stored(INPUT, x)}
    for node in network.graph.nodes:
        values[node.name] = stored(node.name, network.run(node, [values[name] for name in node.inputs]))
    return values


@pytest.mark.parametrize("name", MODULES)
def test_quantized_values_are_those_of_the_network(name: str) -> None:
    ranges = quantized(name, "8bit").record.activations
    network = float_network(name)
    quantizers = {key: ActivationQuantizer(found.scale, found.zero_point) for key, found in ranges.items()}
    seen = walk(Stream(network, BATCHES, ranges, rounded=True), network.graph)
    for i, x in enumerate(BATCHES):
        expected = directly(network, x, quantizers)
        for read, found in seen.items():
            torch.testing.assert_close(found[i], expected[read.partition(" for ")[0]], rtol=1e-5, atol=1e-5)


def test_values_that_are_not_rounded_are_clipped() -> None:
    network, ranges = float_network("residual"), quantized("residual", "8bit").record.activations
    narrow = {name: ActivationRange.covering(found.low / 3, found.high / 3) for name, found in ranges.items()}
    seen = walk(Stream(network, BATCHES, narrow, rounded=False), network.graph)
    clips = {name: partial(torch.clamp, min=found.low, max=found.high) for name, found in narrow.items()}
    expected = directly(network, BATCHES[0], clips)
    for read, found in seen.items():
        true = expected[read.partition(" for ")[0]]
        assert (found[0] - true).abs().max() < 2e-3 * true.abs().max()


@pytest.mark.parametrize("name", MODULES)
def test_float_values_are_kept_in_half_precision(name: str) -> None:
    network = float_network(name)
    seen = walk(Stream(network, BATCHES, {}, rounded=True), network.graph)
    for i, x in enumerate(BATCHES):
        expected = directly(network, x, {})
        for read, found in seen.items():
            true = expected[read.partition(" for ")[0]]
            assert (found[i] - true).abs().max() < 2e-3 * true.abs().max()


@pytest.mark.parametrize("kept", [0, 300])
@pytest.mark.parametrize("name", MODULES)
def test_values_computed_again_are_the_same(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, ranges = float_network(name), quantized(name, "8bit").record.activations
    expected = walk(Stream(network, BATCHES, ranges, rounded=True), network.graph)
    monkeypatch.setattr(streams, "_KEPT", kept)
    found = walk(Stream(network, BATCHES, ranges, rounded=True), network.graph)
    for read, values in expected.items():
        assert all(torch.equal(a, b) for a, b in zip(found[read], values, strict=True))


def test_replaced_layers_are_used_from_then_on() -> None:
    network = float_network("flat")
    stream = Stream(network, BATCHES, {}, rounded=True)
    doubled = nn.Conv2d(3, 4, 3, 4, 1)
    doubled.load_state_dict({key: 2 * value for key, value in network.layer("conv").state_dict().items()})
    before = stream.value("conv", 0)
    with torch.no_grad():
        stream.replace("conv", doubled)
        torch.testing.assert_close(stream.value("conv", 0), 2 * before)
        stream.advance(network.graph.nodes[0])
        torch.testing.assert_close(stream.value("relu", 0), 2 * before.relu(), rtol=2e-3, atol=1e-3)


def test_inputs_in_half_precision_are_run_in_float() -> None:
    network = float_network("residual")
    halves = [x.half() for x in BATCHES]
    for read, found in walk(Stream(network, halves, {}, rounded=True), network.graph).items():
        expected = directly(network, halves[0].float(), {})[read.partition(" for ")[0]]
        assert found[0].dtype == torch.float32
        assert (found[0] - expected).abs().max() < 2e-3 * expected.abs().max()


def test_inputs_are_let_go_when_no_layer_needs_them() -> None:
    """The ReLU is kept; before that, its input is computed again from the images."""
    network = float_network("flat")
    inputs = [x.clone() for x in BATCHES]
    alive = [weakref.ref(x) for x in inputs]
    stream = Stream(network, inputs, {}, rounded=True)
    del inputs
    with torch.no_grad():
        for node in network.graph.nodes[:2]:
            assert all(ref() is not None for ref in alive), node.name
            stream.advance(node)
    assert [node.name for node in network.graph.nodes[:2]] == ["conv", "relu"]
    assert all(ref() is None for ref in alive)


def test_large_maps_are_not_kept_but_for_the_number_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 images: of the stem 8 x 16 x 16 values each, after the pooling 8 x 8 x 8."""
    network = float_network("fire")
    for limit, kept in ((5 * 2048, True), (5 * 2048 - 1, False)):
        monkeypatch.setattr(streams, "_KEPT", limit)
        stream = Stream(network, BATCHES, {}, rounded=True)
        with torch.no_grad():
            for node in network.graph.nodes[:2]:
                stream.advance(node)
            first, again = (stream.value("relu", 0) for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(first, first.half().float()) == kept


def test_values_beyond_half_precision_are_kept_in_float() -> None:
    add = Node("add", "add", (INPUT, INPUT), (1, 1, 1))
    network = Network(Graph((1, 1, 1), (add, Node("relu", "relu", ("add",), (1, 1, 1)))), {})
    stream = Stream(network, [torch.full((1, 1, 1, 1), 59_999.0)], {}, rounded=False)
    stream.advance(add)
    assert stream.value("relu", 0).item() == pytest.approx(2 * 59_999, rel=1e-3)
