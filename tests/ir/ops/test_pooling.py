"""Pools that round up: PyTorch leaves out windows that start behind the map, where ONNX does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgeq
from edgeq.exporters.onnx.model import to_onnx

CASES = {
    "none left out": (nn.MaxPool2d(3, 2, ceil_mode=True), (6, 6), [0, 0, 0, 0], 1),
    "left out on both sides": (nn.MaxPool2d(2, 2, 1, ceil_mode=True), (5, 5), [1, 1, 0, 0], 0),
    "left out below": (nn.MaxPool2d(2, 2, 1, ceil_mode=True), (5, 6), [1, 1, 0, 1], 0),
    "one wide step": (nn.MaxPool2d(1, 3, ceil_mode=True), (5, 4), [0, 0, 0, 0], 0),
    "an average": (nn.AvgPool2d(2, 2, 1, ceil_mode=True, count_include_pad=False), (5, 7), [1, 1, 0, 0], 0),
    "half a window behind": (nn.MaxPool2d((2, 3), (2, 2), 1, ceil_mode=True), (5, 6), [1, 1, 0, 2], 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_has_the_windows_of_pytorch(case: str, tmp_path: Path) -> None:
    module, size, pads, ceil = CASES[case]
    network = edgeq.trace(nn.Sequential(module), (3, *size))
    model = to_onnx(network)
    (node,) = model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert (attributes["pads"], attributes["ceil_mode"]) == (pads, ceil)
    onnx.save(model, tmp_path / "net.onnx")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(edgeq.onnx_runner(tmp_path / "net.onnx")(x.numpy()), module(x).numpy(), atol=1e-6)


def test_what_onnx_cannot_count_is_padded_by_itself(tmp_path: Path) -> None:
    """An average over counted padding where one axis leaves a window out and the other reaches behind the map."""
    module = nn.AvgPool2d((2, 3), 2, (1, 0), ceil_mode=True)
    network = edgeq.trace(nn.Sequential(module), (3, 5, 6))
    assert [node.op for node in network.graph.nodes] == ["pad", "avg_pool2d", "float"]
    onnx.save(to_onnx(network), tmp_path / "net.onnx")
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(edgeq.onnx_runner(tmp_path / "net.onnx")(x.numpy()), module(x).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 3, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    ],
)  # fmt: skip
def test_in_integers_too(pool: nn.Module, tmp_path: Path) -> None:
    """Optimized kernels of ONNX Runtime would count what overhangs a map as padding."""
    torch.manual_seed(0)
    network = edgeq.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool), (3, 33, 33))
    batches = [torch.randn(4, 3, 33, 33).numpy()]
    record = edgeq.calibrate(network, batches)
    plan = edgeq.plan(record, "4bit")
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    manifest = edgeq.export(packed, tmp_path / "net.onnx", record, plan, batches)
    assert manifest["parity"]["nodes_within_one_step"] == 1.0
