from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import images, quantized
from torch import Tensor

from edgeq.numerics.weights import WIDTHS, BitWidth, QuantTensor, packed_shape
from edgeq.packed.kernels import dequantize, packed_conv2d

ids = "{0.bits}bit".format
CONVS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((12, 3, 3, 3), {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}),
    "1x1 ragged": ((5, 3, 1, 1), {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}),
    "strided, not square": ((3, 3, 3, 5), {"stride": [2, 3], "padding": [0, 2], "dilation": [1, 1], "groups": 1}),
    "depthwise dilated": ((6, 1, 3, 3), {"stride": [1, 1], "padding": [2, 2], "dilation": [2, 2], "groups": 6}),
    "several sequences": ((150, 3, 1, 1), {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}),
    "grouped ragged": ((9, 2, 3, 1), {"stride": [1, 2], "padding": [1, 0], "dilation": [1, 1], "groups": 3}),
}


def weights(shape: tuple[int, ...], width: BitWidth) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Packed bytes, scale and bias, and the float weights that they stand for."""
    draw = np.random.default_rng(0)
    data = draw.integers(0, 256, packed_shape(shape, width), np.uint8)
    tensor = QuantTensor(data, shape, draw.uniform(0.1, 1, shape[0]).astype(np.float32), width)
    made = torch.from_numpy(data), torch.from_numpy(tensor.scale)
    return *made, torch.linspace(-1, 1, shape[0]), torch.from_numpy(tensor.dequantize())


def test_weights_by_hand() -> None:
    """At 4 bits, of bytes that come behind each other; the third output has the first level of its byte."""
    packed, scale = torch.tensor([[0, 255], [100, 0]], dtype=torch.uint8), torch.tensor([1.0, 0.5, 2.0])
    assert dequantize(packed, scale, [3, 2, 1, 1], 4).flatten(1).tolist() == [[-13, -16], [1.5, 2], [52, 8]]
    assert dequantize(packed, scale[:2], [2, 2, 1, 1], 8).flatten(1).tolist() == [[0, -1], [50, 0]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("width", WIDTHS, ids=ids)
@pytest.mark.parametrize("case", CONVS)
def test_packed_conv2d(case: str, width: BitWidth, layout: torch.memory_format) -> None:
    shape, geometry = CONVS[case]
    packed, scale, bias, weight = weights(shape, width)
    x = torch.randn(2, shape[1] * geometry["groups"], 9, 8).contiguous(memory_format=layout)
    numbers = [*geometry["stride"], *geometry["padding"], *geometry["dilation"], geometry["groups"]]
    kwargs = {"shape": list(shape), "bits": width.bits, "geometry": numbers}
    assert torch.equal(dequantize(packed, scale, list(shape), width.bits), weight)
    expected = F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, **geometry)
    assert torch.equal(packed_conv2d(x, packed, scale, bias, **kwargs), expected)
    torch.library.opcheck(packed_conv2d, (x, packed, scale, bias), kwargs)


@pytest.mark.parametrize("name", ["residual", "flat"])
def test_torch_compile_and_torch_export_give_the_same(name: str) -> None:
    network = quantized(name, "adaptive").packed
    x = torch.from_numpy(images(2, 7))
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    program = torch.export.export(network, (x,))
    assert torch.equal(program.module()(x), expected)
    assert "edgeq.packed_conv2d.default" in {str(node.target) for node in program.graph.nodes}
