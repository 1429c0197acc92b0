"""A convolution over groups of pixels makes the sums of the original one."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets import MODULES, SHAPE, images, laid_out, quantized, randomized
from torch import Tensor, nn

from edgeq.calibration.calibrate import calibrate
from edgeq.exporters.onnx.model import to_onnx
from edgeq.exporters.onnx.space_to_depth import PixelGroups, grouped, pixel_groups, ungrouped
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.graph import Node
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.quantization.quantize import quantize
from edgeq.runtimes.onnxruntime import onnx_runner


def conv(
    kernel: int, stride: int, padding: int, image: tuple[int, int, int], dilation: int = 1, groups: int = 1
) -> Node:
    """A convolution of 5 outputs with a square kernel."""
    reach = dilation * (kernel - 1) + 1
    size = ((side + 2 * padding - reach) // stride + 1 for side in image[1:])
    attrs = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [dilation] * 2, "groups": groups}
    return Node("conv", "conv2d", ("input.q",), (5, *size), attrs)


def test_taps_of_a_usual_stem() -> None:
    """Kernel 3, stride 2, padding 1: the outputs of columns 0..3 read -1..1 and 1..3, so one group more on the left."""
    found = pixel_groups(conv(3, 2, 1, (3, 8, 8)), 3, (3, 8, 8), False)
    assert found is not None
    assert (found.size, found.outputs, found.span, found.pads, found.missing) == (4, 2, 2, (1, 0), 0)
    assert found.taps.tolist() == [[[-1, -1, -1, 0], [1, 2, -1, -1]], [[-1, -1, -1, -1], [-1, 0, 1, 2]]]


def test_a_bordered_image_gets_the_columns_that_its_last_group_lacks() -> None:
    """The same with a border of one column, 9 in all: 4 r + 0..2 and 4 r + 2..4."""
    node = conv(3, 2, 0, (3, 9, 9))
    found = pixel_groups(node, 3, (3, 9, 9), True)
    assert found is not None
    assert (found.size, found.outputs, found.span, found.pads, found.missing) == (4, 2, 2, (0, 0), 3)
    assert found.taps.tolist() == [[[0, 1, 2, -1], [-1, -1, -1, -1]], [[-1, -1, 0, 1], [2, -1, -1, -1]]]
    assert pixel_groups(node, 3, (3, 9, 9), False) is None


@pytest.mark.parametrize(
    "node, image",
    [
        (conv(3, 2, 1, (4, 8, 8)), (4, 8, 8)),  # four channels need no help
        (conv(3, 2, 1, (3, 8, 8), groups=3), (3, 8, 8)),
        (conv(3, 1, 2, (3, 8, 8), dilation=2), (3, 8, 8)),
        (conv(3, 2, 1, (3, 10, 10)), (3, 10, 10)),  # 10 columns are not groups of 4
        (conv(3, 2, 0, (3, 8, 8)), (3, 8, 8)),  # 3 outputs are not groups of 2
    ],
)
def test_what_does_not_come_out_even_is_left_alone(node: Node, image: tuple[int, int, int]) -> None:
    assert pixel_groups(node, 3, image, False) is None


def over_groups(x: Tensor, weight: Tensor, node: Node, groups: PixelGroups) -> Tensor:
    """What the file does, in PyTorch; columns that are missing hold anything."""
    images, channels, rows, columns = x.shape
    x = torch.cat([x, torch.full((images, channels, rows, groups.missing), 77.0)], 3)
    columns = (columns + groups.missing) // groups.size
    x = x.permute(0, 2, 3, 1).reshape(images, rows, columns, -1).permute(0, 3, 1, 2)
    padding = node.attrs["padding"][0]
    x = F.pad(x, (*groups.pads, padding, padding))
    laid = torch.from_numpy(laid_out(weight.numpy(), groups))
    return torch.from_numpy(ungrouped(F.conv2d(x, laid, stride=(node.attrs["stride"][0], 1)).numpy(), node.shape))


def fitting() -> list[tuple[Node, int, tuple[int, int, int], PixelGroups]]:
    """All convolutions of some kernels, strides, paddings, channels and widths that can read groups."""
    cases = product(range(1, 8), range(1, 5), range(4), range(1, 4), range(8, 41), (False, True))
    found = []
    for kernel, stride, padding, channels, width, extendable in cases:
        image = (channels, 9, width)
        node = conv(kernel, stride, padding, image)
        if groups := pixel_groups(node, kernel, image, extendable):
            found.append((node, kernel, image, groups))
    return found


@given(case=st.sampled_from(fitting()), seed=st.integers(0, 9))
def test_the_same_sums(case: tuple[Node, int, tuple[int, int, int], PixelGroups], seed: int) -> None:
    node, kernel, image, found = case
    stride, padding = node.attrs["stride"], node.attrs["padding"]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, *image), generator=generator).float()
    weight = torch.randint(-128, 128, (5, image[0], kernel, kernel), generator=generator).float()
    torch.testing.assert_close(
        over_groups(x, weight, node, found), F.conv2d(x, weight, stride=stride, padding=padding), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", MODULES)
def test_on_integer_kernels_the_answers_stay_what_they_were(name: str, tmp_path: Path) -> None:
    packed, x = quantized(name, "4bit").packed, images(5, 3)
    assert grouped(packed) is not None
    with mock.patch("edgeq.exporters.onnx.model.grouped", return_value=None):
        onnx.save(to_onnx(packed), tmp_path / "plain.onnx")
    onnx.save(to_onnx(packed), tmp_path / "grouped.onnx")
    plain, found = (onnx_runner(tmp_path / f"{which}.onnx")(x) for which in ("plain", "grouped"))
    np.testing.assert_array_equal(found, plain)


class Twice(nn.Module):
    """Two convolutions read the image."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x) + self.right(x)
        return y


def test_an_image_that_two_convolutions_read_stays_as_it_is() -> None:
    network, batches = trace(randomized(Twice()), SHAPE), [images(4)]
    record = calibrate(network, batches)
    chosen = plan(record, "8bit")
    packed = pack(network, quantize(network, record, chosen, batches), record, chosen)
    assert grouped(packed) is None
    assert grouped(network) is None
    assert not {"Reshape", "Pad"} & {node.op_type for node in to_onnx(packed).graph.node}
