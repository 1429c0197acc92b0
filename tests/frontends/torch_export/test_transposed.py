"""Transposed convolutions as convolutions of phases: any parameters, by hand, and with what is around them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import assert_same, ops, randomized
from torch import nn

from edgeq.frontends.torch_export.trace import trace
from edgeq.frontends.torch_export.transposed import phases


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), groups=st.integers(1, 3), channels=pairs(1, 2), seed=st.integers(0, 99))
def test_any_transposed_convolution(data: st.DataObject, groups: int, channels: tuple[int, int], seed: int) -> None:
    size, kernel, stride = data.draw(pairs(1, 6)), data.draw(pairs(1, 5)), data.draw(pairs(1, 4))
    padding, dilation, extra = data.draw(pairs(0, 4)), data.draw(pairs(1, 3)), data.draw(pairs(0, 3))
    extra = min(extra[0], max(stride[0], dilation[0]) - 1), min(extra[1], max(stride[1], dilation[1]) - 1)
    axes = zip(size, kernel, stride, padding, dilation, extra, strict=True)
    assume(all((n - 1) * s - 2 * p + d * (k - 1) + e + 1 > 0 for n, k, s, p, d, e in axes))
    torch.manual_seed(seed)
    inputs, out = (count * groups for count in channels)
    module = nn.ConvTranspose2d(inputs, out, kernel, stride, padding, extra, groups, data.draw(st.booleans()), dilation)
    shape = (inputs, *size)
    network = trace(module, shape)
    assert {node.op for node in network.graph.nodes} <= {"conv2d", "depth_to_space", "slice", "gather"}
    assert_same(module, network, shape)


@settings(max_examples=15, deadline=None)
@given(kernel=st.integers(1, 5), stride=st.integers(1, 4), padding=st.integers(0, 2), groups=st.sampled_from([1, 4]))
def test_any_transposed_convolution_over_rows(kernel: int, stride: int, padding: int, groups: int) -> None:
    module = nn.ConvTranspose1d(4, 8, kernel, stride, padding, groups=groups)
    assert_same(module, trace(module, (4, 9)), (4, 9))


@pytest.mark.parametrize(
    ("arguments", "taps", "padding", "rows", "start"),
    [
        # Doubled, each input by itself: 4 rows become 8.
        ((4, 8, 2, 2, 0), [[0], [1]], 0, 4, 0),
        # y[2 q + r - 1] = w[r] x[q] + w[r + 2] x[q - 1]: one row too many in front, and one behind.
        ((4, 8, 4, 2, 1), [[2, 0], [3, 1]], 1, 5, 1),
        # An odd kernel has no tap 3.
        ((4, 8, 3, 2, 1), [[2, 0], [-1, 1]], 1, 5, 1),
        # Without a stride, the kernel is turned around.
        ((4, 4, 3, 1, 1), [[2, 1, 0]], 1, 4, 0),
    ],
    ids=["k2s2", "k4s2p1", "k3s2p1", "k3s1p1"],
)
def test_phases_by_hand(arguments: Any, taps: list[list[int]], padding: int, rows: int, start: int) -> None:
    found = phases(*arguments)
    assert found.taps.tolist() == taps
    assert (found.padding, found.rows, found.start) == (padding, rows, start)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_it_is_one_layer_with_the_norm_and_the_relu_behind_it(groups: int) -> None:
    module = randomized(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=groups, bias=False),
            nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 1),
        )
    )  # fmt: skip
    network = trace(module, (3, 10, 10))
    repeated = " gather" if groups > 1 else ""
    assert ops(network) == f"conv2d relu{repeated} conv2d clip depth_to_space slice slice conv2d"
    assert [node.name for node in network.graph.layers] == ["0", "2", "5"]
    assert_same(module, network, (3, 10, 10))


def test_with_a_stride_that_divides_the_kernel_it_multiplies_as_often() -> None:
    network = trace(nn.ConvTranspose2d(8, 6, 4, 2, 1), (8, 10, 10))
    weight, _ = network.weight_and_bias(network.graph.layers[0].name)
    assert weight.shape == (6 * 4, 8, 2, 2)
    assert weight.numel() == 6 * 8 * 4 * 4


@pytest.mark.parametrize("groups", [1, 4])
def test_a_pixel_shuffle_reorders_the_channels_of_the_layer_before(groups: int) -> None:
    module = randomized(
        nn.Sequential(nn.Conv2d(4, 16, 3, groups=groups), nn.PixelShuffle(2), nn.BatchNorm2d(4), nn.ReLU())
    )
    network = trace(module, (4, 9, 9))
    reordered = "" if groups == 1 else " gather"
    assert ops(network).startswith(f"conv2d{reordered} ")
    assert ("gather" in ops(network)) == (groups > 1)
    assert_same(module, network, (4, 9, 9))


def test_a_pixel_unshuffle_reorders_what_the_layer_behind_reads() -> None:
    module = randomized(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)))
    network = trace(module, (3, 10, 10))
    assert ops(network) == "space_to_depth conv2d"
    assert_same(module, network, (3, 10, 10))
