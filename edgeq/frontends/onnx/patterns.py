"""Activations and normalizations that a file writes out in small operators, as the one operator that they are.

Older operator sets lack them, and exporters take them apart: hard swish, GELU, layer norm. Looked for by onnxscript's
rewriter, which lets values that other nodes read stay as they are.
"""

from __future__ import annotations

from math import isclose
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnxscript.rewriter import pattern, rewrite

_NUMBERS: Final = {
    "three": 3.0, "zero": 0.0, "six": 6.0, "divisor": 6.0, "sixth": 1 / 6,
    "root": 2**0.5, "inverse": 2**-0.5, "one": 1.0, "half": 0.5,
}  # fmt: skip
"""What the constants in patterns are."""


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with such operators; the names of values stay."""
    found = ir.serde.deserialize_model(model)
    known = {node.name for node in found.graph}
    made: ir.Model = rewrite(found, pattern_rewrite_rules=_RULES)
    for node in made.graph:
        if node.name not in known:  # it is called as what it makes
            node.name = None
    return ir.serde.serialize_model(made)


def _clipped(op: Any, x: Any, three: Any, zero: Any, six: Any) -> Any:
    """Six times a hard sigmoid, with bounds that are inputs, or attributes."""
    return pattern.OrValue([op.Clip(x + three, zero, six), op.Clip(x + three, min=0.0, max=6.0)], tag_var="form")


def _swish_divided(op: Any, x: Any, three: Any, zero: Any, six: Any, divisor: Any) -> Any:
    return (x * _clipped(op, x, three, zero, six)) / divisor


def _swish_scaled(op: Any, x: Any, three: Any, zero: Any, six: Any, sixth: Any) -> Any:
    return (x * _clipped(op, x, three, zero, six)) * sixth


def _swish_of_quotient(op: Any, x: Any, three: Any, zero: Any, six: Any, divisor: Any) -> Any:
    return x * (_clipped(op, x, three, zero, six) / divisor)


def _swish_of_product(op: Any, x: Any, three: Any, zero: Any, six: Any, sixth: Any) -> Any:
    return x * (_clipped(op, x, three, zero, six) * sixth)


def _hard_swish(op: Any, x: Any, **_: Any) -> Any:
    return op.HardSwish(x)


def _erf(op: Any, x: Any, root: Any, inverse: Any, one: Any) -> Any:
    return pattern.OrValue([op.Erf(x / root), op.Erf(x * inverse)], tag_var="form") + one


def _gelu_halved(op: Any, x: Any, root: Any, inverse: Any, one: Any, half: Any) -> Any:
    return (x * _erf(op, x, root, inverse, one)) * half


def _gelu_of_half(op: Any, x: Any, root: Any, inverse: Any, one: Any, half: Any) -> Any:
    return (x * half) * _erf(op, x, root, inverse, one)


def _gelu_of_halved(op: Any, x: Any, root: Any, inverse: Any, one: Any, half: Any) -> Any:
    return x * (_erf(op, x, root, inverse, one) * half)


def _gelu(op: Any, x: Any, **_: Any) -> Any:
    return op.Gelu(x)


def _has_its_numbers(_: Any, **values: Any) -> bool:
    """Whether the constants of a pattern are the numbers that it is about; those of another form of it are missing."""
    found = {name: _number(value) for name, value in values.items() if name in _NUMBERS and value is not None}
    return all(number is not None and isclose(number, _NUMBERS[name], rel_tol=1e-5) for name, number in found.items())


def _number(value: Any) -> float | None:
    tensor = ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _normalized_by_attribute(op: Any, x: Any, epsilon: Any, exponent: Any) -> Any:
    mean = op.ReduceMean(x, _allow_other_attributes=True, _outputs=["mean"])
    centred = x - mean
    squares = pattern.OrValue([op.Pow(centred, exponent), centred * centred], tag_var="form")
    variance = op.ReduceMean(squares, _allow_other_attributes=True, _outputs=["variance"])
    return centred / op.Sqrt(variance + epsilon)


def _normalized_by_input(op: Any, x: Any, epsilon: Any, exponent: Any, axes: Any) -> Any:
    mean = op.ReduceMean(x, axes, _allow_other_attributes=True, _outputs=["mean"])
    centred = x - mean
    squares = pattern.OrValue([op.Pow(centred, exponent), centred * centred], tag_var="form")
    variance = op.ReduceMean(squares, axes, _allow_other_attributes=True, _outputs=["variance"])
    return centred / op.Sqrt(variance + epsilon)


def _over_the_last(
    _: Any, x: Any, epsilon: Any, mean: Any, variance: Any, exponent: Any = None, axes: Any = None, **__: Any
) -> bool:
    """Whether both means are over the last axis alone, which is kept."""
    rank = None if x.shape is None else len(x.shape)
    if rank is None or _number(epsilon) is None or (exponent is not None and _number(exponent) != 2):
        return False
    constant = None if axes is None else ir.convenience.get_const_tensor(axes)
    for node in (mean.producer(), variance.producer()):
        given = node.attributes.get_ints("axes", []) if constant is None else constant.numpy()
        if node.attributes.get_int("keepdims", 1) != 1 or [int(axis) % rank for axis in given] != [rank - 1]:
            return False
    return True


def _layer_norm(op: Any, x: Any, epsilon: Any, **_: Any) -> Any:
    return op.LayerNormalization(x, axis=-1, epsilon=_number(epsilon))


def _times_weight(op: Any, x: Any, weight: Any) -> Any:
    return op.LayerNormalization(x, _allow_other_attributes=True, _outputs=["norm"]) * weight


def _plus_bias(op: Any, x: Any, weight: Any, bias: Any) -> Any:
    return op.LayerNormalization(x, weight, _allow_other_attributes=True, _outputs=["norm"]) + bias


def _of_the_last(x: Any, value: Any) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and x.shape is not None and list(tensor.shape) == [x.shape[-1]]


def _is_weight(_: Any, x: Any, weight: Any, **__: Any) -> bool:
    return _of_the_last(x, weight)


def _is_bias(_: Any, x: Any, bias: Any, **__: Any) -> bool:
    return _of_the_last(x, bias)


def _weighted(op: Any, x: Any, weight: Any, norm: Any, bias: Any = None, **_: Any) -> Any:
    epsilon = norm.producer().attributes.get_float("epsilon", 1e-5)
    return op.LayerNormalization(x, *(v for v in (weight, bias) if v is not None), axis=-1, epsilon=epsilon)


_RULES: Final = pattern.RewriteRuleSet(
    [
        *(
            pattern.RewriteRule(found, _hard_swish, _has_its_numbers)
            for found in (_swish_divided, _swish_scaled, _swish_of_quotient, _swish_of_product)
        ),
        *(
            pattern.RewriteRule(found, _gelu, _has_its_numbers)
            for found in (_gelu_halved, _gelu_of_half, _gelu_of_halved)
        ),
        pattern.RewriteRule(_normalized_by_attribute, _layer_norm, _over_the_last),
        pattern.RewriteRule(_normalized_by_input, _layer_norm, _over_the_last),
        pattern.RewriteRule(_times_weight, _weighted, _is_weight),
        pattern.RewriteRule(_plus_bias, _weighted, _is_bias),
    ],
    commute=True,
)
