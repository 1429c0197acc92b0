"""Ranges of activations by what clipping and rounding do to the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from nets import MODULES, SHAPE, float_network, images, quantized
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.observers import OBSERVERS, Histogram
from edgeq.calibration.ranges import RangeChoice, least_divergence, off_halves
from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.analysis import quantizer_groups
from edgeq.ir.batches import Images
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import POINT, Network, float_layer
from edgeq.ir.node import Node
from edgeq.numerics.activations import ActivationRange

CALIBRATED, HELD_OUT = images(160, 1), images(100, 2)


def one_layer(weight: list[list[float]]) -> Network:
    """Logits `weight @ x` of an input `x`, by a convolution over one pixel."""
    inputs, out = len(weight[0]), len(weight)
    pixel = Node("pixel", "reshape", (INPUT,), (inputs, 1, 1), {"sizes": [inputs, 1, 1]})
    mixed = Node("mixed", "conv2d", ("pixel",), (out, 1, 1), POINT)
    graph = Graph.of_image((inputs,), (pixel, mixed, Node("logits", "flatten", ("mixed",), (out,))))
    return Network(graph, {"mixed": float_layer(mixed, torch.tensor(weight)[:, :, None, None], None)})


def seen(network: Network, inputs: NDArray[np.float32]) -> dict[str, Histogram]:
    """Histograms of all values, those of the input as a calibration leaves them."""
    histograms = {name: Histogram() for group in quantizer_groups(network.graph) for name in group}
    for found in histograms.values():
        found.add(torch.from_numpy(inputs))
    return histograms


def of_seed(network: Network, inputs: NDArray[np.float32], seed: int) -> dict[str, ActivationRange]:
    generator = torch.Generator().manual_seed(seed)
    return least_divergence(network, network.tasks({}), seen(network, inputs), Images((inputs,)), generator)


def chosen(network: Network, inputs: NDArray[np.float32]) -> dict[str, ActivationRange]:
    return of_seed(network, inputs, 0)


def with_outliers(place: int) -> NDArray[np.float32]:
    """Two numbers between -1 and 1 each; in every fourth image, one of them is 100 times as large."""
    inputs = np.random.default_rng(0).uniform(-1, 1, (40, 2)).astype(np.float32)
    inputs[::4, place] *= 100
    return inputs


def test_outliers_on_which_no_answer_depends_are_clipped() -> None:
    inputs = with_outliers(1)
    found = chosen(one_layer([[1.0, 0.0], [-1.0, 0.0]]), inputs)[INPUT]
    assert found.high == pytest.approx(inputs.max() / 16, rel=0.02)
    assert found.low == pytest.approx(inputs.min() / 16, rel=0.02)


def test_outliers_that_answers_depend_on_are_not() -> None:
    """The weights are so small that no answer is certain, whatever the input."""
    inputs = with_outliers(1)
    found = chosen(one_layer([[0.0, 0.01], [0.0, -0.01]]), inputs)[INPUT]
    assert found.high > 0.7 * inputs.max()
    assert found.low < 0.7 * inputs.min()


def test_a_side_where_there_is_nothing_is_not_covered() -> None:
    found = chosen(one_layer([[1.0, 1.0], [-1.0, 0.5]]), abs(with_outliers(0)))[INPUT]
    assert (found.low, found.zero_point) == (0.0, 0)


def test_clipping_and_rounding_are_weighed_as_computed_by_hand() -> None:
    """One image, inputs 0.5 and 8; logits `s` and `-s` with `s = 0.001 (x + w y)`, so the classes are as good as even.

    Then `g` is 0.001 for `x` and `0.001 w` for `y`. To cover `h` of the 8 does `(w (8 - h))^2 / 2` by clipping and
    `(1 + w^2) (h / 255)^2 / 24` by rounding, in units of `g^2`. At w = 0.02 the first is 3e-4 already for the next
    lower end, 6.73, the second 4e-5 for 8. At w = 1e-5 clipping at the lowest end, 0.5, does 3e-9, rounding there 2e-7.
    """
    for w, covered in ((0.02, 8.0), (1e-5, 0.5)):
        found = chosen(one_layer([[1e-3, 1e-3 * w], [-1e-3, -1e-3 * w]]), np.array([[0.5, 8.0]], np.float32))[INPUT]
        assert found.high == pytest.approx(covered, rel=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_one_outlier_that_decides_is_not_clipped_by_bad_luck(seed: int) -> None:
    """Of two classes that share all probability, random signs alone would not see the error in every other image."""
    inputs = np.random.default_rng(0).uniform(0, 1, (20, 1)).astype(np.float32)
    inputs[7] = 20
    network = one_layer([[0.1], [-0.1]])
    found = of_seed(network, inputs, seed)
    assert found[INPUT].high == pytest.approx(20, rel=1e-6)


def test_what_is_only_moved_has_no_error_of_its_own() -> None:
    """An input seen as one pixel has the range of the input alone."""
    moved, inputs = one_layer([[1.0, 0.3], [-1.0, 0.1]]), with_outliers(1)
    mixed = replace(moved.graph.nodes[1], inputs=(INPUT,))
    alone = moved.with_graph(Graph.of_image((2, 1, 1), (mixed, moved.graph.nodes[2])))
    found, expected = chosen(moved, inputs), chosen(alone, inputs[:, :, None, None])
    assert found["pixel"] == found[INPUT] == expected[INPUT]


def test_what_answers_are_moved_from_is_not_clipped() -> None:
    """The third class never has a chance, and its logit is far below the others'."""
    weight = [[1.0, 0.0], [-1.0, 0.0], [-100.0, -100.0]]
    network = one_layer(weight)
    assert chosen(network, abs(with_outliers(1))).keys() == {INPUT, "pixel"}
    record = calibrate(network, [abs(with_outliers(1))])
    assert record.activations["mixed"].low == pytest.approx(record.outputs[0].low, rel=0.02)


