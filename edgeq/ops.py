"""The custom operators `edgeq::packed_conv2d` and `edgeq::packed_linear`: weights come as bytes, a layer's worth of
float weights exists only while it runs.

Registered with `torch.library`, with fake kernels, so that `torch.compile` and `torch.export` see one opaque call.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.quantize import BitWidth


@cache
def _table(bits: int, device: torch.device) -> Tensor:
    """The codebook as float32 `[256, K]`: one lookup unpacks and converts."""
    return torch.from_numpy(BitWidth(bits).codebook.copy()).float().to(device)


def dequantize(packed: Tensor, scale: Tensor, shape: list[int], bits: int) -> Tensor:
    """Unpack weights: uint8 `[ceil(out / K), fan-in]` and float32 `[out]` to float32 `shape`."""
    vectors = F.embedding(packed.int(), _table(bits, packed.device)).transpose(1, 2)
    levels = vectors.reshape(-1, packed.shape[1])[: shape[0]]
    return (levels * scale[:, None]).view(shape)


@torch.library.custom_op("edgeq::packed_conv2d", mutates_args=())
def packed_conv2d(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    shape: list[int],
    bits: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Convolve float32 `x` `[n, in, h, w]` with packed weights.

    Args:
        x: the input.
        packed: uint8, see `edgeq.quantize.QuantTensor`.
        scale: float32 `[out]`.
        bias: float32 `[out]`.
        shape: of the weights, `[out, in / groups, kernel height, kernel width]`.
        bits: 8, 4, 3 or 2.
        stride: rows, columns.
        padding: rows, columns; on both sides, zeros.
        dilation: rows, columns.
        groups: as in `torch.nn.functional.conv2d`.
    """
    return F.conv2d(x, dequantize(packed, scale, shape, bits), bias, stride, padding, dilation, groups)


@packed_conv2d.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    shape: list[int],
    bits: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return F.conv2d(x, x.new_empty(shape), bias, stride, padding, dilation, groups)


@torch.library.custom_op("edgeq::packed_linear", mutates_args=())
def packed_linear(x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor, *, shape: list[int], bits: int) -> Tensor:
    """Multiply float32 `x` `[n, in]` with packed weights of shape `[out, in]`; arguments as in `packed_conv2d`."""
    return F.linear(x, dequantize(packed, scale, shape, bits), bias)


@packed_linear.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor, *, shape: list[int], bits: int) -> Tensor:
    return F.linear(x, x.new_empty(shape), bias)
