"""Operators with weights: convolutions, products with a matrix, normalizations."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.frontends.onnx.call import Call, Handler
from edgeq.frontends.onnx.operators.windows import padded, sides

_CONVOLUTIONS: Final = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Final = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _spatial(call: Call, weight: Tensor) -> int:
    rank = weight.dim() - 2
    if rank not in _CONVOLUTIONS:
        raise call.refuse(f"with weights {list(weight.shape)}; expected 3 to 5 dimensions")
    return rank


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = _spatial(call, weight)
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    before, behind = sides(call, x.shape[2:], weight.shape[2:], strides, dilations)
    padding = before
    if before != behind:
        x, padding = padded(x, before, behind, 0.0), [0] * rank
    return _CONVOLUTIONS[rank](x, weight, bias, strides, padding, dilations, call.integer("group", 1))


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Without padding, and cut to the right size, where that is not the same on both sides."""
    rank = _spatial(call, weight)
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    more = call.integers("output_padding", [0] * rank)
    axes = zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
    whole = [(size - 1) * step + (kernel - 1) * space + 1 for size, kernel, step, space in axes]
    pads, auto = call.integers("pads", [0] * 2 * rank), call.text("auto_pad", "NOTSET")
    before, behind = pads[:rank], pads[rank:]
    wanted = call.integers("output_shape")[-rank:]
    if not wanted and auto.startswith("SAME"):
        wanted = [size * step for size, step in zip(x.shape[2:], strides, strict=True)]
    if wanted:
        totals = [size + extra - want for size, extra, want in zip(whole, more, wanted, strict=True)]
        more = [extra - min(total, 0) for extra, total in zip(more, totals, strict=True)]
        totals = [max(total, 0) for total in totals]
        before = [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in totals]
        behind = [total - first for total, first in zip(totals, before, strict=True)]
    function, groups = _TRANSPOSED[rank], call.integer("group", 1)
    if before == behind and all(
        extra < max(step, space) for extra, step, space in zip(more, strides, dilations, strict=True)
    ):
        return function(x, weight, bias, strides, before, more, groups, dilations)
    if any(more):
        raise call.refuse(f"with output_padding {more} and pads {pads}; expected the same on both sides, or none of it")
    made = function(x, weight, bias, strides, 0, 0, groups, dilations)
    for dim, (first, last) in enumerate(zip(before, behind, strict=True), 2):
        made = made.narrow(dim, first, made.shape[dim] - first - last)
    return made


def _gemm(call: Call, first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer, where the second matrix and the bias are constants."""
    first = first.T if call.integer("transA", 0) else first
    matrix = second if call.integer("transB", 0) else second.T
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    if call.static[1] is None:
        made = first @ matrix.T * alpha
        return made if bias is None else made + bias * beta
    matrix = matrix if alpha == 1 else matrix * alpha
    if bias is not None and (call.static[2] is None or (bias.dim() > 1 and bias.shape[0] > 1)):
        return F.linear(first, matrix) + bias * beta
    if bias is not None:
        bias = bias if beta == 1 else bias * beta
        bias = bias.reshape(-1).expand(matrix.shape[0])
    return F.linear(first, matrix, bias)


def _matmul(_: Call, first: Tensor, second: Tensor) -> Tensor:
    return torch.matmul(first, second)


def _batch_norm(call: Call, x: Tensor, *parameters: Tensor) -> Tensor:
    trains = call.integer("training_mode", 0) or len([name for name in call.outputs if name]) > 1
    if trains or not call.integer("spatial", 1):
        raise call.refuse("in training; expected one with running statistics, as exporters write in evaluation mode")
    weight, bias, mean, variance = parameters
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, call.real("epsilon", 1e-5))


def _instance_norm(call: Call, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, None, None, weight, bias, True, 0.0, call.real("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    if len([name for name in call.outputs if name]) > 1:
        raise call.refuse("that returns its mean; expected one output")
    shape = list(x.shape[call.integer("axis", -1) % x.dim() :])
    weight, bias = (None if value is None else value.expand(shape) for value in (weight, bias))
    return F.layer_norm(x, shape, weight, bias, call.real("epsilon", 1e-5))


def _group_norm(call: Call, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """With a factor for each group in opset 18, for each channel since 21."""
    each = x.shape[1] // len(weight) if call.opset < 21 else 1
    weight, bias = (value if each == 1 else value.repeat_interleave(each) for value in (weight, bias))
    return F.group_norm(x, call.integer("num_groups", 1), weight, bias, call.real("epsilon", 1e-5))


def _rms_norm(call: Call, x: Tensor, weight: Tensor) -> Tensor:
    dims = list(range(call.integer("axis", -1) % x.dim(), x.dim()))
    return x / (x.square().mean(dims, keepdim=True) + call.real("epsilon", 1e-5)).sqrt() * weight


def _lp_norm(call: Call, x: Tensor) -> Tensor:
    return F.normalize(x, float(call.integer("p", 2)), call.integer("axis", -1))


def _local_response(call: Call, x: Tensor) -> Tensor:
    alpha, beta, bias = (call.real(*one) for one in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return F.local_response_norm(x, call.integer("size", 1), alpha, beta, bias)


def _einsum(call: Call, *values: Tensor) -> Tensor:
    return torch.einsum(call.text("equation", ""), *values)


def _mean_variance(call: Call, x: Tensor) -> Tensor:
    axes = call.integers("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    spread: Tensor = centred.square().mean(axes, keepdim=True).sqrt()
    return centred / (spread + 1e-9)


LAYERS: Final[dict[str, Handler]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "RMSNormalization": _rms_norm,
    "LpNormalization": _lp_norm,
    "LRN": _local_response,
    "MeanVarianceNormalization": _mean_variance,
    "Einsum": _einsum,
}
