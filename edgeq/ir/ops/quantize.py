"""Ops that no network has, and edgeq adds. Their ONNX forms are rules of the exporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from edgeq.ir.ops.op import Op


def _bordered(x: Tensor, pads: Sequence[int], values: Sequence[float]) -> Tensor:
    """Put rows and columns on top, left, bottom and right of a map, of one value a channel."""
    top, left, bottom, right = pads
    rows, columns = x.shape[2:]
    colour = torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]
    whole = colour.expand(*x.shape[:2], top + rows + bottom, left + columns + right).contiguous()
    whole[:, :, top : top + rows, left : left + columns] = x
    return whole


QUANTIZE: Final = (
    Op("quantize"),  # to the levels of uint8, as floats; its module is `edgeq.packed.activations.ActivationQuantizer`
    Op("border", lambda x, a: _bordered(x[0], a["pads"], a["values"])),  # of an image, in the colour of its mean
)
