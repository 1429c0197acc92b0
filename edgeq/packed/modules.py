"""PyTorch modules of layers whose weights are packed bytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeq.numerics.weights import QuantTensor
from edgeq.packed.kernels import packed_conv2d


class PackedConv2d(nn.Module):
    """A convolution that holds packed bytes, scales and a bias, and no float weights.

    Args:
        packed: the weights, of shape `[out, in / groups, height, width]`.
        bias: float32 `[out]`.
        stride, padding, dilation: two numbers each, for rows and columns.
        groups: as in `nn.Conv2d`.
    """

    packed: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        packed: QuantTensor,
        bias: Tensor,
        *,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> None:
        super().__init__()
        self.register_buffer("packed", torch.from_numpy(packed.data.copy()))
        self.register_buffer("scale", torch.from_numpy(packed.scale.copy()))
        self.register_buffer("bias", bias.clone())
        self.shape, self.bits = list(packed.shape), packed.width.bits
        self.geometry = [*stride, *padding, *dilation, groups]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 `[n, in, h, w]` to float32 `[n, out, h', w']`."""
        y: Tensor = packed_conv2d(
            x, self.packed, self.scale, self.bias, shape=self.shape, bits=self.bits, geometry=self.geometry
        )
        return y
