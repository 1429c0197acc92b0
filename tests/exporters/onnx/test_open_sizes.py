"""One model for images of any size, of the models for two sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from nets import Function
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeq
from edgeq.errors import UnsupportedError
from edgeq.exporters.onnx.model import to_onnx
from edgeq.exporters.onnx.open_sizes import opened
from edgeq.frontends.torch_export.trace import trace
from edgeq.runtimes.onnxruntime import session_of

SIZES = (16, 24), (32, 40), (24, 56)
"""Rows and columns of the two models, and of a third image."""


def layers() -> dict[str, nn.Module]:
    return {
        "conv": nn.Conv2d(3, 8, 3, padding=1), "down": nn.Conv2d(8, 8, 3, stride=2, padding=1),
        "up": nn.ConvTranspose2d(8, 8, 2, stride=2), "mix": nn.Linear(8, 8), "norm": nn.LayerNorm(8),
        "lstm": nn.LSTM(8, 4, batch_first=True, bidirectional=True),
    }  # fmt: skip


def attended(m: Any, x: Tensor) -> Tensor:
    """Tokens of the map of 8 pixels a side each, which attend to each other."""
    tokens = F.avg_pool2d(m.conv(x), 8).flatten(2).transpose(1, 2)
    scores = (m.mix(tokens) @ tokens.transpose(1, 2) / 8).softmax(-1)
    made: Tensor = m.norm(scores @ tokens)
    return made


OPEN: dict[str, Callable[[Any, Tensor], Any]] = {
    "maps": lambda m, x: F.interpolate(m.down(m.conv(x).relu()), scale_factor=2.0),
    "bilinear": lambda m, x: F.interpolate(m.down(m.conv(x)), scale_factor=2.0, mode="bilinear"),
    "transposed": lambda m, x: m.up(m.down(m.conv(x)).relu()),
    "pixels": lambda m, x: F.pixel_shuffle(m.conv(x), 2),
    "unshuffled": lambda m, x: F.pixel_unshuffle(m.conv(x), 2),
    "pooled": lambda m, x: m.mix(m.conv(x).mean([2, 3])),
    "tokens": lambda m, x: m.mix(m.conv(x).flatten(2).transpose(1, 2)),
    "attention": attended,
    "rows": lambda m, x: m.lstm(m.down(m.conv(x))[:, :, 3].transpose(1, 2))[0],
    "thirds": lambda m, x: F.interpolate(m.conv(x)[:, :, ::3, 2::2], scale_factor=3.0),
    "sliced": lambda m, x: m.down(m.conv(x)[:, :, 1:, ::2]),
    "halves": lambda m, x: m.conv(x)[..., : x.shape[3] // 2] + m.conv(x)[..., x.shape[3] // 2 :],
    "several": lambda m, x: (m.down(m.conv(x)), m.conv(x).amax(1)),
}


def models(function: Callable[[Any, Tensor], Any]) -> tuple[nn.Module, onnx.ModelProto, onnx.ModelProto]:
    torch.manual_seed(0)
    module = Function(function, **layers()).eval()
    one, other = (to_onnx(trace(module, (3, *size))) for size in SIZES[:2])
    return module, one, other


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = session_of(model.SerializeToString())
    found: list[NDArray[np.float32]] = session.run(None, {"image": x})
    return found


@pytest.mark.parametrize("case", OPEN)
def test_one_model_computes_what_each_does_for_its_size(case: str) -> None:
    module, *pair = models(OPEN[case])
    merged = opened(*pair)
    for size, own in zip(SIZES, [*pair, None], strict=True):
        x = np.random.default_rng(0).normal(0, 1, (2, 3, *size)).astype(np.float32)
        found = run(merged, x)
        with torch.inference_mode():
            expected = module(torch.from_numpy(x))
        for one, wanted in zip(found, expected if isinstance(expected, tuple) else [expected], strict=True):
            np.testing.assert_allclose(one, wanted.numpy(), rtol=1e-4, atol=1e-4)
        if own is not None:
            assert all(np.array_equal(a, b) for a, b in zip(found, run(own, x), strict=True))


def test_open_dimensions_have_names() -> None:
    merged = opened(*models(OPEN["maps"])[1:])
    (image,), (output,) = merged.graph.input, merged.graph.output
    names = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (image, output)]
    assert names == [["batch", 3, "image.2", "image.3"], ["batch", 8, "output.2", "output.3"]]


def test_what_stays_the_same_stays_a_constant() -> None:
    merged = opened(*models(OPEN["tokens"])[1:])
    assert {node.op_type for node in merged.graph.node}.isdisjoint({"Shape", "Gather"})


TIED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "positions": (lambda m, x: m.conv(x) + torch.linspace(0, 1, x.shape[3]), "Add"),
    "mean of rows": (lambda m, x: m.conv(x).mean(2), "AveragePool"),
    "every part": (lambda m, x: m.conv(x)[:, :, [0, 1, 3]] + x.shape[2], "Add"),
    "adaptive pooling": (lambda m, x: F.adaptive_avg_pool2d(m.conv(x), 4), "AveragePool"),
    "to a fixed size": (lambda m, x: F.interpolate(m.conv(x), size=(48, 48), mode="bilinear"), "Resize"),
}


@pytest.mark.parametrize("case", TIED)
def test_what_depends_on_the_size_in_another_way_is_named(case: str) -> None:
    function, op = TIED[case]
    with pytest.raises(UnsupportedError, match=rf"^\S+: {op} depends on the size of the image$"):
        opened(*models(function)[1:])


def test_other_operations_for_another_size() -> None:
    with pytest.raises(UnsupportedError, match=r"^the network has other operations for images of another size$"):
        opened(*models(lambda m, x: m.conv(x) if x.shape[2] == 16 else m.down(m.conv(x)))[1:])


def test_a_quantized_network() -> None:
    torch.manual_seed(0)
    module = Function(OPEN["transposed"], **layers()).eval()
    images = np.random.default_rng(0).normal(0, 1, (4, 3, *SIZES[0])).astype(np.float32)
    one, other = (trace(module, (3, *size)) for size in SIZES[:2])
    record = edgeq.calibrate(one, [images])
    plan = edgeq.plan(record, "4bit")
    rounded = edgeq.quantize(one, record, plan, [images])
    pair = [to_onnx(edgeq.pack(network, rounded, record, plan)) for network in (one, other)]
    merged = opened(*pair)
    for size, own in zip(SIZES, pair, strict=False):
        x = np.random.default_rng(1).normal(0, 1, (2, 3, *size)).astype(np.float32)
        assert np.array_equal(run(merged, x)[0], run(own, x)[0])
