"""Padding becomes the convolution's own: on any sides, with any stride, and with what is behind it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import assert_same, ops, randomized
from torch import nn

from edgeq.frontends.torch_export.trace import trace


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_padding_before_any_convolution(data: st.DataObject) -> None:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = data.draw(pair), data.draw(pair), data.draw(pair)
    sides, own = data.draw(st.tuples(*[st.integers(0, 3)] * 4)), data.draw(st.tuples(*[st.integers(0, 2)] * 2))
    rows, columns = data.draw(st.integers(5, 12)), data.draw(st.integers(5, 12))
    lengths = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    assume(rows + sum(sides[2:]) + 2 * own[0] >= lengths[0] and columns + sum(sides[:2]) + 2 * own[1] >= lengths[1])
    conv = nn.Conv2d(4, 6, kernel, stride, own, dilation, groups=data.draw(st.sampled_from([1, 2])))
    module = nn.Sequential(nn.ZeroPad2d(sides), conv, nn.ReLU(), nn.Conv2d(6, 2, 1))
    assert_same(module, trace(module, (4, rows, columns)), (4, rows, columns))


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((1, 1, 1, 1), "conv2d relu conv2d"), ((0, 1, 0, 1), "conv2d relu slice slice conv2d")],
    ids=["both alike", "as TensorFlow"],
)
def test_a_stem_pads_by_itself(sides: tuple[int, int, int, int], expected: str) -> None:
    layers = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    module = randomized(nn.Sequential(nn.ZeroPad2d(sides), *layers))
    network = trace(module, (3, 16, 16))
    assert ops(network) == expected
    assert_same(module, network, (3, 16, 16))


def test_what_something_else_reads_stays_padded() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.pad(x, (1, 1, 1, 1))
            y: torch.Tensor = self.conv(x) + x
            return y

    module = Both()
    network = trace(module, (3, 6, 6))
    assert ops(network) == "pad conv2d add"
    assert_same(module, network, (3, 6, 6))


def test_a_wide_border_of_a_small_map_stays() -> None:
    module = nn.Sequential(nn.ZeroPad2d((0, 6, 0, 6)), nn.Conv2d(3, 4, 1))
    network = trace(module, (3, 5, 5))
    assert ops(network) == "pad conv2d"
    assert_same(module, network, (3, 5, 5))
