"""The quantizer of activations as a PyTorch module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeq.ir.ops.codes import from_codes, to_codes


class ActivationQuantizer(nn.Module):
    """Fake quantization to uint8: rounds float32 values to representable ones and returns them as float32.

    It computes like ONNX QuantizeLinear and DequantizeLinear: divide by the scale, round half to even, add the zero
    point, saturate; and back.

    Args:
        scale: the step, positive.
        zero_point: the code of 0, in 0..255.
    """

    scale: Tensor

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.zero_point = zero_point

    def codes(self, x: Tensor) -> Tensor:
        """Quantize float32 to uint8 codes."""
        return to_codes(x, self.scale, self.zero_point)

    def values(self, codes: Tensor) -> Tensor:
        """Dequantize uint8 codes to float32."""
        return from_codes(codes, self.scale, self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize."""
        # The zero point shifts the bounds instead of the values, so that it need not be added and subtracted again.
        return (x / self.scale).round_().clamp_(-self.zero_point, 255 - self.zero_point).mul_(self.scale)
