"""Activations in uint8, as PyTorch computes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeq.ir.ops.codes import from_codes, to_codes


class ActivationQuantizer(nn.Module):
    """Rounds float32 values to the levels of a uint8 tensor and returns them as float32.

    The same steps as ONNX QuantizeLinear and DequantizeLinear: divide by the scale, round half to even, add the zero
    point, saturate; and back.
    """

    scale: Tensor

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.zero_point = zero_point

    def codes(self, x: Tensor) -> Tensor:
        """Quantize to uint8."""
        return to_codes(x, self.scale, self.zero_point)

    def values(self, codes: Tensor) -> Tensor:
        """Read uint8 codes back as float32."""
        return from_codes(codes, self.scale, self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and read back."""
        # Steps are counted from 0, not from the zero point, which would have to be added and taken off again.
        return (x / self.scale).round_().clamp_(-self.zero_point, 255 - self.zero_point).mul_(self.scale)