def divergence(network: Network, ranges: Mapping[str, ActivationRange]) -> float:
    """Mean KL divergence of the class probabilities on held-out images, activations rounded, in nats."""
    expected, rounded = (outputs.log_softmax(1) for outputs in _outputs(network, ranges))
    return float((expected.exp() * (expected - rounded)).sum(1).mean())


def _outputs(network: Network, ranges: Mapping[str, ActivationRange]) -> tuple[Tensor, Tensor]:
    """The output for held-out images, float64, in float and with all other activations rounded."""
    found = []
    (output,) = network.graph.outputs
    with torch.inference_mode():
        for rounded in (False, True):
            values = {INPUT: torch.from_numpy(HELD_OUT)}
            for node in (None, *network.graph.nodes):
                name = node.name if node else INPUT
                if node:
                    values[name] = network.run(node, [values[source] for source in node.inputs])
                if rounded and name in ranges and name != output.value:
                    chosen = ranges[name]
                    codes = (values[name] / chosen.scale).round() + chosen.zero_point
                    values[name] = (codes.clamp(0, 255) - chosen.zero_point) * chosen.scale
            found.append(values[output.value].double())
    expected, quantized = found
    return expected, quantized


@pytest.mark.parametrize("name", MODULES)
def test_no_observer_does_much_less_sensitivity_on_other_images(name: str) -> None:
    """Here all do well: what is random has no outliers to speak of."""
    network = float_network(name)
    choices: tuple[RangeChoice, ...] = ("damage", *OBSERVERS)
    ours, *theirs = (divergence(network, calibrate(network, [CALIBRATED], choice).activations) for choice in choices)
    assert ours < 1.3 * min(theirs)


@pytest.mark.parametrize("name", MODULES)
def test_values_that_share_a_quantizer_have_one_range_and_nothing_of_the_output_is_clipped(name: str) -> None:
    network = float_network(name)
    found = calibrate(network, [CALIBRATED]).activations
    for group in quantizer_groups(network.graph):
        assert len({found[member] for member in group}) == 1
    with torch.inference_mode():
        logits = network(torch.from_numpy(CALIBRATED))
    if name != "fire":  # which returns averages; the map before them may be clipped
        last = found[network.graph.layers[-1].name]
        assert last.high > float(logits.max()) - last.scale
        assert last.low < float(logits.min()) + last.scale


