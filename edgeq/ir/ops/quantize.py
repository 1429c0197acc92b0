"""Ops that no network has, and edgeq adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from edgeq.ir.node import Node
from edgeq.ir.ops.op import Op, Writer


def bordered(x: Tensor, pads: Sequence[int], values: Sequence[float]) -> Tensor:
    """Put rows and columns on top, left, bottom and right of a map, of one value a channel."""
    top, left, bottom, right = pads
    rows, columns = x.shape[2:]
    colour = torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]
    whole = colour.expand(*x.shape[:2], top + rows + bottom, left + columns + right).contiguous()
    whole[:, :, top : top + rows, left : left + columns] = x
    return whole


def levels_to_onnx(writer: Writer, node: Node) -> list[str]:
    """The constants of a quantizer: scale and zero point."""
    prefix = writer.prefix(node)
    scale = writer.constant(f"{prefix}.scale", np.array(node.attrs["scale"], np.float32))
    return [scale, writer.constant(f"{prefix}.zero", np.array(node.attrs["zero_point"], np.uint8))]


def _quantize_to_onnx(writer: Writer, node: Node) -> None:
    """QuantizeLinear and DequantizeLinear, the pair that runtimes look for around an operator."""
    levels = levels_to_onnx(writer, node)
    codes = writer.node("QuantizeLinear", [writer.value(node.inputs[0]), *levels])
    writer.write(node, "DequantizeLinear", [codes, *levels])


QUANTIZE: Final = (
    # To the levels of uint8, as floats; its module is `edgeq.packed.activations.ActivationQuantizer`.
    Op("quantize", onnx=_quantize_to_onnx),
    # Around an image, in the colour of its mean; files have it in uint8 only (`pixel_border`).
    Op("border", lambda x, a: bordered(x[0], a["pads"], a["values"])),
)
