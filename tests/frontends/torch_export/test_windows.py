"""Poolings, paddings and resizes of any geometry: as PyTorch computes them, in the ops that are wanted, and in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import Calling, ops
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.exporters.onnx.model import to_onnx
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network
from edgeq.runtimes.onnxruntime import session_of


def check(module: nn.Module, shape: tuple[int, ...]) -> Network:
    """Trace, and compare PyTorch, the graph and ONNX Runtime."""
    network, x = trace(module, shape), np.random.default_rng(0).normal(0, 2, (2, *shape)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-5)
    (found,) = session_of(to_onnx(network).SerializeToString(), True).run(None, {"image": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    return network


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "float gather gather max_pool2d: padded with -inf": lambda x: F.max_pool2d(
        F.pad(x - 9, (1, 0, 0, 1), value=-torch.inf), 2, 2
    ),
    "gather max_pool2d gather max_pool2d: adaptive, uneven": lambda x: F.adaptive_max_pool2d(x, (5, 4)),
    "max_pool2d: ceil": lambda x: F.max_pool2d(x, 2, 3, 1, ceil_mode=True),
    "max_pool2d: dilated, ceil": lambda x: F.max_pool2d(x, 2, 7, 1, 7, ceil_mode=True),
    "avg_pool2d float: sum": lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=1),
    "pad avg_pool2d float: sum, ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=1),
    "pad avg_pool2d float: padding counts, ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "gather gather: nearest": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6)),
    "gather gather: nearest, computed again": lambda x: F.interpolate(x, scale_factor=1.7, recompute_scale_factor=True),
    "gather gather: nearest-exact": lambda x: F.interpolate(x, size=(7, 23), mode="nearest-exact"),
    "float: bilinear to a size": lambda x: F.interpolate(x, size=(7, 23), mode="bilinear"),
    "float: bilinear by factors": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "float: corners": lambda x: F.interpolate(x, size=(7, 23), mode="bilinear", align_corners=True),
    "slice slice pad: cut and padded": lambda x: F.pad(x, (-1, 2, 3, -4)),
    "float: another constant": lambda x: F.pad(x, (1, 0, 0, 2), value=-3.0),
    "gather gather: circular": lambda x: F.pad(x, (1, 2, 0, 3), mode="circular"),
    "gather gather: flip": lambda x: x.flip(2, 3),
    "gather gather: every other": lambda x: x[..., ::2, 1::2],
}  # fmt: skip


@pytest.mark.parametrize("case", MAPS)
def test_maps(case: str) -> None:
    assert ops(check(Calling(MAPS[case]), (3, 13, 10))) == case.partition(":")[0]


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "reshape max_pool2d reshape: max": lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True),
    "reshape avg_pool2d reshape: average": lambda x: F.avg_pool1d(x, 3, 2, 1),
    "reshape gather max_pool2d reshape: adaptive max": lambda x: F.adaptive_max_pool1d(x, 5),
    "float: adaptive average": lambda x: F.adaptive_avg_pool1d(x, 5),
    "reshape avg_pool2d reshape: adaptive average, even": lambda x: F.adaptive_avg_pool1d(x, 4),
    "gather: nearest": lambda x: F.interpolate(x, scale_factor=1.3),
    "float: linear": lambda x: F.interpolate(x, size=20, mode="linear"),
    "gather: reflected": lambda x: F.pad(x, (2, 1), mode="reflect"),
    "float: another constant": lambda x: F.pad(x, (2, 1), value=0.5),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_of_values(case: str) -> None:
    assert ops(check(Calling(ROWS[case]), (3, 12))) == case.partition(":")[0]


def test_more_padding_at_the_end_than_onnx_takes() -> None:
    check(nn.MaxPool2d((2, 1), 2, (1, 0), (2, 1), ceil_mode=True), (2, 4, 4))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_poolings_of_any_geometry(data: st.DataObject) -> None:
    draw = data.draw
    pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride, size = draw(pair), draw(pair), draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    padding = draw(st.tuples(*(st.integers(0, k // 2) for k in kernel)))
    ceil = draw(st.booleans())
    module: nn.Module
    if draw(st.booleans()):
        dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        module = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
        lengths = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    else:
        divisor = draw(st.sampled_from([None, 3]))
        module = nn.AvgPool2d(kernel, stride, padding, ceil, draw(st.booleans()), divisor)
        lengths = [*kernel]
    assume(all(n + 2 * p >= length for n, p, length in zip(size, padding, lengths, strict=True)))
    expected = module(torch.zeros(1, 2, *size))
    assume(bool(expected.isfinite().all()))
    check(module, (2, *size))


def test_a_window_of_padding_alone_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"^layer 0: a max pooling with windows of padding alone; expected a va"):
        trace(nn.Sequential(nn.MaxPool2d(2, 2, 1, dilation=4)), (3, 3, 3))


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "unpooling": (
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), [2, 2]),
        "layer .*: edgeq does not know aten.max_unpool2d.default; replace it by a supported operation",
    ),
    "fractional": (
        lambda x: F.fractional_max_pool2d(x, 2, output_size=5),
        "layer .*: aten.rand.default draws random numbers",
    ),
    "antialiased": (
        lambda x: F.interpolate(x, size=5, mode="bilinear", antialias=True),
        "layer .*: edgeq does not know aten._upsample_bilinear2d_aa",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str) -> None:
    function, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message) as caught:
        trace(Calling(function), (3, 12, 12))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 4), (4, 1)], ids=str)
def test_same_padding_of_even_kernels(kernel: tuple[int, int], dilation: int) -> None:
    module = nn.Conv2d(4, 6, kernel, padding="same", dilation=dilation, groups=2, bias=False)
    assert set(ops(check(module, (4, 9, 11))).split()) <= {"conv2d", "slice"}
    check(nn.Conv1d(4, 6, kernel[0], padding="same", dilation=dilation), (4, 11))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_convolutions_that_repeat_their_border(mode: Literal["reflect", "replicate", "circular"]) -> None:
    check(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode), (3, 9, 7))
    check(nn.Conv1d(4, 4, 3, padding=1, padding_mode=mode, groups=4), (4, 9))
