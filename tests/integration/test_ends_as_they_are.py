"""Inputs and outputs that one scale of 8 bits would spoil, from a module to its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeq
from edgeq.errors import DataError
from edgeq.runtimes.onnxruntime import session_of
from edgeq.system.environment import int8_overflows

Draw = Callable[[int], tuple[NDArray[np.float32], ...]]


class Net(nn.Module):
    def __init__(self, function: Callable[..., Any], channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.second = nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.even, self.columns, self.pixels = nn.Linear(4, 16), nn.BatchNorm1d(4), nn.BatchNorm2d(4)
        self.head, self.number = nn.Linear(16, 5), nn.Linear(16, 1)

    def features(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu()).relu()
        return y

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


def columns(count: int) -> NDArray[np.float32]:
    """Numbers in units of their own, from a tenth to twenty thousand."""
    drawn = np.random.default_rng(1).normal(size=(count, 4)) * [1, 0.1, 50, 20000] + [0, 0, 40, 50000]
    return drawn.astype(np.float32)


def depth(count: int) -> NDArray[np.float32]:
    """Colours in 0..1 beside a depth in millimetres."""
    rng = np.random.default_rng(2)
    colours, depths = rng.random((count, 3, 16, 16)), 2500 + 800 * rng.normal(size=(count, 1, 16, 16))
    return np.concatenate([colours, depths], 1).astype(np.float32)


def exported(module: Net, draw: Draw, path: Path, scheme: str = "8bit") -> tuple[dict[str, Any], Callable[..., Any]]:
    """The manifest of a network, and its file as a function."""
    given = draw(256)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        module.train()(*map(torch.from_numpy, given))
    network = edgeq.trace(module.eval(), [x.shape[1:] for x in given] if len(given) > 1 else given[0].shape[1:])
    names = [one.name for one in network.graph.inputs]
    batch: Any = dict(zip(names, draw(32), strict=True)) if len(names) > 1 else draw(32)[0]
    record = edgeq.calibrate(network, [batch])
    plan = edgeq.plan(record, edgeq.Recipe(scheme, reduce_range=int8_overflows()))
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, [batch]), record, plan)
    manifest = edgeq.export(packed, str(path), record, plan, [batch])
    session = session_of(str(path))
    return dict(manifest), lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def ratio(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """In dB, of what varies over images."""
    signal = np.square(expected - expected.mean(0)).sum()
    return float(10 * np.log10(signal / np.square(expected - found).sum()))


BESIDE: dict[str, tuple[Callable[..., Any], Draw, int, set[str]]] = {
    "columns, normalized": (
        lambda net, x, y: net.head((net.features(x).mean((2, 3)) + net.even(net.columns(y))).relu()),
        lambda n: (images(n), columns(n)), 3, {"columns.mul", "columns.add"},
    ),
    "columns as they are": (
        lambda net, x, y: net.head((net.features(x).mean((2, 3)) + net.even(y)).relu()),
        lambda n: (images(n), (columns(n) / [1, 10, 10, 1000]).astype(np.float32)), 3, {"input1", "even.reshape"},
    ),
    "depth beside colours": (
        lambda net, x: net.head(net.features(net.pixels(x)).mean((2, 3))),
        lambda n: (depth(n),), 4, {"pixels.mul", "pixels.add"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_channels_of_an_input_that_differ_in_range(name: str, tmp_path: Path) -> None:
    function, draw, channels, in_float = BESIDE[name]
    module = Net(function, channels)
    manifest, run = exported(module, draw, tmp_path / "net.onnx")
    given = tuple(x[-64:] for x in draw(128))
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, given)).numpy()
    assert ratio(expected, run(*given)[0]) > 15  # of single scales: below 2
    assert manifest["in_float"].keys() == in_float


def test_an_input_that_is_returned_is_what_came(tmp_path: Path) -> None:
    _, run = exported(
        Net(lambda net, x: (net.features(x).mean((2, 3)), x)), lambda n: (images(n),), tmp_path / "a.onnx"
    )
    wide = 9 * images(4, seed=5)
    np.testing.assert_array_equal(run(wide)[1], wide)


def test_parts_of_a_returned_concatenation_keep_their_scales(tmp_path: Path) -> None:
    def function(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([net.first(x).relu(), 9 * F.interpolate(net.features(x), scale_factor=2.0)], 1)
        return net.head(F.normalize(joined, dim=1)[:, :16].mean((2, 3))), joined

    module = Net(function)
    _, run = exported(module, lambda n: (images(n),), tmp_path / "net.onnx")
    x = images(8, seed=3)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))[1].numpy()
    found = run(x)[1]
    steps = [len(np.unique(found[:, part])) for part in (slice(8), slice(8, 24))]
    assert min(steps) > 100  # each part has nearly all levels of 8 bits, though one is many times wider
    assert ratio(expected, found) > 28


def test_one_number_an_image_is_regression(tmp_path: Path) -> None:
    module = Net(lambda net, x: (12 * net.number(net.features(x).mean((2, 3))) + 45).squeeze(1))
    network = edgeq.trace(module, (3, 16, 16))
    assert [(one.name, one.task) for one in network.graph.outputs] == [("output", "regression")]
    record = edgeq.calibrate(network, [images(16)])
    assert all(layer.sensitivity[2] > layer.sensitivity[8] > 0 for layer in record.layers)


def test_the_tasks_of_a_class_and_its_confidence() -> None:
    module = Net(lambda net, x: net.head(net.features(x).mean((2, 3))).softmax(1).max(1))
    outputs = edgeq.trace(module, (3, 16, 16)).graph.outputs
    assert [one.task for one in outputs] == ["regression", "classification"]


def test_an_output_that_is_true_or_false(tmp_path: Path) -> None:
    module = Net(lambda net, x: net.first(x) > 0.5)
    _, run = exported(module, lambda n: (images(n),), tmp_path / "net.onnx")
    x = images(4, seed=3)
    with torch.no_grad():
        agreed = run(x)[0] == module(torch.from_numpy(x)).numpy()
    assert agreed.mean() > 0.97


def test_a_packed_network_takes_its_inputs_in_order_or_by_name() -> None:
    network = edgeq.trace(Net(lambda net, x, y: net.head(net.even(y)) + x.mean((2, 3))[:, :1]), [(3, 16, 16), (4,)])
    x, y = torch.randn(2, 3, 16, 16), torch.randn(2, 4)
    (first, second) = (one.name for one in network.graph.inputs)
    assert torch.equal(network(x, y), network(**{second: y, first: x}))
    with pytest.raises(DataError, match=rf"^expected the inputs {first}, {second}, found 1$"):
        network(x)
