"""The quantizer of the kernels' library: every number that PyTorch computes, whatever lies how in memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeq.native.library import is_compiled
from edgeq.packed.activations import ActivationQuantizer
from edgeq.quantization.native_quantizer import NativeQuantizer

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the kernels were not compiled: there is no C compiler")


def test_halves_round_to_even_and_ends_saturate() -> None:
    quantizer = NativeQuantizer(0.5, 2)
    x = torch.tensor([-100.0, -1.0, -0.75, -0.25, -0.0, 0.25, 0.26, 0.75, 126.5, 1000.0])
    assert quantizer.codes(x).tolist() == [0, 0, 0, 2, 2, 2, 3, 4, 255, 255]
    assert quantizer(x).tolist() == [-1, -1, -1, 0, 0, 0, 0.5, 1, 126.5, 126.5]
    assert quantizer.values(torch.tensor([0, 2, 255], dtype=torch.uint8)).tolist() == [-1, 0, 126.5]


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(2.0**-20, 2.0**10, width=32), zero_point=st.integers(0, 255))
def test_every_number_is_that_of_pytorch(seed: int, scale: float, zero_point: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, 7, 9, generator=generator) * 200 * scale
    x[0] = (x[0] / scale).round() * scale + scale / 2  # between two steps
    ours, expected = NativeQuantizer(scale, zero_point), ActivationQuantizer(scale, zero_point)
    layouts: list[Tensor] = [
        x,
        x.contiguous(memory_format=torch.channels_last),
        x[:, ::2],
        x[1:2].expand(4, 5, 7, 9),
        x.permute(0, 2, 3, 1),
        x[:0],
        x[0, 0, 0, 0],
    ]
    for one in layouts:
        codes = expected.codes(one)
        assert torch.equal(ours.codes(one), codes)
        assert torch.equal(ours.values(codes), expected.values(codes))
        assert torch.equal(ours(one), expected(one))
