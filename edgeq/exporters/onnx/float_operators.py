"""The operators that stay in float, in ONNX: one line each where ONNX has the same, else a few operators.

An operator is exported if and only if `edgeq.ir.ops.float_operators` computes it; a test compares both lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgeq.errors import UnsupportedError
from edgeq.ir.ops.op import Writer

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        writer: of the graph.
        name: of the node, for its constants.
        values: ONNX names of the arguments that are tensors.
        shapes: their shapes, with 1 for the batch.
        arguments: the other ones.
        shape: of the result, with 1 for the batch.
    """

    writer: Writer
    name: str
    values: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    arguments: dict[str, Any]
    shape: tuple[int, ...]

    def __getitem__(self, argument: str) -> Any:
        """An argument that is no tensor; None if it was left out."""
        return self.arguments.get(argument)

    @property
    def x(self) -> str:
        """The ONNX name of the value that it is called on."""
        return self.values["self" if "self" in self.values else "input"]

    @property
    def size(self) -> tuple[int, ...]:
        """Its shape."""
        return self.shapes["self" if "self" in self.values else "input"]

    def make(self, op: str, *inputs: str | float | None, **attributes: Any) -> str:
        """Append a node; numbers become constants, None is an input left out."""
        names = [self.floats(value) if isinstance(value, int | float) else value or "" for value in inputs]
        return self.writer.node(op, names, **attributes)

    def floats(self, value: float | Floats) -> str:
        """A constant in float32."""
        array = np.asarray(value, np.float32)
        return self.writer.constant(f"{self.name}.{len(array.shape)}.{array.size}.{float(array.flat[0])!r}", array)

    def ints(self, values: Sequence[int]) -> str:
        """A constant in int64."""
        return self.writer.constant(f"{self.name}.{'_'.join(map(str, values))}", np.array(values, np.int64))

    def operand(self, argument: str) -> str:
        """A tensor, or a number as a constant."""
        return self.values[argument] if argument in self.values else self.floats(float(self.arguments[argument]))

    def dims(self) -> list[int]:
        """The dimensions of a reduction."""
        dim = self["dim"]
        return [dim] if isinstance(dim, int) else list(dim)

    def reduced(self, op: str, value: str, keep: bool | None = None) -> str:
        """A reduction over its dimensions."""
        keepdims = bool(self["keepdim"]) if keep is None else keep
        return self.make(op, value, self.ints(self.dims()), keepdims=int(keepdims))


def _simple(op: str, **attributes: Any) -> Callable[[Call], str]:
    return lambda c: c.make(op, c.x, **attributes)


def _scaled_log(base: float) -> Callable[[Call], str]:
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
    return c.make("Mul", c.x, c.make("Cast", c.make("Greater", c.make("Abs", c.x), limit), to=TensorProto.FLOAT))


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


def _scaled(op: str) -> Callable[[Call], str]:
    """A sum or difference whose second value may have a factor."""

    def write(c: Call) -> str:
        other, alpha = c.operand("other"), c["alpha"]
        return c.make(op, c.operand("self"), other if alpha in (None, 1) else c.make("Mul", other, float(alpha)))

    return write


def _two(op: str) -> Callable[[Call], str]:
    return lambda c: c.make(op, c.operand("self"), c.operand("other"))


def _comparison(op: str, negated: bool = False) -> Callable[[Call], str]:
    def write(c: Call) -> str:
        found = c.make(op, c.x, c.operand("other"))
        return c.make("Cast", c.make("Not", found) if negated else found, to=TensorProto.FLOAT)

    return write


def _where(c: Call) -> str:
    condition = c.make("Cast", c.values["condition"], to=TensorProto.BOOL)
    return c.make("Where", condition, c.operand("self"), c.operand("other"))


def _argument(op: str) -> Callable[[Call], str]:
    return lambda c: c.make(
        "Cast", c.make(op, c.x, axis=c.dims()[0], keepdims=int(bool(c["keepdim"]))), to=TensorProto.FLOAT
    )


def _vector_norm(c: Call) -> str:
    order = 2 if c["ord"] is None else c["ord"]
    if order in (1, 2):
        return c.reduced(f"ReduceL{int(order)}", c.x)
    return c.make("Pow", c.reduced("ReduceSum", c.make("Pow", c.make("Abs", c.x), float(order))), 1 / order)


def _variance(c: Call) -> str:
    count, correction = prod(c.size[d] for d in c.dims()), 1 if c["correction"] is None else c["correction"]
    centred = c.make("Sub", c.x, c.reduced("ReduceMean", c.x, keep=True))
    return c.make("Mul", c.reduced("ReduceMean", c.make("Mul", centred, centred)), count / max(count - correction, 0.5))


