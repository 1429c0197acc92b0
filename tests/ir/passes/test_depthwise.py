"""Depthwise convolutions with several outputs a channel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeq.frontends.torch_export.trace import trace


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(6, 12, 6), (4, 12, 4)])
def test_each_output_reads_a_copy_of_its_channel(inputs: int, outputs: int, groups: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, inputs, 1), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, 2, 1, groups=groups))
    network = trace(module, (3, 8, 8))
    assert [node.op for node in network.graph.nodes] == ["conv2d", "relu", "gather", "conv2d"]
    copies, conv = network.graph.nodes[2:]
    assert copies.attrs["indices"] == sorted([*range(inputs)] * (outputs // inputs))
    assert (conv.name, conv.attrs["groups"], conv.shape) == ("2", outputs, (outputs, 4, 4))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(x), module(x))


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(6, 6, 6), (6, 12, 3), (6, 12, 1)])
def test_other_convolutions_stay(inputs: int, outputs: int, groups: int) -> None:
    module = nn.Sequential(nn.Conv2d(3, inputs, 1), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, groups=groups))
    network = trace(module, (3, 8, 8))
    assert [node.op for node in network.graph.nodes] == ["conv2d", "relu", "conv2d"]
    assert network.graph.nodes[2].attrs["groups"] == groups
