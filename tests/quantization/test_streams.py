from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import pytest
import torch
from nets import MODULES, float_network, images, quantized
from torch import Tensor, nn

from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import POINT, Network
from edgeq.ir.node import Node
from edgeq.numerics.activations import ActivationRange
from edgeq.packed.activations import ActivationQuantizer
from edgeq.quantization import streams
from edgeq.quantization.streams import Stream, kept_after

BATCHES = [torch.from_numpy(images(3, 1)), torch.from_numpy(images(2, 2))]


def whole(stream: Stream, name: str, batch: int) -> Tensor:
    """A value of all images of a batch."""
    return torch.cat([*stream.parts(name, batch)])


def walk(stream: Stream, graph: Graph) -> dict[str, list[Tensor]]:
    """The inputs that every node reads, at the time when it is its turn, and the output."""
    seen: dict[str, list[Tensor]] = {}
    for node in graph.nodes:
        for name in (*node.inputs, *graph.returned.intersection([node.name])):
            seen[f"{name} for {node.name}"] = [whole(stream, name, i) for i in range(len(stream.sizes))]
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
    seen = walk(Stream(network, {INPUT: BATCHES}, ranges, rounded=True), network.graph)
    for i, x in enumerate(BATCHES):
        expected = directly(network, x, quantizers)
        for read, found in seen.items():
            torch.testing.assert_close(found[i], expected[read.partition(" for ")[0]], rtol=1e-5, atol=1e-5)


def test_values_that_are_not_rounded_are_clipped() -> None:
    network, ranges = float_network("residual"), quantized("residual", "8bit").record.activations
    narrow = {name: ActivationRange.covering(found.low / 3, found.high / 3) for name, found in ranges.items()}
    seen = walk(Stream(network, {INPUT: BATCHES}, narrow, rounded=False), network.graph)
    clips = {name: partial(torch.clamp, min=found.low, max=found.high) for name, found in narrow.items()}
    expected = directly(network, BATCHES[0], clips)
    for read, found in seen.items():
        true = expected[read.partition(" for ")[0]]
        assert (found[0] - true).abs().max() < 2e-3 * true.abs().max()


@pytest.mark.parametrize("name", MODULES)
def test_float_values_are_kept_in_half_precision(name: str) -> None:
    network = float_network(name)
    seen = walk(Stream(network, {INPUT: BATCHES}, {}, rounded=True), network.graph)
    for i, x in enumerate(BATCHES):
        expected = directly(network, x, {})
        for read, found in seen.items():
            true = expected[read.partition(" for ")[0]]
            assert (found[i] - true).abs().max() < 2e-3 * true.abs().max()


