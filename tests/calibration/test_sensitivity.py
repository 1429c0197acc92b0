"""Damage and its price: one layer worked out by hand, real networks against the divergence that is measured."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from nets import MODULES, SHAPE, Quantized, float_network, images, quantized
from numpy.typing import NDArray
from torch import nn

from edgeq.calibration.sensitivity import Widths, at_every_width, drops, mixed_plans, rounded_network, sensitivities
from edgeq.calibration.statistics import Statistics
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.numerics.weights import BitWidth, QuantLayer, QuantTensor, packed_shape
from edgeq.rounding.layer import ROUNDED, round_alone

BITS = tuple(width.bits for width in ROUNDED)
every_network = pytest.mark.parametrize("name", MODULES)


CLASSES = 12
"""So many that every width takes other bytes: 12, 6, 4 or 3 rows."""

BIAS = np.array([0, 0] + [-1e4] * (CLASSES - 2), np.float32)
"""Leaves all classes but the first two a probability of 0."""


def one_layer(first: float, second: float) -> Network:
    """On an image of ones the logits of the first two classes are `first` and `second`."""
    linear = nn.Linear(12, CLASSES)
    linear.weight.data.zero_()
    linear.weight.data[:2] = torch.tensor([[first], [second]]) / 12
    linear.bias.data = torch.from_numpy(BIAS)
    return trace(nn.Sequential(nn.Flatten(), linear), (3, 2, 2))


def layer_of(first: int, second: int) -> QuantLayer:
    """A layer whose first logits on an image of ones are these, in plain int8 to stand for any width."""
    data = np.zeros((CLASSES, 12), np.uint8)
    data[:2, 0] = [first, second]
    return QuantLayer(QuantTensor(data, (CLASSES, 12, 1, 1), np.ones(CLASSES, np.float32), BitWidth(8)), BIAS)


def ones(count: int) -> Images:
    return Images((np.ones((count, 3, 2, 2), np.float32),))


def sensitivity_of(network: Network, widths: Widths, seen: NDArray[np.float32]) -> dict[str, dict[float, float]]:
    """That of a classifier of one image."""
    return sensitivities(network, network.tasks({}), widths, Images((seen,)), torch.Generator().manual_seed(0))


@cache
def rounded(name: str) -> Widths:
    """The layers of one of `MODULES` at every width."""
    statistics = Statistics(float_network(name), 0)
    with torch.inference_mode():
        for seed in (1, 2, 3, 4):
            statistics.add(*Images.of(float_network(name).graph, images(16, seed)).tensors(float_network(name)))
    return statistics.rounded()


# --- sensitivity --------------------------------------------------------------------------------------------------


def test_sensitivity_by_hand() -> None:
    """Logits (0, 0) become (0, 2): with p = (1/2, 1/2), `d' F d / 2 = p1 p2 2^2 / 2 = 1/2`.

    Where the two random signs are equal, `v = 0`; else `v = +-(1, -1) / sqrt(2)`, and `<v, d>^2 / 2 = 1`.
    """
    network = one_layer(0.0, 0.0)
    name = network.graph.layers[0].name
    widths: Widths = {name: {8: layer_of(0, 0), 2: layer_of(0, 2)}}
    count = 256
    found = sensitivities(network, network.tasks({}), widths, ones(count), torch.Generator().manual_seed(0))[name]
    signs = torch.Generator().manual_seed(0)
    drawn = [torch.randint(0, 2, (1, CLASSES), generator=signs)[0, :2].tolist() for _ in range(count)]
    differ = sum(one != other for one, other in drawn)
    assert found[8] == 0
    assert found[2] == pytest.approx(differ / count)
    assert 0.35 < found[2] < 0.65


def test_a_sure_network_takes_few_images() -> None:
    """With p = (0.99, 0.01) and logits that move apart by d, the squares are d^2 times 0.0079 or 0.0119, never 0."""
    network = one_layer(math.log(99), 0.0)
    name = network.graph.layers[0].name
    widths: Widths = {name: {2: layer_of(6, 0)}}
    step = 6 - math.log(99)
    for seed in range(8):
        found = sensitivities(network, network.tasks({}), widths, ones(1), torch.Generator().manual_seed(seed))[name][2]
        assert 0.0078 < found * 2 / step**2 < 0.0120
    many = sensitivities(network, network.tasks({}), widths, ones(256), torch.Generator().manual_seed(0))[name][2]
    assert many * 2 / step**2 == pytest.approx(0.99 * 0.01, rel=0.05)


@every_network
def test_sensitivity_is_the_divergence_of_small_changes(name: str) -> None:
    network, widths, seen = float_network(name), rounded(name), images(400, 9)
    found = sensitivity_of(network, widths, seen)
    x = torch.from_numpy(seen)
    with torch.inference_mode():
        before = network(x).double().log_softmax(1)
        for layer, at in widths.items():
            after = rounded_network(network, {layer: at[4]})(x).double().log_softmax(1)
            measured = float((before.exp() * (before - after)).sum(1).mean())
            assert found[layer][4] == pytest.approx(measured, rel=0.4), layer


@every_network
def test_sensitivity_falls_with_width(name: str) -> None:
    found = sensitivity_of(float_network(name), rounded(name), images(100, 9))
    eight, four, two, one = (sum(at[bits] for at in found.values()) for bits in BITS)
    assert eight * 50 < four < two < one
    for layer, at in found.items():
        shape = tuple(float_network(name).weight_and_bias(layer)[0].shape)
        rows = {bits: packed_shape(shape, BitWidth(bits))[0] for bits in BITS}
        assert at[8] * 20 < at[4], layer
        assert all(at[4] < at[bits] for bits in (2, 1) if rows[bits] < rows[4]), layer


def test_the_network_is_left_as_it_was() -> None:
    network = float_network("residual")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    sensitivity_of(network, rounded("residual"), images(2))
    assert not any(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_layer_that_reaches_no_answer_does_no_sensitivity() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dead, self.alive = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
            self.dead.bias = nn.Parameter(torch.full((2,), -1e3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = (self.alive(x) + self.dead(x).relu()).mean((2, 3))
            return y

    network = trace(Dead(), SHAPE)
    statistics = Statistics(network, 0)
    with torch.inference_mode():
        statistics.add(*Images.of(network.graph, images(8)).tensors(network))
    found = sensitivity_of(network, statistics.rounded(), images(8))
    assert found["dead"] == dict.fromkeys(BITS, 0.0)
    assert found["alive"][2] > 0


# --- rounding -----------------------------------------------------------------------------------------------------


@every_network
def test_rounded_layers_keep_the_mean_output(name: str) -> None:
    """The bias makes up for the mean of the error, up to float16."""
    network, seen = float_network(name), np.concatenate([images(16, seed) for seed in (1, 2, 3, 4)])
    node = network.graph.layers[0]
    statistics = Statistics(network, 0)
    with torch.inference_mode():
        statistics.add(*Images.of(network.graph, seen).tensors(network))
    mean = statistics.moments[node.name].means()[0].reshape(-1)
    weight, bias = network.weight_and_bias(node.name)
    for layer in round_alone(network, node, statistics.moments[node.name]).values():
        change = torch.from_numpy(layer.weight.dequantize()) - weight
        moved = change.reshape(len(weight), -1) @ mean + torch.from_numpy(layer.bias) - bias
        torch.testing.assert_close(moved, torch.zeros_like(moved), rtol=0, atol=2e-3)


def test_a_rounded_network_computes_with_the_decoded_weights() -> None:
    made: Quantized = quantized("residual", "4bit")
    network = rounded_network(made.network, made.layers)
    node = made.network.graph.layers[0]
    weight, bias = network.weight_and_bias(node.name)
    np.testing.assert_array_equal(weight.numpy(), made.layers[node.name].weight.dequantize())
    np.testing.assert_array_equal(bias.numpy(), made.layers[node.name].bias)


def test_sensitivity_at_widths_that_are_not_tried() -> None:
    """Three weights a byte take 8/3 bits, a third of the way from 2 to 4; five 1.6, six 4/3."""
    found = at_every_width({8: 0.0, 4: 1.0, 2: 8.0, 1: 64.0})
    assert list(found) == [8, 4, 3, 2, 1.6, 1.33, 1]
    assert list(found.values()) == pytest.approx([0, 1, 4, 8, 8 * 8**0.4, 32, 64])
    assert at_every_width({8: 0.0, 4: 0.0, 2: 0.5, 1: 1.0})[3] == 0


# --- what sensitivity costs ---------------------------------------------------------------------------------------


def test_drops_by_hand() -> None:
    """p = (3/4, 1/4); at 2 bits the answer flips, which loses 3/4 - 1/4, and at 1 bit it does not: no less is lost."""
    network = one_layer(math.log(3), 0.0)
    name = network.graph.layers[0].name
    answers = dict.fromkeys(BITS, (1, 0)) | {2: (0, 1)}
    widths = {name: {bits: layer_of(*logits) for bits, logits in answers.items()}}
    sensitivity = {name: dict(zip(BITS, (0.0, 0.1, 0.2, 0.4), strict=True))}
    found = drops(network, network.tasks({}), widths, sensitivity, ones(3))
    assert found[0] == (0, 0)
    assert [sensitivity for sensitivity, _ in found] == [0, 0.1, 0.2, 0.4]
    assert [drop for _, drop in found] == pytest.approx([0, 0, 50, 50])


def test_no_sensitivity_costs_nothing() -> None:
    network = one_layer(1.0, 0.0)
    name = network.graph.layers[0].name
    widths = {name: {bits: layer_of(1, 0) for bits in BITS}}
    assert drops(network, network.tasks({}), widths, {name: dict.fromkeys(BITS, 0.0)}, ones(1)) == ((0.0, 0.0),)


def coarsest(widths: Widths, sensitivity: dict[str, dict[float, float]]) -> dict[str, float]:
    """1 bit, or more where the outputs take no more rows of bytes so: four fill one at 2 and at 1 bits."""
    made = {}
    for name, at in widths.items():
        sizes = {bits: at[bits].weight.data.size for bits in BITS}
        made[name] = min((bits for bits in BITS if sizes[bits] == sizes[1]), key=sensitivity[name].__getitem__)
    return made


@every_network
def test_drops_rise(name: str) -> None:
    network, widths = float_network(name), rounded(name)
    sensitivity = sensitivity_of(network, widths, images(50, 9))
    found = drops(network, network.tasks({}), widths, sensitivity, Images((images(50, 9),)))
    assert found[0] == (0.0, 0.0)
    assert all(a < c and b <= d for (a, b), (c, d) in pairwise(found))
    assert found[-1][0] == pytest.approx(
        sum(sensitivity[name][bits] for name, bits in coarsest(widths, sensitivity).items())
    )


def test_mixed_plans_go_from_fine_to_coarse() -> None:
    made = rounded("residual")
    sensitivity = sensitivity_of(float_network("residual"), made, images(50, 9))
    plans = mixed_plans(made, sensitivity)
    sums = [sum(sensitivity[name][bits] for name, bits in plan.items()) for plan in plans]
    assert sums == sorted(set(sums))
    assert plans[-1] == coarsest(made, sensitivity)
    assert set(plans[-1].values()) == {1}
    assert 8 in plans[0].values()
    assert sums[0] < sums[-1] / 500
