"""ReLUs go before what moves values for them alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgeq.frontends.torch_export.trace import trace


class Calls(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv, x)


def both(conv: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = conv(x)[:, :, 1:]
    return y.relu() + y


def twice(conv: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = conv(x)
    return y[:, :, 1:].relu() + y[:, :, :-1]


CASES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "conv2d relu slice slice sigmoid": lambda conv, x: conv(x)[:, :, 1:, 2:].relu().sigmoid(),
    "conv2d clip depth_to_space sigmoid": lambda conv, x: nn.functional.pixel_shuffle(conv(x), 2).clamp(0, 6).sigmoid(),
    "conv2d relu reshape sigmoid": lambda conv, x: conv(x).reshape(-1, 2, 4, 36).relu().sigmoid(),
    "slice conv2d relu sigmoid": lambda conv, x: conv(x[:, :, 1:]).relu().sigmoid(),
    "sigmoid slice relu conv2d": lambda conv, x: conv(x.sigmoid()[:, :, 1:].relu()),
    "conv2d slice relu add": both,
    "conv2d slice relu slice add": twice,
    "conv2d slice relu": lambda conv, x: conv(x)[:, :, 1:].relu(),
}


@pytest.mark.parametrize("expected", CASES)
def test_a_relu_goes_before_moves(expected: str) -> None:
    module = Calls(CASES[expected])
    network = trace(module, (3, 8, 8))
    assert " ".join(node.op for node in network.graph.nodes) == expected
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)
