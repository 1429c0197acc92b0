"""A network that reads pixels is the same network: folded by hand, in every order of channels, padding included."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import SHAPE, float_network, pixels
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network
from edgeq.ir.passes.fold_normalization import fold_normalization

RGB, BGR = (0, 1, 2), (2, 1, 0)
MEAN, STD = (102 / 255, 153 / 255, 51 / 255), (0.2, 0.25, 0.5)  # the mean is whole levels of pixels
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalized(
    images: NDArray[np.float32], mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> NDArray[np.float32]:
    means, deviations = (np.array(v, np.float32)[:, None, None] for v in (mean, std))
    return (images - means) / deviations


def run(network: Network, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return found


class Stem(nn.Module):
    def __init__(self, stem: nn.Conv2d) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        return y


def test_folded_by_hand() -> None:
    conv = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 2.0, 3.0])[None, :, None, None])
        conv.bias = nn.Parameter(torch.tensor([10.0]))
    network = trace(Stem(conv).eval(), SHAPE)
    found = fold_normalization(network, (0.5, 0.25, 0.0), (0.5, 0.25, 0.125), RGB)
    weight, bias = found.weight_and_bias("stem")
    # 1 / 0.5, 2 / 0.25, 3 / 0.125; and 10 - 2 x 0.5 - 8 x 0.25 - 24 x 0
    assert weight.flatten().tolist() == [2.0, 8.0, 24.0]
    assert bias.tolist() == [7.0]
    assert [node.op for node in found.graph.nodes] == ["conv2d"]


@pytest.mark.parametrize(
    "stem",
    [
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.Conv2d(3, 4, 2, 2),
        nn.Conv2d(3, 4, 7, 4, 3), nn.Conv2d(3, 6, 3, 1, (2, 0), dilation=2), nn.Conv2d(3, 6, (1, 5), 2, (0, 2)),
        nn.Conv2d(3, 6, 3, 1, 1, groups=3), nn.Conv2d(3, 4, 2, 5, 1),
    ],
    ids=str,
)  # fmt: skip
def test_the_same_network_padding_included(stem: nn.Conv2d) -> None:
    network = trace(Stem(stem).eval(), SHAPE)
    found = fold_normalization(network, MEAN, STD, RGB)
    expected = run(network, normalized(pixels(4)))
    np.testing.assert_allclose(run(found, pixels(4)), expected, atol=1e-5 * np.abs(expected).max())


@given(st.sampled_from(list(permutations(range(3)))), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_a_network_of_another_channel_order_reads_rgb(
    order: tuple[int, ...], kernel: int, stride: int, padding: int
) -> None:
    network = trace(Stem(nn.Conv2d(3, 4, kernel, stride, padding)).eval(), SHAPE)
    found = fold_normalization(network, MEAN, STD, order)
    expected = run(network, normalized(pixels(2)[:, order]))
    np.testing.assert_allclose(run(found, pixels(2)), expected, atol=1e-5 * np.abs(expected).max())


def test_a_border_has_the_mean_of_the_channels_of_the_image() -> None:
    network = trace(Stem(nn.Conv2d(3, 4, 3, 1, 1)).eval(), SHAPE)
    for order, levels in ((RGB, [102, 153, 51]), (BGR, [51, 153, 102]), ((1, 2, 0), [51, 102, 153])):
        border = fold_normalization(network, MEAN, STD, order).graph.nodes[0]
        assert [round(255 * value, 6) for value in border.attrs["values"]] == levels


def test_groups_of_another_channel_order() -> None:
    network = trace(Stem(nn.Conv2d(3, 6, 3, 1, 1, groups=3)).eval(), SHAPE)
    expected = (
        "expected a convolution without groups to read the image, whose channels are bgr, found stem with 3; leave"
    )
    with pytest.raises(UnsupportedError, match=expected):
        fold_normalization(network, MEAN, STD, BGR)


def test_nothing_is_added_that_the_convolution_does_not_read() -> None:
    network = float_network("residual")  # 3 x 3 with stride 2 on 16 x 16: the last row of its padding is never read
    border = fold_normalization(network, MEAN, STD, RGB).graph.nodes[0]
    assert (border.op, border.shape, border.attrs["pads"]) == ("border", (3, 17, 17), [1, 1, 0, 0])


def test_a_border_between_levels_is_half_a_level_off_at_most() -> None:
    network = trace(Stem(nn.Conv2d(3, 8, 3, 1, 1)).eval(), SHAPE)
    found = fold_normalization(network, *IMAGENET, RGB)
    values = found.graph.nodes[0].attrs["values"]
    assert [round(255 * value, 6) for value in values] == [124, 116, 104]  # 123.7 116.3 103.5
    off = np.abs(run(found, pixels(4)) - run(network, normalized(pixels(4), *IMAGENET)))
    assert off[:, :, 1:-1, 1:-1].max() < 1e-5
    largest = 0.5 / 255 * found.weight_and_bias("stem")[0].abs().sum((1, 2, 3)).numpy()
    assert (off.max(axis=(0, 2, 3)) <= largest + 1e-5).all()
    assert off.max() > 1e-4


def test_only_the_first_layer_changes() -> None:
    network = float_network("residual")
    found = fold_normalization(network, MEAN, STD, RGB)
    assert found.graph.nodes[2:] == network.graph.nodes[1:]
    assert all(found.layer(node.name) is network.layer(node.name) for node in network.graph.layers[1:])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.one(x) + self.two(x)
        return y


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.max_pool2d(x, 2))
        return y


@pytest.mark.parametrize(
    ("module", "readers"), [(Twice, r"one \(conv2d\), two \(conv2d\)"), (Pooled, r"max_pool2d \(max_pool2d\)")]
)
def test_images_read_otherwise(module: type[nn.Module], readers: str) -> None:
    network = trace(module().eval(), SHAPE)
    expected = f"expected one convolution to read the image, found {readers}; leave out --input uint8"
    with pytest.raises(UnsupportedError, match=expected):
        fold_normalization(network, MEAN, STD, RGB)
