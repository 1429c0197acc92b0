from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from nets import images, quantized
from onnx import numpy_helper

from edgeq import parity as parity_module
from edgeq.errors import ParityError
from edgeq.onnx_export import to_onnx
from edgeq.parity import Parity, compare, output_point, worst_node


class Fixed(torch.nn.Module):
    """Returns the image's pixels as logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def test_the_end_is_counted_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2000 logits, one is 2 steps off without optimizations; with them, 9 are 9 off, and one moves the top-1."""
    x = np.zeros((2, 1000, 1, 1), np.float32)
    x[:, 7], x[:, 8] = 400.0, 399.75
    plain, fused = x.reshape(2, 1000).copy(), x.reshape(2, 1000).copy()
    plain[0, 0] = 1.0
    plain[0, 100:200] = 0.5
    fused[1, 9:18] = 4.5
    fused[1, 8] = 400.25
    monkeypatch.setattr(
        parity_module, "onnx_runner", lambda path, optimize=True: lambda x: fused if optimize else plain
    )
    monkeypatch.setattr(parity_module, "worst_node", lambda network, path, x: (1.0, ""))
    parity = compare(Fixed(), Path("any"), 0.5, [x])  # type: ignore[arg-type]
    assert asdict(parity) == asdict(Parity(2, 0.5, 1.0, 0.9995, 1.0, 1.0, 0.9955, 0.5))
    fused[:, 20:] = 9.5
    message = "ONNX Runtime and PyTorch disagree: expected outputs whose error has at most 25% of their variance, found"
    with pytest.raises(ParityError, match=f"^{message} 28%; no file was written"):
        compare(Fixed(), Path("any"), 0.5, [x])  # type: ignore[arg-type]


def written(name: str, path: Path, act_bits: int = 8) -> onnx.ModelProto:
    model = to_onnx(quantized(name, "4bit", act_bits).packed)
    path.write_bytes(model.SerializeToString())
    return model


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("name", ["residual", "flat", "fire"])
def test_every_node_agrees(name: str, act_bits: int, tmp_path: Path) -> None:
    written(name, tmp_path / "net.onnx", act_bits)
    assert worst_node(quantized(name, "4bit", act_bits).packed, tmp_path / "net.onnx", images(2, 5)) == (1.0, "")


def test_a_wrong_layer_is_named(tmp_path: Path) -> None:
    """One bias in the file is moved by a fifth of its layer's range: that layer is found, not those behind it."""
    found, path = quantized("residual", "4bit"), tmp_path / "net.onnx"
    model = written("residual", path)
    layer = found.plan.layers[1].layer.name
    (tensor,) = [i for i in model.graph.initializer if i.name == f"{layer}.bias"]
    bias = numpy_helper.to_array(tensor).copy()
    bias += 50 * found.record.activations[layer].scale if layer in found.record.activations else 1.0
    tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    path.write_bytes(model.SerializeToString())
    share, name = worst_node(found.packed, path, images(2, 5))
    assert (share, name) == (0.0, layer)
    with pytest.raises(ParityError, match=rf"^ONNX Runtime and PyTorch disagree at {layer}: .* found 0.00%; no file"):
        compare(found.packed, path, 1.0, [images(2, 5)])


@pytest.mark.parametrize(
    ("name", "point"), [("residual", "classifier.1.flatten"), ("flat", "last"), ("fire", "global_avg_pool.flatten")]
)
def test_output_point(name: str, point: str) -> None:
    for act_bits in (8, 32):
        assert output_point(quantized(name, "8bit", act_bits).packed) == point
