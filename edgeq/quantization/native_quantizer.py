"""Fake quantization in the kernels' library: one pass over the numbers, where torch takes four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeq.native.library import library


class NativeQuantizer:
    """What `edgeq.packed.activations.ActivationQuantizer` computes, number by number: on the CPU, without gradients.

    Args:
        scale: the step, positive.
        zero_point: the code of 0, in 0..255.
    """

    def __init__(self, scale: float, zero_point: int) -> None:
        self.scale, self.zero_point = scale, zero_point

    def codes(self, x: Tensor) -> Tensor:
        """Quantize float32 to uint8 codes."""
        return self._run(library().eq_to_codes, x.float(), torch.uint8)

    def values(self, codes: Tensor) -> Tensor:
        """Dequantize uint8 codes to float32."""
        return self._run(library().eq_from_codes, codes, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize float32."""
        return self._run(library().eq_round_to_codes, x.float(), torch.float32)

    def _run(self, kernel: Callable[..., Any], x: Tensor, dtype: torch.dtype) -> Tensor:
        made = torch.empty_like(x, dtype=dtype)
        if made.stride() != x.stride():  # there are gaps in x
            x, made = x.contiguous(), made.contiguous()
        kernel(x.numel(), x.data_ptr(), self.scale, self.zero_point, made.data_ptr())
        return made
