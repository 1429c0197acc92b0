"""Networks that write into a part of a tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network

SHAPE = (3, 8, 8)


class Writes(nn.Module):
    def __init__(self, write: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1))
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        found = self.write(y)
        return y if found is None else found


def traced(write: Callable[[Tensor], Tensor | None]) -> Network:
    """Trace it, and compare it for a number of images that the tracer has not seen."""
    module = Writes(write).eval()
    network = trace(module, SHAPE)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)
    return network


def boxes(y: Tensor) -> None:
    """As YOLOv5 decodes them."""
    y[..., :2] = y[..., :2].sigmoid() * 2
    y[..., 2:4] = (y[..., 2:4].sigmoid() * 2) ** 2


def one_row(y: Tensor) -> None:
    y[:, :, 0] = 0


def one_number(y: Tensor) -> None:
    y[..., -1] = 1.5


def one_channel(y: Tensor) -> None:
    y[:, 0] *= 2


def into_zeros(y: Tensor) -> Tensor:
    z = torch.zeros_like(y)
    z[:, ::2] = y[:, 1::2]
    return z


def into_empty(y: Tensor) -> Tensor:
    z = torch.empty_like(y)
    z[:, :3], z[:, 3:] = y[:, 3:], y[:, :3]
    return z


def into_a_border(y: Tensor) -> Tensor:
    z = y.new_zeros(y.shape[0], 6, 10, 10)
    z[:, :, 1:-1, 1:-1] = y
    return z


def mask(y: Tensor) -> None:
    y[:, torch.arange(6) % 2 == 0] = 0


def computed_mask(y: Tensor) -> None:
    y[y > 0.5] = 0.5


def places(y: Tensor) -> None:
    y[:, [0, 3]] = y[:, [1, -1]]


def view_of_a_view(y: Tensor) -> None:
    z = y.view(y.shape[0], 2, 3, 8, 8)
    z[:, 0] = z[:, 1]


def part_in_place(y: Tensor) -> None:
    first, second = y.chunk(2, 1)
    first += second.sigmoid_()


def view_before(y: Tensor) -> Tensor:
    part = y[:, :2]
    y.mul_(2)
    return part


def copy_of_all(y: Tensor) -> Tensor:
    z = y.clone()
    z[:, :3].zero_()
    return z + y


@pytest.mark.parametrize(
    "write",
    [
        boxes,
        one_row,
        one_number,
        one_channel,
        into_zeros,
        into_empty,
        into_a_border,
        mask,
        computed_mask,
        places,
        view_of_a_view,
        part_in_place,
        view_before,
        copy_of_all,
    ],
)
def test_what_reads_the_whole_sees_the_write(write: Callable[[Tensor], Tensor | None]) -> None:
    assert [node.name for node in traced(write).graph.nodes][:3] == ["body.0", "body.2.relu", "body.3"]


def test_a_write_that_is_not_read_changes_nothing() -> None:
    """Activations in place write into a tensor, too, but what comes then reads their result."""
    ops = [node.op for node in traced(lambda y: y.relu_().view(y.shape[0], -1).sigmoid_()).graph.nodes]
    assert ops == ["conv2d", "relu", "conv2d", "relu", "flatten", "sigmoid"]


class WritesToItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = x[:, 1]
        found: Tensor = self.part(x)
        return found


def test_an_input_that_is_written_to_is_no_output() -> None:
    module, x = WritesToItsInput().eval(), torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    network = trace(module, SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module(x.clone()))


def test_a_write_that_cannot_be_done_names_itself() -> None:
    def write(y: Tensor) -> None:
        y[:, [0, 2], :, [1, 3]] = 0

    with pytest.raises(UnsupportedError, match=r"^layer index_put: .* aten\.index_put\.default, by which it writes"):
        traced(write)
