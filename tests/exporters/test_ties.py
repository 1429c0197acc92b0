"""The largest of 8-bit scores, many of which are equal: the file and PyTorch choose the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from nets import images, randomized, worked
from torch import Tensor, nn

import edgeq
from edgeq.ir.ops.float_operators import FloatOperator


class Peaks(nn.Module):
    """The highest scores of a map of classes and where they are, as of a detector by its centers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.head(self.body(x).relu()).sigmoid().flatten(1).topk(40)
        return found


def test_equal_scores_are_in_the_same_order_in_the_file(tmp_path: Path) -> None:
    """With a reduced range, so that kernels overflow on no CPU; a code may still differ by rounding in a few images."""
    network, batch = edgeq.trace(randomized(Peaks()), (3, 16, 16)), images(16, 1)
    record = edgeq.calibrate(network, [batch])
    plan = worked(edgeq.plan(record, edgeq.Recipe("8bit", reduce_range=True)))
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, [batch]), record, plan)
    edgeq.export(packed, tmp_path / "net.onnx", record, plan, [batch])
    scores, places = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"image": batch})
    assert (np.diff(scores, axis=1) == 0).any(axis=1).all()  # ties in every image
    with torch.inference_mode():
        expected_scores, expected_places = (value.numpy() for value in packed(torch.from_numpy(batch)))
    same = np.isclose(scores, expected_scores, rtol=0, atol=1e-6).all(axis=1)
    assert same.mean() > 0.5
    np.testing.assert_array_equal(places[same], expected_places[same])
    assert (np.diff(places, axis=1)[np.diff(scores, axis=1) == 0] > 0).all()


@pytest.mark.parametrize("largest", [True, False])
def test_equal_values_are_in_the_order_of_their_places(largest: bool) -> None:
    x = torch.arange(300).remainder(3).expand(2, -1).float()
    arguments = {"k": 150, "dim": 1, "largest": largest}
    found = [FloatOperator("topk.default", ["self"], arguments, {}, result)(x)[1].tolist() for result in (0, 1)]
    first = 2 if largest else 0
    assert found == [[first] * 100 + [1] * 50, [*range(first, 300, 3), *range(1, 150, 3)]]


class Cut(nn.Module):
    """The places of scores most of which are cut off at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def scores(self, x: Tensor) -> Tensor:
        found: Tensor = (self.head(x).flatten(1) - 1).relu()
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).topk(900)[1]


def test_the_module_may_have_equal_values_in_another_order() -> None:
    module, x = Cut().eval(), torch.from_numpy(images(2, 1))
    network = edgeq.trace(module, (3, 16, 16))
    with torch.inference_mode():
        scores = module.scores(x)
        expected = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :900]
        assert (scores.gather(1, expected)[:, -1] == 0).all()
        assert not torch.equal(module(x), expected)
        assert torch.equal(network(x).long(), expected)
