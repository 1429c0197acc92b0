"""The custom operator `edgeq::packed_conv2d`, which takes weights as packed bytes.

The float weights of a layer exist only while it runs. The operator is registered with `torch.library`, with a fake
kernel, so that `torch.compile` and `torch.export` see one opaque call.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.numerics.trellis import RADIX, sequences
from edgeq.numerics.weights import BitWidth


@cache
def _decoder(bits: float, device: torch.device) -> Tensor:
    """Return the levels of pairs of bytes as float32 `[PAIRS, K]`, so that one lookup decodes and converts."""
    return torch.from_numpy(BitWidth(bits).trellis.decoder.copy()).float().to(device)


def dequantize(packed: Tensor, scale: Tensor, shape: list[int], bits: float) -> Tensor:
    """Decode weights: uint8 `[rows, fan-in]` and float32 `[out]` to float32 `shape`, channels last."""
    if bits == 8:
        weight = packed.view(torch.int8) * scale[:, None]
    else:
        cut = packed.int().view(*sequences(len(packed)), -1)
        pairs = torch.roll(cut, 1, 1).mul_(RADIX).add_(cut)
        levels = _decoder(bits, packed.device).index_select(0, pairs.view(-1))
        rows = levels.view(*packed.shape, -1).transpose(1, 2).contiguous().view(-1, packed.shape[1])
        weight = rows[: shape[0]] * scale[:, None]
    # On CPUs, channels-last convolutions are several times faster, and channels-last weights make such outputs.
    return weight.view(shape).contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("edgeq::packed_conv2d", mutates_args=())
def packed_conv2d(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    shape: list[int],
    bits: float,
    geometry: list[int],
) -> Tensor:
    """Convolve float32 `x` `[n, in, h, w]` with packed weights.

    Args:
        x: the input.
        packed: uint8, see `edgeq.numerics.weights.QuantTensor`.
        scale: float32 `[out]`.
        bias: float32 `[out]`.
        shape: shape of the weights, `[out, in / groups, kernel height, kernel width]`.
        bits: 8, 4, 3, 2, 1.6, 1.33 or 1, see `edgeq.numerics.weights.BitWidth`.
        geometry: seven numbers: stride, padding and dilation, each for rows and columns, and groups; as in
            `torch.nn.functional.conv2d`.
    """
    return F.conv2d(x, dequantize(packed, scale, shape, bits), bias, *_geometry(geometry))


@packed_conv2d.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    shape: list[int],
    bits: float,
    geometry: list[int],
) -> Tensor:
    weight = x.new_empty(shape).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, *_geometry(geometry))


def _geometry(numbers: list[int]) -> tuple[list[int], list[int], list[int], int]:
    """Split the seven numbers into stride, padding, dilation and groups."""
    return numbers[:2], numbers[2:4], numbers[4:6], numbers[6]
