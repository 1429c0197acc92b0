"""Ops in float as steps of the native engine: what no quantizer stands behind, a table of rules by op and operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, inf, prod
from typing import Any, Final

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from edgeq.errors import UnsupportedError
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.lowering.builder import Builder, Stored
from edgeq.lowering.float_steps import Floats, FloatSteps
from edgeq.lowering.loops import Loop, Operand, by_memory, loops, rows_of, strides_of
from edgeq.native.functions import Pair, Pick, Pointwise, Row
from edgeq.native.program import Flag, Kind, Step


def lower_float(builder: Builder, network: Network, node: Node, sources: Sequence[Stored]) -> Stored:
    """Compute a node in float.

    Args:
        builder: gets the steps.
        network: has the node's module.
        node: no layer of packed weights, and none that only moves values.
        sources: its inputs in float, in the arena.

    Returns:
        Its value, float32.

    Raises:
        UnsupportedError: no kernel computes it; the node is named.
    """
    operator = node.attrs.get("operator", "")
    rule = OPERATORS.get(operator) if node.op == "float" else OPS.get(node.op)
    if rule is None:
        what = f"aten.{operator}" if operator else node.op
        raise UnsupportedError(f"layer {node.name}: the native engine does not compute {what} in float")
    return rule(Call(builder, network, node, sources))


def pointwise(node: Node) -> bool:
    """Whether a float operator computes every value by itself, from one of its input alone."""
    return node.attrs["operator"] in _POINTWISE and len(node.inputs) == 1 and not node.attrs["tensors"]


class Call:
    """One node on its way to steps.

    Args:
        builder: gets the steps.
        network: has the node's module.
        node: what is computed.
        sources: its inputs in float.
    """

    def __init__(self, builder: Builder, network: Network, node: Node, sources: Sequence[Stored]) -> None:
        self.steps, self.node, self.sources = FloatSteps(builder, node), node, list(sources)
        self.shape, self.attrs = node.shape, node.attrs
        self.arguments: Mapping[str, Any] = node.attrs.get("arguments", {})
        self._values = dict(zip(node.attrs.get("reads", ()), sources, strict=False))
        self._layer = network.layer(node.name) if node.op in ("float", "layer_norm") else None

    @property
    def x(self) -> Stored:
        """The value that it is called on."""
        return self._values.get("self") or self._values.get("input") or self.sources[0]

    def get(self, argument: str, default: Any) -> Any:
        """An argument that is no tensor; the default where it was left out."""
        found = self.arguments.get(argument)
        return default if found is None else found

    def held(self, argument: str) -> Floats | None:
        """A parameter, float32; None without one."""
        found = getattr(self._layer, argument, None) if argument in self.attrs.get("tensors", ()) else None
        return None if found is None else np.asarray(found.detach().numpy(), np.float32)

    def parameters(self) -> tuple[Floats, Floats]:
        """Weight and bias of a layer."""
        assert self._layer is not None
        weight, bias = (np.asarray(getattr(self._layer, name).numpy(), np.float32) for name in ("weight", "bias"))
        return weight, bias

    def operand(self, argument: str) -> Operand:
        """A value, a parameter or a number."""
        if argument in self._values:
            return Operand.of(self._values[argument])
        held = self.held(argument)
        return self.steps.constant(float(self.arguments[argument]) if held is None else held)

    def dims(self) -> list[int]:
        """The dimensions that it is computed over."""
        dim = self.arguments["dim"]
        return [dim] if isinstance(dim, int) else list(dim)

    def unsupported(self, found: str) -> UnsupportedError:
        """An error that names the node."""
        return UnsupportedError(f"layer {self.node.name}: the native engine does not compute {found}")


Rule = Callable[[Call], Stored]

# --- every value by itself ----------------------------------------------------------------------------------------


def _simple(function: Pointwise, *parameters: tuple[str, float]) -> Rule:
    """A function whose parameters are arguments, with what they are when they are left out."""
    return lambda c: c.steps.pointwise(function, c.x, *(float(c.get(*each)) for each in parameters))


def _fixed(function: Pointwise, *parameters: float) -> Rule:
    return lambda c: c.steps.pointwise(function, c.x, *parameters)


def _gelu(c: Call) -> Stored:
    return c.steps.pointwise(Pointwise.GELU_TANH if c.get("approximate", "none") == "tanh" else Pointwise.GELU, c.x)


def _log_sigmoid(c: Call) -> Stored:
    below = c.steps.pointwise(Pointwise.SOFTPLUS, _product(c, c.x, -1.0), 1.0)
    return _product(c, below, -1.0)


def _finite(c: Call) -> Stored:
    most = float(np.finfo(np.float32).max)
    return c.steps.pointwise(Pointwise.REPLACE, c.x, c.get("nan", 0.0), c.get("posinf", most), c.get("neginf", -most))


def _glu(c: Call) -> Stored:
    dim = c.get("dim", -1) % (len(c.x.shape) + 1)
    half = c.x.shape[dim - 1] // 2

    def part(start: int) -> Stored:
        return c.steps.moved(lambda x: x[0].narrow(dim, start, half), [c.x], c.shape)

    gate = c.steps.pointwise(Pointwise.SIGMOID, part(half))
    return c.steps.combined(Pair.PRODUCT, Operand.of(part(0)), Operand.of(gate))


_POINTWISE: Final[Mapping[str, Rule]] = {
    "abs.default": _fixed(Pointwise.ABS),
    "acos.default": _fixed(Pointwise.ACOS),
    "acosh.default": _fixed(Pointwise.ACOSH),
    "asin.default": _fixed(Pointwise.ASIN),
    "asinh.default": _fixed(Pointwise.ASINH),
    "atan.default": _fixed(Pointwise.ATAN),
    "atanh.default": _fixed(Pointwise.ATANH),
    "ceil.default": _fixed(Pointwise.CEIL),
    "celu.default": _simple(Pointwise.CELU, ("alpha", 1.0)),
    "clamp.default": _simple(Pointwise.CLIP, ("min", -inf), ("max", inf)),
    "cos.default": _fixed(Pointwise.COS),
    "cosh.default": _fixed(Pointwise.COSH),
    "elu.default": _simple(Pointwise.ELU, ("alpha", 1.0), ("scale", 1.0), ("input_scale", 1.0)),
    "erf.default": _fixed(Pointwise.ERF),
    "exp.default": _fixed(Pointwise.EXP),
    "exp2.default": _fixed(Pointwise.EXP2),
    "expm1.default": _fixed(Pointwise.EXPM1),
    "floor.default": _fixed(Pointwise.FLOOR),
    "gelu.default": _gelu,
    "hardshrink.default": _simple(Pointwise.HARDSHRINK, ("lambd", 0.5)),
    "isinf.default": _fixed(Pointwise.IS_INFINITE),
    "isnan.default": _fixed(Pointwise.IS_NAN),
    "log.default": _fixed(Pointwise.LOG),
    "log10.default": _fixed(Pointwise.LOG10),
    "log1p.default": _fixed(Pointwise.LOG1P),
    "log2.default": _fixed(Pointwise.LOG2),
    "log_sigmoid.default": _log_sigmoid,
    "logical_not.default": _fixed(Pointwise.NOT),
    "mish.default": _fixed(Pointwise.MISH),
    "nan_to_num.default": _finite,
    "reciprocal.default": _fixed(Pointwise.RECIPROCAL),
    "round.default": _fixed(Pointwise.NEAREST),
    "rsqrt.default": _fixed(Pointwise.RSQRT),
    "selu.default": _fixed(Pointwise.ELU, 1.6732632423543772, 1.0507009873554805, 1.0),
    "sign.default": _fixed(Pointwise.SIGN),
    "sin.default": _fixed(Pointwise.SIN),
    "sinh.default": _fixed(Pointwise.SINH),
    "softplus.default": _simple(Pointwise.SOFTPLUS, ("beta", 1.0)),
    "softshrink.default": _simple(Pointwise.SOFTSHRINK, ("lambd", 0.5)),
    "sqrt.default": _fixed(Pointwise.SQRT),
    "square.default": _fixed(Pointwise.SQUARE),
    "tan.default": _fixed(Pointwise.TAN),
    "threshold.default": _simple(Pointwise.THRESHOLD, ("threshold", 0.0), ("value", 0.0)),
    "trunc.default": _fixed(Pointwise.TRUNC),
}
"""Operators that compute every value by itself."""

# --- of two values ------------------------------------------------------------------------------------------------


def _pair(function: Pair, first: str = "self", second: str = "other") -> Rule:
    return lambda c: c.steps.combined(function, c.operand(first), c.operand(second))


def _of_inputs(function: Pair) -> Rule:
    return lambda c: c.steps.combined(function, Operand.of(c.sources[0]), Operand.of(c.sources[1]))


def _product(c: Call, x: Stored, factor: float | Floats) -> Stored:
    return c.steps.combined(Pair.PRODUCT, Operand.of(x), c.steps.constant(factor))


def _scaled(function: Pair) -> Rule:
    """A sum or difference whose second value may have a factor."""

    def lower(c: Call) -> Stored:
        other, alpha = c.operand("other"), c.get("alpha", 1)
        if alpha != 1:
            other = Operand.of(c.steps.combined(Pair.PRODUCT, other, c.steps.constant(float(alpha))))
        return c.steps.combined(function, c.operand("self"), other)

    return lower


def _where(c: Call) -> Stored:
    condition = c.operand("condition")
    chosen = c.steps.combined(Pair.WHERE, condition, c.operand("self"))
    others = c.steps.combined(Pair.WHERE_NOT, condition, c.operand("other"))
    return c.steps.combined(Pair.SUM, Operand.of(chosen), Operand.of(others))


def _prelu(c: Call) -> Stored:
    slopes = np.array(c.attrs["slopes"], np.float32).reshape(1, -1, *[1] * (len(c.shape) - 1))
    return c.steps.combined(Pair.PRELU, Operand.of(c.x), c.steps.constant(slopes))


# --- over some dimensions -----------------------------------------------------------------------------------------


def _reduced(function: Row) -> Rule:
    return lambda c: c.steps.reduced(function, c.x, c.dims())


def _mean(c: Call) -> Stored:
    return c.steps.reduced(Row.TOTAL, c.x, c.dims(), 1 / _count(c, c.dims()))


def _count(c: Call, dims: Sequence[int]) -> int:
    whole = (1, *c.x.shape)
    return prod(whole[dim] for dim in dims)


def _variance(c: Call) -> Stored:
    count = _count(c, c.dims())
    return c.steps.reduced(Row.VARIANCE, c.x, c.dims(), 1 / max(count - c.get("correction", 1), 0.5))


def _norm(c: Call) -> Stored:
    order = c.get("ord", 2)
    if order in (1, 2):
        return c.steps.reduced(Row.L1 if order == 1 else Row.L2, c.x, c.dims())
    size = c.steps.pointwise(Pointwise.ABS, c.x)
    powers = c.steps.combined(Pair.POWER, Operand.of(size), c.steps.constant(float(order)))
    total = c.steps.reduced(Row.TOTAL, powers, c.dims())
    return c.steps.combined(Pair.POWER, Operand.of(total), c.steps.constant(1 / order))


def _along(function: Row) -> Rule:
    return lambda c: c.steps.along(function, c.x, c.dims()[0])


def _ordered(c: Call) -> Stored:
    dim, descending = c.get("dim", -1) % (len(c.x.shape) + 1), c.get("descending", c.get("largest", "k" in c.arguments))
    values = {True: Row.LARGEST, False: Row.SMALLEST}
    positions = {True: Row.PLACE_OF_LARGEST, False: Row.PLACE_OF_SMALLEST}
    function = (positions if c.attrs.get("result", 0) else values)[bool(descending)]
    return c.steps.ordered(function, c.x, dim, c.shape[dim - 1])


# --- normalizations -----------------------------------------------------------------------------------------------


def _normalized_last(function: Row, eps: float) -> Rule:
    """Over the last dimensions, for each of which there may be a weight and a bias."""

    def lower(c: Call) -> Stored:
        shape = tuple(c.arguments["normalized_shape"])
        lead = len(c.x.shape) + 1 - len(shape)
        found = loops((1, *c.x.shape), strides_of(c.x.shape), (*[0] * lead, *rows_of(shape)))
        return c.steps.normalized(
            function, c.x, by_memory(found[:lead], 0), found[lead:], float(c.get("eps", eps)),
            (c.held("weight"), c.held("bias")),
        )  # fmt: skip

    return lower


def _by_groups(c: Call) -> Stored:
    """What the channels of a group have in common; a weight and a bias for each channel."""
    (channels, *sizes), (_, own, *strides) = c.x.shape, strides_of(c.x.shape)
    groups = c.get("num_groups", channels)
    each = channels // groups
    inner = [Loop(each, (own, 1)), *loops(sizes, strides, [0] * len(sizes))]
    return c.steps.normalized(
        Row.STANDARD, c.x, [Loop(groups, (each * own, each))], by_memory(inner, 0), float(c.get("eps", 1e-5)),
        (c.held("weight"), c.held("bias")),
    )  # fmt: skip


def _of_positions(c: Call) -> Stored:
    """The channels of each position of a map."""
    found = loops((1, *c.x.shape), strides_of(c.x.shape), (0, 1, 0, 0))
    channels = found.pop(1)
    return c.steps.normalized(Row.STANDARD, c.x, by_memory(found, 0), [channels], c.attrs["eps"], c.parameters())


# --- maps ---------------------------------------------------------------------------------------------------------


def _resized(weights: Callable[[float, int], tuple[NDArray[np.int64], Floats]]) -> Rule:
    """Along every dimension of a map, by taps and weights for a place between two others."""

    def lower(c: Call) -> Stored:
        corners, value = bool(c.get("align_corners", False)), c.x
        factors = c.get("scale_factors", [None] * (len(c.shape) - 1))
        for dim, (before, after, factor) in enumerate(zip(c.x.shape[1:], c.shape[1:], factors, strict=True), 2):
            if before == after and factor in (None, 1):
                continue
            step = _step(before, after, factor, corners)
            found = [weights(i * step if corners else (i + 0.5) * step - 0.5, before) for i in range(after)]
            taps, parts = (np.stack(each) for each in zip(*found, strict=True))
            value = c.steps.resampled(value, dim, taps.astype(np.int32), parts.astype(np.float32))
        return value

    return lower


def _step(before: int, after: int, factor: float | None, corners: bool) -> float:
    """How far apart neighbours are in the map before."""
    if corners:
        return (before - 1) / (after - 1) if after > 1 else 0.0
    return 1 / factor if factor else before / after


def _linear(place: float, size: int) -> tuple[NDArray[np.int64], Floats]:
    start = floor(place := max(place, 0.0))
    return np.clip([start, start + 1], 0, size - 1), np.array([1 - (place - start), place - start], np.float32)


def _cubic(place: float, size: int) -> tuple[NDArray[np.int64], Floats]:
    start, bend = floor(place), -0.75
    away = np.abs(place - start - np.arange(-1, 3))
    inside = ((bend + 2) * away - (bend + 3)) * away**2 + 1
    outside = ((away - 5) * away + 8) * away * bend - 4 * bend
    return np.clip(np.arange(start - 1, start + 3), 0, size - 1), np.where(away <= 1, inside, outside).astype(
        np.float32
    )


def _adaptive(function: Row) -> Rule:
    """Windows of nearly the same size, along rows and along columns."""

    def lower(c: Call) -> Stored:
        value = c.x
        for dim, (before, after) in enumerate(zip(c.x.shape[1:], c.shape[1:], strict=True), 2):
            ends = [(floor(i * before / after), ceil((i + 1) * before / after)) for i in range(after)]
            longest = max(end - start for start, end in ends)
            taps = np.array([[min(start + i, end - 1) for i in range(longest)] for start, end in ends], np.int32)
            weights = np.array([[(start + i < end) / (end - start) for i in range(longest)] for start, end in ends])
            value = c.steps.resampled(value, dim, taps, weights.astype(np.float32), function)
        return value

    return lower


def _window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Step:
    return Step(
        Kind.POOL_FLOATS, kernel_rows=kernel[0], kernel_columns=kernel[1], stride_rows=stride[0],
        stride_columns=stride[1], above=padding[0], left=padding[1], dilation_rows=dilation[0],
        dilation_columns=dilation[1],
    )  # fmt: skip


def _pooled(function: Row) -> Rule:
    def lower(c: Call) -> Stored:
        a = c.attrs
        window = _window(a["kernel"], a["stride"], a["padding"], a.get("dilation", (1, 1)))
        window.flags = Flag.COUNT_PADDING if a.get("count_padding") else Flag(0)
        return c.steps.pooled(function, c.x, window)

    return lower


def _average(c: Call) -> Stored:
    """A pooling that the op `avg_pool2d` does not know."""

    def each(name: str, default: Sequence[int]) -> list[int]:
        given = c.get(name, [])
        given = given if isinstance(given, list) else [given]
        return (given * 2)[:2] if len(given) == 1 else given or list(default)

    kernel = each("kernel_size", ())
    divisor = c.get("divisor_override", None)
    if divisor is not None and c.get("ceil_mode", False):
        raise c.unsupported("an average pooling with a divisor_override and ceil_mode")
    window = _window(kernel, each("stride", kernel), each("padding", (0, 0)), (1, 1))
    window.flags = Flag.COUNT_PADDING if divisor is not None or c.get("count_include_pad", True) else Flag(0)
    found = c.steps.pooled(Row.TOTAL, c.x, window)
    return found if divisor is None else _product(c, found, prod(kernel) / divisor)


def _padded(c: Call) -> Stored:
    return c.steps.moved(lambda x: F.pad(x[0], c.arguments["pad"]), [c.x], c.shape, float(c.get("value", 0.0)))


# --- other places -------------------------------------------------------------------------------------------------


def _embedded(c: Call) -> Stored:
    return c.steps.embedded(c.operand("weight"), c.operand("indices"))


def _gathered(c: Call) -> Stored:
    dim, made = c.arguments["dim"], c.steps.builder.room(c.shape, None)
    return c.steps.picked(Pick.TAKE, c.operand("self"), c.operand("index"), made, dim % (len(c.shape) + 1))


def _scattered(step: Pick) -> Rule:
    def lower(c: Call) -> Stored:
        index, source = c.operand("index"), c.operand("src" if "value" not in c.arguments else "value")
        base = c.steps.combined(Pair.SUM, c.operand("self"), c.steps.constant(0.0))  # a copy, which is written into
        return c.steps.picked(step, source, index, base, c.arguments["dim"] % (len(c.shape) + 1))

    return lower


OPERATORS: Final[Mapping[str, Rule]] = {
    **_POINTWISE,
    "glu.default": _glu,
    "add.Tensor": _scaled(Pair.SUM),
    "sub.Tensor": _scaled(Pair.DIFFERENCE),
    "mul.Tensor": _pair(Pair.PRODUCT),
    "div.Tensor": _pair(Pair.QUOTIENT),
    "maximum.default": _pair(Pair.LARGER),
    "minimum.default": _pair(Pair.SMALLER),
    "pow.Scalar": _pair(Pair.POWER, "self", "exponent"),
    "pow.Tensor_Scalar": _pair(Pair.POWER, "self", "exponent"),
    "pow.Tensor_Tensor": _pair(Pair.POWER, "self", "exponent"),
    "fmod.Scalar": _pair(Pair.REMAINDER),
    "fmod.Tensor": _pair(Pair.REMAINDER),
    "eq.Scalar": _pair(Pair.EQUAL),
    "eq.Tensor": _pair(Pair.EQUAL),
    "ne.Scalar": _pair(Pair.UNEQUAL),
    "ne.Tensor": _pair(Pair.UNEQUAL),
    "lt.Scalar": _pair(Pair.LESS),
    "lt.Tensor": _pair(Pair.LESS),
    "le.Scalar": _pair(Pair.LESS_EQUAL),
    "le.Tensor": _pair(Pair.LESS_EQUAL),
    "gt.Scalar": _pair(Pair.LESS, "other", "self"),
    "gt.Tensor": _pair(Pair.LESS, "other", "self"),
    "ge.Scalar": _pair(Pair.LESS_EQUAL, "other", "self"),
    "ge.Tensor": _pair(Pair.LESS_EQUAL, "other", "self"),
    "logical_and.default": _pair(Pair.AND),
    "logical_or.default": _pair(Pair.OR),
    "logical_xor.default": _pair(Pair.XOR),
    "where.self": _where,
    "matmul.default": lambda c: c.steps.multiplied(c.operand("self"), c.operand("other")),
    "amax.default": _reduced(Row.LARGEST),
    "amin.default": _reduced(Row.SMALLEST),
    "argmax.default": _reduced(Row.PLACE_OF_LARGEST),
    "argmin.default": _reduced(Row.PLACE_OF_SMALLEST),
    "linalg_vector_norm.default": _norm,
    "logsumexp.default": _reduced(Row.EXPONENTIALS),
    "mean.dim": _mean,
    "prod.dim_int": _reduced(Row.PRODUCT_OF_ALL),
    "std.correction": lambda c: c.steps.pointwise(Pointwise.SQRT, _variance(c)),
    "sum.dim_IntList": _reduced(Row.TOTAL),
    "var.correction": _variance,
    "cumsum.default": _along(Row.RUNNING_SUM),
    "softmax.int": _along(Row.SOFTMAX),
    "log_softmax.int": _along(Row.LOG_SOFTMAX),
    "sort.default": _ordered,
    "topk.default": _ordered,
    "layer_norm.default": _normalized_last(Row.STANDARD, 1e-5),
    "rms_norm.default": _normalized_last(Row.RMS, float(np.finfo(np.float32).eps)),
    "group_norm.default": _by_groups,
    "instance_norm.default": _by_groups,
    "upsample_bilinear2d.vec": _resized(_linear),
    "upsample_trilinear3d.vec": _resized(_linear),
    "upsample_bicubic2d.vec": _resized(_cubic),
    "adaptive_avg_pool2d.default": _adaptive(Row.TOTAL),
    "adaptive_max_pool2d.default": _adaptive(Row.LARGEST),
    "avg_pool2d.default": _average,
    "pad.default": _padded,
    "embedding.default": _embedded,
    "gather.default": _gathered,
    "scatter.src": _scattered(Pick.PUT),
    "scatter.value": _scattered(Pick.PUT),
    "scatter_add.default": _scattered(Pick.ACCUMULATE),
}
"""Rules by the names of `edgeq.ir.ops.float_operators.OPERATORS`."""

OPS: Final[Mapping[str, Rule]] = {
    "add": _of_inputs(Pair.SUM),
    "mul": _of_inputs(Pair.PRODUCT),
    "relu": _fixed(Pointwise.CLIP, 0.0, inf),
    "clip": lambda c: c.steps.pointwise(Pointwise.CLIP, c.x, 0.0, c.attrs["max"]),
    "leaky_relu": lambda c: c.steps.pointwise(Pointwise.LEAKY_RELU, c.x, c.attrs["slope"]),
    "prelu": _prelu,
    "sigmoid": _fixed(Pointwise.SIGMOID),
    "tanh": _fixed(Pointwise.TANH),
    "gelu": _fixed(Pointwise.GELU),
    "hardsigmoid": _fixed(Pointwise.HARDSIGMOID),
    "hardswish": _fixed(Pointwise.HARDSWISH),
    "layer_norm": _of_positions,
    "max_pool2d": _pooled(Row.LARGEST),
    "avg_pool2d": _pooled(Row.TOTAL),
    "global_avg_pool": lambda c: c.steps.reduced(Row.TOTAL, c.x, [2, 3], 1 / prod(c.x.shape[1:])),
}
"""Rules by the names of ops."""