def _affine(c: Call, value: str, shape: Sequence[int]) -> str:
    """Times a weight and plus a bias of this shape, where there are any."""
    for argument, op in (("weight", "Mul"), ("bias", "Add")):
        if argument in c.values:
            value = c.make(op, value, c.make("Reshape", c.values[argument], c.ints(shape)))
    return value


def _by_groups(c: Call, groups: int) -> str:
    """Normalize what the channels of a group have in common."""
    size, eps = c.size, 1e-5 if c["eps"] is None else c["eps"]
    seen = c.make("Reshape", c.x, c.ints([0, groups, -1]))
    one, zero = (c.floats(np.full(groups, value, np.float32)) for value in (1, 0))
    normal = c.make("InstanceNormalization", seen, one, zero, epsilon=float(eps))
    return _affine(c, c.make("Reshape", normal, c.ints([0, *size[1:]])), [size[1], *[1] * (len(size) - 2)])


def _layer_norm(c: Call) -> str:
    shape, eps = c["normalized_shape"], 1e-5 if c["eps"] is None else c["eps"]
    scale = c.values.get("weight") or c.floats(np.ones(shape, np.float32))
    shift = c.values.get("bias") or c.floats(np.zeros(shape, np.float32))  # without it ONNX Runtime crashes
    return c.make("LayerNormalization", c.x, scale, shift, axis=-len(shape), epsilon=float(eps))


def _rms_norm(c: Call) -> str:
    dims = [-i for i in range(len(c["normalized_shape"]), 0, -1)]
    eps = float(np.finfo(np.float32).eps) if c["eps"] is None else c["eps"]
    power = c.make("ReduceMean", c.make("Mul", c.x, c.x), c.ints(dims), keepdims=1)
    found = c.make("Div", c.x, c.make("Sqrt", c.make("Add", power, eps)))
    return c.make("Mul", found, c.values["weight"]) if "weight" in c.values else found


def _windows(inputs: int, outputs: int) -> list[tuple[int, int]]:
    """Starts and ends of the windows of an adaptive pooling."""
    return [(floor(i * inputs / outputs), ceil((i + 1) * inputs / outputs)) for i in range(outputs)]


def _adaptive_average(c: Call) -> str:
    """A product with a matrix of means from the left for rows, from the right for columns."""
    means = []
    for inputs, outputs in zip(c.size[2:], c.shape[2:], strict=True):
        matrix = np.zeros((outputs, inputs), np.float32)
        for row, (start, end) in zip(matrix, _windows(inputs, outputs), strict=True):
            row[start:end] = 1 / (end - start)
        means.append(matrix)
    rows = c.writer.constant(f"{c.name}.rows", means[0])
    columns = c.writer.constant(f"{c.name}.columns", np.ascontiguousarray(means[1].T))
    return c.make("MatMul", c.make("MatMul", rows, c.x), columns)


def _adaptive_maximum(c: Call) -> str:
    """The largest of every window of rows, then of columns."""
    value = c.x
    for axis in (2, 3):
        ends = _windows(c.size[axis], c.shape[axis])
        parts = [c.make("Slice", value, c.ints([start]), c.ints([end]), c.ints([axis])) for start, end in ends]
        largest = [c.make("ReduceMax", part, c.ints([axis]), keepdims=1) for part in parts]
        value = c.make("Concat", *largest, axis=axis)
    return value