class UNet(nn.Module):
    """Two levels down and up again with skips, and an output of any sign."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 6), _block(6, 12), _block(12, 24)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(12, 6, 2, 2), nn.ConvTranspose2d(24, 12, 2, 2)])
        self.joined = nn.ModuleList([_block(12, 6), _block(24, 12)])
        self.last = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down[0](x)
        middle = self.down[1](nn.functional.max_pool2d(fine, 2))
        x = self.up[1](self.down[2](nn.functional.max_pool2d(middle, 2)))
        x = self.up[0](self.joined[1](torch.cat([middle, x], 1)))
        found: Tensor = self.last(self.joined[0](torch.cat([fine, x], 1)))
        return found


def _block(inner: int, outer: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(),
        nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(),
    )  # fmt: skip


def _as_trained(module: nn.Module) -> nn.Module:
    """Random weights, and the batch norms' statistics of images, with scales as unlike each other as trained ones."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            nn.init.uniform_(part.weight, 0.2, 2)
            nn.init.normal_(part.bias, 0, 0.5)
    with torch.no_grad():
        module.train()(torch.from_numpy(images(64, 3)))
    return module.eval()


@pytest.mark.parametrize("count", [16, 96])
def test_a_regression_through_skips_loses_nothing_against_the_extremes(count: int) -> None:
    """Ranges by what they do to the answers once gave such a network 9 dB, where those of the extremes gave 28.

    Here both give about 25 dB or more; CPUs differ by a dB or two.
    """
    network = trace(_as_trained(UNet()), SHAPE)
    (output,) = network.graph.outputs
    assert output.task == "regression"
    found = []
    for observer in cast(tuple[RangeChoice, ...], ("damage", "minmax")):
        ranges = calibrate(network, [images(count, 1)], observer).activations
        expected, rounded = _outputs(network, ranges)
        noise = float((rounded - expected).square().mean())
        found.append(10 * np.log10(float(expected.square().mean()) / noise))
    damage, minmax = found
    assert damage > minmax - 1
    assert damage > 20


def test_an_unknown_observer_is_found_before_the_images_are_read() -> None:
    with pytest.raises(UnsupportedError, match=r"^unknown observer 'max'; expected one of damage, minmax, percentile"):
        calibrate(float_network("flat"), [], cast(RangeChoice, "max"))


# --- inputs that lie halfway between steps --------------------------------------------------------------------------


def normalized(mean: float, std: float) -> Images:
    """All 256 values of a pixel."""
    values = (np.arange(256, dtype=np.float32) / 255 - mean) / std
    return Images((np.broadcast_to(values.reshape(1, 1, 16, 16), (1, *SHAPE)),))


def test_pixels_of_minus_one_to_one_keep_their_eight_bits() -> None:
    """By their own range every pixel is off by half a step."""
    network, seen = float_network("residual"), normalized(0.5, 0.5)
    ranges = {**quantized("residual", "8bit").record.activations, INPUT: ActivationRange.covering(-1.0, 1.0)}
    (values,) = seen.arrays
    inside = values[(values > -0.99) & (values < 0.99)] / np.float32(ranges[INPUT].scale)
    assert np.abs(np.abs(inside - np.rint(inside)) - 0.5).max() < 1e-4
    found = off_halves(network.graph, seen, ranges)
    assert {name: by for name, by in found.items() if name != INPUT} == {n: r for n, r in ranges.items() if n != INPUT}
    assert 1 < found[INPUT].scale / ranges[INPUT].scale < 1 + 9 / 255
    steps = values / np.float32(found[INPUT].scale)
    assert np.square(steps - np.rint(steps)).mean() < 1.1 / 12


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.485, 0.229), (0.25, 0.7)], ids=["0..1", "ImageNet", "others"])
def test_other_pixels_stay_as_they_are(mean: float, std: float) -> None:
    network, seen = float_network("residual"), normalized(mean, std)
    (values,) = seen.arrays
    fitting = ActivationRange.covering(float(values.min()), float(values.max()))
    ranges = {**quantized("residual", "8bit").record.activations, INPUT: fitting}
    assert off_halves(network.graph, seen, ranges) == ranges
