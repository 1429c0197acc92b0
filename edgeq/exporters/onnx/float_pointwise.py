"""Float operators that compute each number from those at the same place, in ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from types import MappingProxyType
from typing import Final

import numpy as np
from onnx import TensorProto

from edgeq.exporters.onnx.float_call import Call, Translation, simple


def _scaled_log(base: float) -> Translation:
    return lambda c: c.make("Mul", c.make("Log", c.x), 1 / log(base))


def _elu(c: Call) -> str:
    """Twice a slope: what is above 0 is multiplied with `scale`, and so is `alpha (exp(input_scale x) - 1)` below."""
    scale, inner = c["scale"] or 1.0, c["input_scale"] or 1.0
    alpha = 1.0 if c["alpha"] is None else c["alpha"]
    if scale == inner == 1:
        return c.make("Elu", c.x, alpha=float(alpha))
    below = c.make("Elu", c.make("Mul", c.make("Min", c.x, 0.0), inner), alpha=float(alpha))
    return c.make("Mul", c.make("Add", c.make("Relu", c.x), below), scale)


def _glu(c: Call) -> str:
    dim = len(c.size) - 1 if c["dim"] is None else c["dim"] % len(c.size)
    half, end = c.size[dim] // 2, c.size[dim]
    first, second = (
        c.make("Slice", c.x, c.ints([start]), c.ints([stop]), c.ints([dim])) for start, stop in ((0, half), (half, end))
    )
    return c.make("Mul", first, c.make("Sigmoid", second))


def _hardshrink(c: Call) -> str:
    limit = 0.5 if c["lambd"] is None else c["lambd"]
    return c.make("Mul", c.x, c.truth("Greater", c.make("Abs", c.x), limit))


def _softshrink(c: Call) -> str:
    limit = 0.5 if c["lambd"] is None else float(c["lambd"])
    return c.make("Shrink", c.x, lambd=limit, bias=limit)


def _softplus(c: Call) -> str:
    beta = 1.0 if c["beta"] is None else c["beta"]
    return c.make("Softplus", c.x) if beta == 1 else c.make("Div", c.make("Softplus", c.make("Mul", c.x, beta)), beta)


def _threshold(c: Call) -> str:
    return c.make("Where", c.make("Greater", c.x, c["threshold"]), c.x, c["value"])


def _clamp(c: Call) -> str:
    return c.make("Clip", c.x, *(None if c[end] is None else float(c[end]) for end in ("min", "max")))


def _scaled(op: str) -> Translation:
    """A sum or difference whose second value may have a factor."""

    def write(c: Call) -> str:
        other, alpha = c.operand("other"), c["alpha"]
        return c.make(op, c.operand("self"), other if alpha in (None, 1) else c.make("Mul", other, float(alpha)))

    return write


def _two(op: str) -> Translation:
    return lambda c: c.make(op, c.operand("self"), c.operand("other"))


def _comparison(op: str, negated: bool = False) -> Translation:
    def write(c: Call) -> str:
        found = c.make(op, c.operand("self"), c.operand("other"))
        return c.cast(c.make("Not", found) if negated else found)

    return write


def _where(c: Call) -> str:
    return c.make("Where", c.cast(c.tensor("condition"), TensorProto.BOOL), c.operand("self"), c.operand("other"))


def _truncated(c: Call) -> str:
    return c.make("Mul", c.make("Sign", c.x), c.make("Floor", c.make("Abs", c.x)))


def _finite(c: Call) -> str:
    """Numbers in the place of what is none, and of what is beyond the largest ones."""
    most = float(np.finfo(np.float32).max)
    low, high = (end if c[key] is None else float(c[key]) for key, end in (("neginf", -most), ("posinf", most)))
    inside = c.make("Where", c.make("IsInf", c.x, detect_negative=0), high, c.x)
    inside = c.make("Where", c.make("IsInf", c.x, detect_positive=0), low, inside)
    return c.make("Where", c.make("IsNaN", c.x), float(c["nan"] or 0.0), inside)


def _logical(op: str) -> Translation:
    def write(c: Call) -> str:
        values = [c.cast(c.operand(key), TensorProto.BOOL) for key in ("self", "other") if c.has(key)]
        return c.truth(op, *values)

    return write


POINTWISE: Final[Mapping[str, Translation]] = MappingProxyType(
    {
        "abs.default": simple("Abs"),
        "acos.default": simple("Acos"),
        "asin.default": simple("Asin"),
        "atan.default": simple("Atan"),
        "ceil.default": simple("Ceil"),
        "cos.default": simple("Cos"),
        "cosh.default": simple("Cosh"),
        "erf.default": simple("Erf"),
        "exp.default": simple("Exp"),
        "exp2.default": lambda c: c.make("Pow", 2.0, c.x),
        "expm1.default": lambda c: c.make("Sub", c.make("Exp", c.x), 1.0),
        "floor.default": simple("Floor"),
        "log.default": simple("Log"),
        "log10.default": _scaled_log(10),
        "log1p.default": lambda c: c.make("Log", c.make("Add", c.x, 1.0)),
        "log2.default": _scaled_log(2),
        "pow.Tensor_Scalar": lambda c: c.make("Pow", c.x, float(c["exponent"])),
        "pow.Tensor_Tensor": lambda c: c.make("Pow", c.operand("self"), c.operand("exponent")),
        "reciprocal.default": simple("Reciprocal"),
        "round.default": simple("Round"),
        "rsqrt.default": lambda c: c.make("Reciprocal", c.make("Sqrt", c.x)),
        "sign.default": simple("Sign"),
        "sin.default": simple("Sin"),
        "sinh.default": simple("Sinh"),
        "sqrt.default": simple("Sqrt"),
        "square.default": lambda c: c.make("Mul", c.x, c.x),
        "tan.default": simple("Tan"),
        "celu.default": lambda c: c.make("Celu", c.x, alpha=float(1 if c["alpha"] is None else c["alpha"])),
        "clamp.default": _clamp,
        "elu.default": _elu,
        "gelu.default": lambda c: c.make("Gelu", c.x, approximate=c["approximate"] or "none"),
        "glu.default": _glu,
        "hardshrink.default": _hardshrink,
        "log_sigmoid.default": lambda c: c.make("Neg", c.make("Softplus", c.make("Neg", c.x))),
        "log_softmax.int": lambda c: c.make("LogSoftmax", c.x, axis=c["dim"]),
        "mish.default": simple("Mish"),
        "selu.default": simple("Selu"),
        "softmax.int": lambda c: c.make("Softmax", c.x, axis=c["dim"]),
        "softplus.default": _softplus,
        "softshrink.default": _softshrink,
        "threshold.default": _threshold,
        "add.Tensor": _scaled("Add"),
        "sub.Tensor": _scaled("Sub"),
        "mul.Tensor": _two("Mul"),
        "div.Tensor": _two("Div"),
        "maximum.default": _two("Max"),
        "minimum.default": _two("Min"),
        "matmul.default": _two("MatMul"),
        "eq.Scalar": _comparison("Equal"),
        "ne.Scalar": _comparison("Equal", negated=True),
        "ge.Scalar": _comparison("GreaterOrEqual"),
        "ge.Tensor": _comparison("GreaterOrEqual"),
        "gt.Scalar": _comparison("Greater"),
        "gt.Tensor": _comparison("Greater"),
        "le.Scalar": _comparison("LessOrEqual"),
        "le.Tensor": _comparison("LessOrEqual"),
        "lt.Scalar": _comparison("Less"),
        "lt.Tensor": _comparison("Less"),
        "where.self": _where,
        "acosh.default": simple("Acosh"),
        "asinh.default": simple("Asinh"),
        "atanh.default": simple("Atanh"),
        "eq.Tensor": _comparison("Equal"),
        "fmod.Scalar": lambda c: c.make("Mod", c.x, c.operand("other"), fmod=1),
        "fmod.Tensor": lambda c: c.make("Mod", c.operand("self"), c.operand("other"), fmod=1),
        "isinf.default": lambda c: c.truth("IsInf", c.x),
        "isnan.default": lambda c: c.truth("IsNaN", c.x),
        "logical_and.default": _logical("And"),
        "logical_not.default": _logical("Not"),
        "logical_or.default": _logical("Or"),
        "logical_xor.default": _logical("Xor"),
        "nan_to_num.default": _finite,
        "ne.Tensor": _comparison("Equal", negated=True),
        "pow.Scalar": lambda c: c.make("Pow", c.operand("self"), c.operand("exponent")),
        "trunc.default": _truncated,
    }
)
"""By the names of `edgeq.ir.ops.float_operators.OPERATORS`."""
