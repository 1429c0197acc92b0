"""Operators that compute each number of their output from those at the same place."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import isclose
from typing import Any, Final

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.frontends.onnx.call import Call, Handler, aten

Function = Callable[..., Tensor]


def _plain(function: Any) -> Handler:
    return lambda _, *values: function(*values)


def _of_any_number(function: Function) -> Handler:
    return lambda _, *values: reduce(function, values)


def _dividing(_: Call, x: Tensor, y: Tensor) -> Tensor:
    whole = not x.is_floating_point() and not y.is_floating_point()
    return torch.div(x, y, rounding_mode="trunc") if whole else x / y


def _mod(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if call.integer("fmod", 0) else torch.remainder(x, y)


def _pow(call: Call, x: Tensor, exponent: Tensor) -> Tensor:
    given = call.static[1]
    if given is not None and given.numel() == 1:  # a number, which PyTorch knows better than a tensor
        power = float(given.item())
        return x * x if power == 2 else x**power
    return x**exponent


def _mean(_: Call, *values: Tensor) -> Tensor:
    return reduce(torch.add, values) / len(values)


def _clip(call: Call, x: Tensor, *_: Tensor | None) -> Tensor:
    """Between bounds that are attributes before opset 11, and inputs since."""
    ends: list[float | None] = []
    for place, name in enumerate(("min", "max"), 1):
        given = call.number(place) if call.has(place) else call.attributes.get(name)
        ends.append(None if given is None or abs(given) > 3.4e38 else float(given))
    low, high = ends
    return x if low is None and high is None else torch.clamp(x, low, high)


def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return F.leaky_relu(x, call.real("alpha", 0.01))


def _prelu(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    """With one slope for each channel, `[C, 1, 1]`, or any other that is broadcast."""
    if slope.numel() == 1:
        return F.prelu(x, slope.reshape(1))
    if (
        slope.numel()
        == slope.shape[-x.dim() + 1 :].numel()
        == x.shape[1]
        == slope.shape[max(slope.dim() - x.dim() + 1, 0)]
    ):
        return F.prelu(x, slope.flatten())
    return torch.relu(x) - slope * torch.relu(-x)


def _elu(call: Call, x: Tensor) -> Tensor:
    return F.elu(x, call.real("alpha", 1.0))


def _celu(call: Call, x: Tensor) -> Tensor:
    return F.celu(x, call.real("alpha", 1.0))


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.real("alpha", 1.6732632), call.real("gamma", 1.0507010)
    usual = isclose(alpha, 1.6732632, rel_tol=1e-6) and isclose(gamma, 1.0507010, rel_tol=1e-6)
    return F.selu(x) if usual else F.elu(x, alpha) * gamma


def _gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call.text("approximate", "none"))


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    if isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def _softplus(_: Call, x: Tensor) -> Tensor:
    return F.softplus(x, threshold=1000)  # in ONNX it never becomes the value itself


def _thresholded(call: Call, x: Tensor) -> Tensor:
    return F.threshold(x, call.real("alpha", 1.0), 0.0)


def _shrink(call: Call, x: Tensor) -> Tensor:
    bias, width = call.real("bias", 0.0), call.real("lambd", 0.5)
    if bias == width:
        return F.softshrink(x, width)
    return F.hardshrink(x, width) - (bias * torch.sign(F.hardshrink(x, width)) if bias else 0)


def _swish(call: Call, x: Tensor) -> Tensor:
    alpha = call.real("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def _over_axis(operator: str) -> Handler:
    """Over one axis; before opset 13 over all from it on, seen as one."""

    def call_it(call: Call, x: Tensor) -> Tensor:
        function = aten(operator)
        axis = call.integer("axis", -1 if call.opset >= 13 else 1) % x.dim()
        if call.opset >= 13 or axis == x.dim() - 1:
            made: Tensor = function(x, axis)
            return made
        whole: Tensor = function(x.flatten(axis), axis)
        return torch.unflatten(whole, axis, x.shape[axis:])

    return call_it


def _cast(call: Call, x: Tensor, *_: Tensor) -> Tensor:
    """To another type: all floats are float32, all integers int64."""
    kind = call.integer("to", onnx.TensorProto.FLOAT)
    if kind == onnx.TensorProto.BOOL:
        return x != 0
    if kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16):
        return x if x.dtype == torch.float32 else x.to(torch.float32)
    if kind == onnx.TensorProto.STRING or kind not in onnx.TensorProto.DataType.values():
        raise call.refuse("to text; expected numbers")
    return x if x.dtype == torch.int64 else x.to(torch.int64)


def _cast_like(_: Call, x: Tensor, like: Tensor) -> Tensor:
    return x if x.dtype == like.dtype else x.to(like.dtype)


def _dropout(call: Call, x: Tensor, *_: Tensor | None) -> Tensor:
    if len(call.inputs) > 2 and call.has(2) and call.number(2):
        raise call.refuse("in training; expected evaluation mode")
    return x


def _identity(_: Call, x: Tensor) -> Tensor:
    return x


def _is_infinite(call: Call, x: Tensor) -> Tensor:
    below, above = bool(call.integer("detect_negative", 1)), bool(call.integer("detect_positive", 1))
    return torch.isinf(x) if below and above else x == (float("inf") if above else float("-inf"))


def _where(_: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition != 0 if condition.dtype != torch.bool else condition, x, y)


POINTWISE: Final[dict[str, Handler]] = {
    **{
        name: _plain(function)
        for name, function in {
            "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Add": torch.add, "And": torch.logical_and,
            "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil,
            "Cos": torch.cos, "Cosh": torch.cosh, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp,
            "Floor": torch.floor, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "HardSwish": F.hardswish,
            "IsNaN": torch.isnan, "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log, "Mish": F.mish,
            "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or,
            "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
            "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softsign": F.softsign, "Sqrt": torch.sqrt,
            "Sub": torch.sub, "Tan": torch.tan, "Tanh": torch.tanh, "Xor": torch.logical_xor,
        }.items()
    },
    "Max": _of_any_number(torch.maximum), "Min": _of_any_number(torch.minimum), "Sum": _of_any_number(torch.add),
    "Mean": _mean, "Div": _dividing, "Mod": _mod, "Pow": _pow, "Where": _where,
    "Clip": _clip, "LeakyRelu": _leaky_relu, "PRelu": _prelu, "Elu": _elu, "Celu": _celu, "Selu": _selu, "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid, "Softplus": _softplus, "ThresholdedRelu": _thresholded, "Shrink": _shrink,
    "Swish": _swish, "Softmax": _over_axis("softmax.int"), "LogSoftmax": _over_axis("log_softmax.int"),
    "Cast": _cast, "CastLike": _cast_like, "Dropout": _dropout, "Identity": _identity, "IsInf": _is_infinite,
}  # fmt: skip