@pytest.mark.parametrize("kept", [0, 300])
@pytest.mark.parametrize("name", MODULES)
def test_values_computed_again_are_the_same(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, ranges = float_network(name), quantized(name, "8bit").record.activations
    expected = walk(Stream(network, {INPUT: BATCHES}, ranges, rounded=True), network.graph)
    monkeypatch.setattr(streams, "_KEPT", kept)
    found = walk(Stream(network, {INPUT: BATCHES}, ranges, rounded=True), network.graph)
    for read, values in expected.items():
        torch.testing.assert_close(found[read], values, rtol=1e-5, atol=1e-5)


def test_replaced_layers_are_used_from_then_on() -> None:
    network = float_network("flat")
    stream = Stream(network, {INPUT: BATCHES}, {}, rounded=True)
    doubled = nn.Conv2d(3, 4, 3, 4, 1)
    doubled.load_state_dict({key: 2 * value for key, value in network.layer("conv").state_dict().items()})
    before = whole(stream, "conv", 0)
    with torch.no_grad():
        stream.replace("conv", doubled)
        torch.testing.assert_close(whole(stream, "conv", 0), 2 * before)
        stream.advance(network.graph.nodes[0])
        torch.testing.assert_close(whole(stream, "relu", 0), 2 * before.relu(), rtol=2e-3, atol=1e-3)


def test_inputs_in_half_precision_are_run_in_float() -> None:
    network = float_network("residual")
    halves = [x.half() for x in BATCHES]
    for read, found in walk(Stream(network, {INPUT: halves}, {}, rounded=True), network.graph).items():
        expected = directly(network, halves[0].float(), {})[read.partition(" for ")[0]]
        assert found[0].dtype == torch.float32
        assert (found[0] - expected).abs().max() < 2e-3 * expected.abs().max()


def test_inputs_are_let_go_when_no_layer_needs_them() -> None:
    """The flattened map is kept; before that, it is computed again from the images."""
    network = float_network("flat")
    inputs = [x.clone() for x in BATCHES]
    alive = [weakref.ref(x) for x in inputs]
    stream = Stream(network, {INPUT: inputs}, {}, rounded=True)
    del inputs
    with torch.no_grad():
        for node in network.graph.nodes[:3]:
            assert all(ref() is not None for ref in alive), node.name
            stream.advance(node)
    assert [node.op for node in network.graph.nodes[:3]] == ["conv2d", "relu", "reshape"]
    assert all(ref() is None for ref in alive)


def test_large_maps_are_computed_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first maps have 4 x 4 x 4 values, and the layer behind them, from what is kept, one pixel."""
    network = float_network("flat")
    assert [node.shape for node in network.graph.nodes[:3]] == [(4, 4, 4), (4, 4, 4), (64, 1, 1)]
    stream = Stream(network, {INPUT: BATCHES}, {}, rounded=True)
    monkeypatch.setattr(streams, "_TOGETHER", 3 * 16 * 16)
    assert [len(part) for part in stream.parts("hidden", 0)] == [3]
    monkeypatch.setattr(streams, "_TOGETHER", 2 * 64)
    assert [len(part) for part in stream.parts("hidden", 0)] == [2, 1]
    assert [len(part) for part in stream.parts("hidden", 1)] == [2]
    monkeypatch.setattr(streams, "_TOGETHER", 1)
    assert [len(part) for part in stream.parts("hidden", 0)] == [1, 1, 1]


def test_the_number_of_all_images_counts_for_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 images: of each the flattened map, 64 values, and, while it is read, what the hidden layer makes of it, 10."""
    network = float_network("flat")
    for limit, kept in ((5 * 74, True), (5 * 74 - 1, False)):
        monkeypatch.setattr(streams, "_KEPT", limit)
        stream = Stream(network, {INPUT: BATCHES}, {}, rounded=True)
        with torch.no_grad():
            for node in network.graph.nodes[:3]:
                stream.advance(node)
            first, again = (whole(stream, "hidden.reshape", 0) for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(first, first.half().float()) == kept


def block(name: str, source: str, channels: int) -> list[Node]:
    """A layer that multiplies the channels, one that takes them back, and an addition around both."""
    wide, narrow = f"{name}.wide", f"{name}.narrow"
    return [
        Node(wide, "conv2d", (source,), (channels, 2, 2), POINT),
        Node(narrow, "conv2d", (wide,), (3, 2, 2), POINT),
        Node(name, "add", (source, narrow), (3, 2, 2)),
    ]


RESIDUAL = Graph.of_image((3, 2, 2), (*block("a", INPUT, 6), *block("b", "a", 9), *block("c", "b", 6)))


def test_what_layers_read_is_kept_until_nothing_reads_it() -> None:
    """The narrow maps are only added, so they are not: each is computed once anyhow, for its sum."""
    assert kept_after(RESIDUAL, 1000) == {
        "a.wide": {INPUT, "a.wide"}, "a.narrow": {INPUT, "a.wide"}, "a": {"a"},
        "b.wide": {"a", "b.wide"}, "b.narrow": {"a", "b.wide"}, "b": {"b"},
        "c.wide": {"b", "c.wide"}, "c.narrow": {"b", "c.wide"}, "c": set(),
    }  # fmt: skip


def test_the_largest_maps_are_left_out_first() -> None:
    """While `b` is made, there are `a`, `b.wide` and `b`: 60 values. Without `b.wide`, 36 are enough for the rest."""
    assert kept_after(RESIDUAL, 60) == kept_after(RESIDUAL, 1000)
    less = kept_after(RESIDUAL, 59)
    assert less == kept_after(RESIDUAL, 36)
    assert [less[f"{name}.wide"] for name in "abc"] == [{INPUT, "a.wide"}, {"a"}, {"b", "c.wide"}]
    least = kept_after(RESIDUAL, 35)
    assert least == kept_after(RESIDUAL, 24)
    assert [least[f"{name}.wide"] for name in "abc"] == [{INPUT}, {"a"}, {"b"}]
    assert kept_after(RESIDUAL, 23)["c.narrow"] == {INPUT}


def test_nothing_is_computed_twice_for_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of ten sums reads the one before it twice, which would make a thousand sums."""
    names = [INPUT, *(f"add{i}" for i in range(10))]
    adds = [Node(new, "add", (old, old), (2,)) for old, new in pairwise(names)]
    network = Network(Graph.of_image((2,), tuple(adds)), {})
    runs: list[str] = []
    run = network.run

    def counted(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        runs.append(node.name)
        return run(node, inputs)

    monkeypatch.setattr(network, "run", counted)
    found = whole(Stream(network, {INPUT: [torch.ones(1, 2)]}, {}, rounded=False), "add9", 0)
    assert runs == names[1:]
    assert found.tolist() == [[1024.0, 1024.0]]


def test_values_beyond_half_precision_are_kept_in_float() -> None:
    add, layer = Node("add", "add", (INPUT, INPUT), (1, 1, 1)), Node("layer", "conv2d", ("add",), (1, 1, 1), POINT)
    network = Network(Graph.of_image((1, 1, 1), (add, layer)), {"layer": nn.Conv2d(1, 1, 1)})
    inputs = [torch.full((1, 1, 1, 1), value) for value in (1.0, 59_999.0)]
    stream = Stream(network, {INPUT: inputs}, {}, rounded=False)
    stream.advance(add)
    assert [whole(stream, "add", batch).item() for batch in range(2)] == [2, 2 * 59_999]
