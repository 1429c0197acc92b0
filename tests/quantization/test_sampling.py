"""Samples of a layer: positions, and what counts where an activation clips."""

from __future__ import annotations

from typing import Final

import pytest
import torch
from nets import float_network, images
from torch import nn

from edgeq.ir.graph import INPUT
from edgeq.ir.network import Network
from edgeq.planning.recipe import Effort
from edgeq.quantization import sampling
from edgeq.quantization.sampling import Sampler
from edgeq.quantization.streams import Stream
from edgeq.rounding.moments import by_group, patches, sample_positions
from edgeq.rounding.ridge import Half
from edgeq.system.threads import torch_threads

BY_OUTPUT: Final = Effort(1, 100, 0, by_output=True)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(6, 12, 1, groups=3, bias=False),
        nn.Conv2d(6, 5, 1, bias=False),
    ],
    ids=["strided", "grouped", "1x1"],
)
def test_values_at_positions_are_in_the_order_of_patches(layer: nn.Conv2d) -> None:
    x = torch.randn(3, 6, 9, 7)
    positions = sample_positions(layer, x, 5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = by_group(layer.weight, layer.groups) @ patches(layer, x, positions)
        found = sampling._at(layer(x), positions).reshape(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def sampled(network: Network, name: str, effort: Effort, bits: float = 4) -> tuple[Half, Half]:
    """The moments of a layer over all positions of 16 images."""
    batches = [torch.from_numpy(images(8, seed)) for seed in (1, 2)]
    original, rounded = (Stream(network, {INPUT: batches}, {}, rounded=flag) for flag in (False, True))
    node = next(node for node in network.graph.nodes if node.name == name)
    with torch.inference_mode():
        return Sampler(network, node, effort, bits, torch.Generator().manual_seed(0)).halves(
            original, rounded, [0, 8], 16
        )


def test_where_an_activation_clips_an_output_its_samples_hardly_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each output of the stem, which ReLU6 clips; the batches hold images of both halves in turn."""
    monkeypatch.setattr(sampling, "_MIN_SAMPLES", 10**6)  # all 64 positions of all images
    network = float_network("residual")
    stem = network.convolution("stem.0")
    with torch.inference_mode():
        outputs = [stem(torch.from_numpy(images(8, seed))).movedim(1, 0) for seed in (1, 2)]
    margin = 0.5 * outputs[0].flatten(1).std(1, correction=0)[:, None, None, None]
    counted = [((x >= -margin) & (x <= 6 + margin)).float() * 0.95 + 0.05 for x in outputs]
    assert 0.1 < torch.cat(counted, 1).mean() < 0.9
    for place, half in enumerate(sampled(network, "stem.0", BY_OUTPUT)):
        weights, mine = (torch.cat([x[:, place::2] for x in every], 1).flatten(1) for every in (counted, outputs))
        torch.testing.assert_close(half.own.total, weights.sum(1), rtol=1e-4, atol=1e-2)
        bias = stem.bias
        assert bias is not None
        expected = (weights * mine).sum(1) / weights.sum(1) - bias.detach()
        torch.testing.assert_close(half.target.means()[0][:, 0], expected, rtol=1e-3, atol=1e-3)
        assert half.own.covariance().shape == (8, 27, 27)


def test_layers_that_nothing_clips_or_that_are_large_have_moments_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    network = float_network("residual")
    names = [node.name for node in network.graph.layers]
    assert [len(sampled(network, name, BY_OUTPUT)[0].own.covariance()) for name in names] == [8, 16, 16, 1, 12, 1]
    fast = Effort(1, 100, 0)
    assert [len(sampled(network, name, fast)[0].own.covariance()) for name in names] == [1, 1, 16, 1, 1, 1]
    for bits, expected in ((3, [1, 1, 16, 1, 1, 1]), (2, [8, 16, 16, 1, 12, 1]), (1.33, [8, 16, 16, 1, 12, 1])):
        assert [len(sampled(network, name, fast, bits)[0].own.covariance()) for name in names] == expected
    monkeypatch.setattr(sampling, "_BY_OUTPUT", 8 * 27**2 - 1)
    assert [len(sampled(network, name, BY_OUTPUT)[0].own.covariance()) for name in names] == [1, 16, 16, 1, 12, 1]


@pytest.mark.parametrize("sizes", [[8, 8], [1] * 16, [3, 5, 1, 7], [16]], ids=str)
@pytest.mark.parametrize("bits", [4, 2])
def test_batches_and_threads_change_no_moments(monkeypatch: pytest.MonkeyPatch, sizes: list[int], bits: int) -> None:
    """All positions of every image are sampled; images fall into the halves in turn, whatever batch they are in."""
    monkeypatch.setattr(sampling, "_MIN_SAMPLES", 10**6)
    network, every = float_network("residual"), torch.from_numpy(images(16, 1))
    node = next(node for node in network.graph.nodes if node.name == "stem.0")
    layer = network.convolution(node.name)
    where = torch.cartesian_prod(torch.arange(node.shape[1]), torch.arange(node.shape[2]))
    batches = list(torch.split(every, sizes))
    original, rounded = (Stream(network, {INPUT: batches}, {}, rounded=flag) for flag in (False, True))
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    for threads in (1, 3):
        with torch.inference_mode(), torch_threads(threads):
            sampler = Sampler(network, node, Effort(1, 100, 0), bits, torch.Generator().manual_seed(0))
            halves = sampler.halves(original, rounded, firsts, 16)
        for place, half in enumerate(halves):
            patch = patches(layer, every[place::2], where)
            assert half.own.rows == half.target.rows == patch.shape[2]
            if bits == 4:
                torch.testing.assert_close(half.own.means()[0], patch.mean(2), rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(
                    half.own.covariance()[0], torch.cov(patch[0], correction=0), rtol=1e-3, atol=1e-4
                )