def _average(c: Call) -> str:
    rank = len(c.size) - 2

    def each(name: str, default: int) -> list[int]:
        given = c[name] if isinstance(c[name], list) else [default if c[name] is None else c[name]]
        return [int(v) for v in given or c["kernel_size"]] * (rank // max(len(given or c["kernel_size"]), 1))

    kernel = each("kernel_size", 1)
    pads, stride = each("padding", 0), each("stride", 0) if c["stride"] else kernel
    divisor = c["divisor_override"]
    if c["ceil_mode"] and divisor is not None:
        raise UnsupportedError(f"layer {c.name}: expected ceil_mode=False beside a divisor_override, found True")
    counted = c["count_include_pad"] in (None, True) or divisor is not None
    found = c.make(
        "AveragePool", c.x, kernel_shape=kernel, strides=stride, pads=[*pads, *pads],
        ceil_mode=int(bool(c["ceil_mode"])), count_include_pad=int(counted),
    )  # fmt: skip
    return found if divisor is None else c.make("Mul", found, prod(kernel) / divisor)


def _pad(c: Call) -> str:
    sides = [*c["pad"], *[0] * (2 * len(c.size) - len(c["pad"]))]
    pads = [*reversed(sides[0::2]), *reversed(sides[1::2])]
    return c.make("Pad", c.x, c.ints(pads), float(c["value"] or 0.0))


def _resize(mode: str, **attributes: Any) -> Callable[[Call], str]:
    """To a size or by factors; the coordinates are those of the factors that were given.

    A size is given as factors, too: of a size for some dimensions, ONNX Runtime loses track when it puts channels last.
    """

    def write(c: Call) -> str:
        how = "align_corners" if c["align_corners"] else "half_pixel"
        sizes = zip(c.size[2:], c.shape[2:], c["scale_factors"] or [None, None], strict=True)
        factors = np.array([1, 1, *(_factor(*size) for size in sizes)], np.float32)
        options = attributes | {"mode": mode, "coordinate_transformation_mode": how}
        return c.make("Resize", c.x, None, c.floats(factors), **options)

    return write


def _factor(before: int, after: int, given: float | None) -> np.float32:
    """The factor between two sizes: the one that was given, or the least with which the right size is reached."""
    factor = np.float32(given or after / before)
    if floor(before * float(factor)) != after:
        factor = np.float32(after / before)
    while before * float(factor) < after:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


TRANSLATIONS: Final[dict[str, Callable[[Call], str]]] = {
    "abs.default": _simple("Abs"),
    "acos.default": _simple("Acos"),
    "asin.default": _simple("Asin"),
    "atan.default": _simple("Atan"),
    "ceil.default": _simple("Ceil"),
    "cos.default": _simple("Cos"),
    "cosh.default": _simple("Cosh"),
    "erf.default": _simple("Erf"),
    "exp.default": _simple("Exp"),
    "exp2.default": lambda c: c.make("Pow", 2.0, c.x),
    "expm1.default": lambda c: c.make("Sub", c.make("Exp", c.x), 1.0),
    "floor.default": _simple("Floor"),
    "log.default": _simple("Log"),
    "log10.default": _scaled_log(10),
    "log1p.default": lambda c: c.make("Log", c.make("Add", c.x, 1.0)),
    "log2.default": _scaled_log(2),
    "pow.Tensor_Scalar": lambda c: c.make("Pow", c.x, float(c["exponent"])),
    "pow.Tensor_Tensor": lambda c: c.make("Pow", c.operand("self"), c.operand("exponent")),
    "reciprocal.default": _simple("Reciprocal"),
    "round.default": _simple("Round"),
    "rsqrt.default": lambda c: c.make("Reciprocal", c.make("Sqrt", c.x)),
    "sign.default": _simple("Sign"),
    "sin.default": _simple("Sin"),
    "sinh.default": _simple("Sinh"),
    "sqrt.default": _simple("Sqrt"),
    "square.default": lambda c: c.make("Mul", c.x, c.x),
    "tan.default": _simple("Tan"),
    "celu.default": lambda c: c.make("Celu", c.x, alpha=float(1 if c["alpha"] is None else c["alpha"])),
    "clamp.default": _clamp,
    "elu.default": _elu,
    "gelu.default": lambda c: c.make("Gelu", c.x, approximate=c["approximate"] or "none"),
    "glu.default": _glu,
    "hardshrink.default": _hardshrink,
    "log_sigmoid.default": lambda c: c.make("Neg", c.make("Softplus", c.make("Neg", c.x))),
    "log_softmax.int": lambda c: c.make("LogSoftmax", c.x, axis=c["dim"]),
    "mish.default": _simple("Mish"),
    "selu.default": _simple("Selu"),
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
    "amax.default": lambda c: c.reduced("ReduceMax", c.x),
    "amin.default": lambda c: c.reduced("ReduceMin", c.x),
    "argmax.default": _argument("ArgMax"),
    "argmin.default": _argument("ArgMin"),
    "linalg_vector_norm.default": _vector_norm,
    "logsumexp.default": lambda c: c.reduced("ReduceLogSumExp", c.x),
    "mean.dim": lambda c: c.reduced("ReduceMean", c.x),
    "std.correction": lambda c: c.make("Sqrt", _variance(c)),
    "sum.dim_IntList": lambda c: c.reduced("ReduceSum", c.x),
    "var.correction": _variance,
    "group_norm.default": lambda c: _by_groups(c, c["num_groups"]),
    "instance_norm.default": lambda c: _by_groups(c, c.size[1]),
    "layer_norm.default": _layer_norm,
    "rms_norm.default": _rms_norm,
    "adaptive_avg_pool2d.default": _adaptive_average,
    "adaptive_max_pool2d.default": _adaptive_maximum,
    "avg_pool2d.default": _average,
    "avg_pool3d.default": _average,
    "pad.default": _pad,
    "upsample_bicubic2d.vec": _resize("cubic", cubic_coeff_a=-0.75),
    "upsample_bilinear2d.vec": _resize("linear"),
}
"""By the names of `edgeq.ir.ops.float_operators.OPERATORS`; all are of opset 20."""
