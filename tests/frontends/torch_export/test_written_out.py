"""Hard sigmoids and hard swishes that are written out are found, and compute what is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeq.frontends.torch_export.trace import trace


class Net(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.conv(x))


CASES: dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]] = {
    "hard swish": ("conv2d hardswish", lambda m, x: x * F.relu6(x + 3) / 6),
    "hard swish, other way round": ("conv2d hardswish", lambda m, x: F.hardtanh(3 + x, 0, 6) * x * (1 / 6)),
    "hard swish of a hard sigmoid": ("conv2d hardsigmoid mul", lambda m, x: x * (F.relu6(x + 3) / 6)),
    "hard sigmoid": ("conv2d hardsigmoid", lambda m, x: F.relu6(x + 3) / 6),
    "clamp, and x read elsewhere": ("conv2d hardsigmoid mul", lambda m, x: x * (x / 6 + 0.5).clamp(0, 1)),
    "gate": (
        "conv2d global_avg_pool conv2d hardsigmoid mul",
        lambda m, x: x * (F.relu6(m.gate(x.mean((2, 3), keepdim=True)) + 3) / 6),
    ),
    "clamp behind a layer": ("conv2d clip", lambda m, x: (x / 6 + 0.5).clamp(0, 1)),
    "another slope": ("conv2d clip", lambda m, x: (x * 0.2 + 0.5).clamp(0, 1)),
    "another slope, and x read elsewhere": (
        "conv2d float float clip mul",
        lambda m, x: x * (x * 0.2 + 0.5).clamp(0, 1),
    ),
    "another end": ("conv2d clip float", lambda m, x: F.hardtanh(x + 3, 0, 5) / 6),
    "of another value": ("conv2d conv2d float clip mul float", lambda m, x: m.gate(x) * F.relu6(x + 3) / 6),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_found_and_computes_the_same(case: str) -> None:
    expected, function = CASES[case]
    module = Net(function).eval()
    network = trace(module, (3, 8, 8))
    assert " ".join(node.op for node in network.graph.nodes) == expected
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 4
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)


def test_it_has_a_name_of_its_own() -> None:
    nodes = trace(Net(lambda m, x: F.relu6(m.gate(x * F.relu6(x + 3) / 6) + 3) / 6).eval(), (3, 8, 8)).graph.nodes
    assert [node.name for node in nodes] == ["conv", "hardswish", "gate", "hardsigmoid"]
