"""ATen operators that add, multiply and compare: of two computed values, or of one and a constant."""

from __future__ import annotations

from math import prod
from typing import Any, Final, cast

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import target_name, unsupported
from edgeq.frontends.torch_export.shapes import viewed


def scale_and_shift(
    builder: GraphBuilder, node: fx.Node, value: Argument | str, factor: Tensor, shift: Tensor, name: str = ""
) -> str:
    """`factor * value + shift`, both `[channels]`, the first dimension of a node; `edgeq.frontends.torch_export.fold`
    finds the node of that name a place."""
    shape = builder.shape(node)
    source = value if isinstance(value, str) else builder.value(value, node)
    if len(shape) not in (1, 3):
        source = viewed(builder, node, source, (shape[0], 1, prod(shape[1:])))
    made = builder.emit_affine(node, source, factor, shift, name)
    viewed(builder, node, made.name, shape)
    return made.name


def _per_channel(builder: GraphBuilder, node: fx.Node, value: Argument, constant: Tensor | None) -> Tensor | None:
    """What a constant has for each channel of the result, `[channels]`; None if it is not of that form."""
    shape = builder.shape(node)
    if constant is None or len(shape) not in (1, 2, 3) or builder.shape(cast(fx.Node, value)) != shape:
        return None
    if constant.dim() > len(shape) and len(constant) != 1:
        raise unsupported(node, f"{node.target} with a constant for each image; expected the same for all")
    whole = constant.expand(1, *shape)[0]
    each = whole.reshape(shape[0], -1)
    return each[:, 0] if torch.equal(each, each[:, :1].expand_as(each)) else None


def _computed(builder: GraphBuilder, args: dict[str, Any]) -> bool:
    return all(isinstance(args[key], fx.Node) and args[key] in builder.alias for key in ("input", "other"))


def _add(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A sum or a difference, of two values or with a constant."""
    alpha = float(args["alpha"])
    factors = {
        "add": {"input": 1.0, "other": alpha}, "sub": {"input": 1.0, "other": -alpha},
        "rsub": {"input": -alpha, "other": 1.0},
    }[target_name(node).split(".")[1]]  # fmt: skip
    for key, value in (("input", "other"), ("other", "input")):
        shift = _per_channel(builder, node, args[value], builder.constant(args[key], node))
        if shift is not None:
            factor = torch.full_like(shift, factors[value])
            scale_and_shift(builder, node, args[value], factor, factors[key] * shift)
            return
    maps = _computed(builder, args) and all(len(builder.shape(args[key])) in (1, 3) for key in factors)
    if not _computed(builder, args) or not (maps or all(scale == 1 for scale in factors.values())):
        first, second = (args[key] for key in (("other", "input") if "rsub" in target_name(node) else factors))
        operator = "sub.Tensor" if "sub" in target_name(node) else "add.Tensor"
        builder.emit_float(node, {"self": first, "other": second, "alpha": alpha}, operator)
        return
    inputs: list[Argument | str] = []
    for key, scale in factors.items():
        scaled = args[key] if scale == 1 else builder.emit_affine(node, args[key], scale).name
        inputs.append(scaled)
    builder.emit(node, "add", inputs)


def _mul(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    for value, key in (("input", "other"), ("other", "input")):
        factor = _per_channel(builder, node, args[value], builder.constant(args[key], node))
        if factor is not None:
            scale_and_shift(builder, node, args[value], factor, torch.zeros_like(factor))
            return
    if _computed(builder, args):
        builder.emit(node, "mul", [args["input"], args["other"]])
    else:
        builder.emit_float(node, {"self": args["input"], "other": args["other"]}, "mul.Tensor")


def _div(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    divisor = builder.constant(args["other"], node)
    if divisor is not None and not divisor.all():
        raise unsupported(node, "a division by zero")
    per_channel = _per_channel(builder, node, args["input"], divisor)
    if per_channel is not None:
        scale_and_shift(builder, node, args["input"], 1 / per_channel, torch.zeros_like(per_channel))
    else:
        builder.emit_float(node, {"self": args["input"], "other": args["other"]}, "div.Tensor")


def _neg(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if len(builder.shape(node)) in (1, 3):
        builder.emit_affine(node, args["input"], -1.0)
    else:
        builder.emit_float(node, {"other": -1.0}, "mul.Tensor")


def _larger(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """The larger of two values; than 0, a ReLU."""
    for value, key in (("input", "other"), ("other", "input")):
        constant = builder.constant(args[key], node)
        if constant is not None and not constant.any() and builder.shape(args[value]) == builder.shape(node):
            builder.emit(node, "relu", [args[value]])
            return
    builder.emit_float(node, operator="maximum.default")


def _smaller(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    builder.emit_float(node, operator="minimum.default")


ARITHMETIC: Final[dict[str, Handler]] = {
    "aten.add.Tensor": _add,
    "aten.add.Scalar": _add,
    "aten.sub.Tensor": _add,
    "aten.sub.Scalar": _add,
    "aten.rsub.Scalar": _add,
    "aten.rsub.Tensor": _add,
    "aten.mul.Tensor": _mul,
    "aten.mul.Scalar": _mul,
    "aten.div.Tensor": _div,
    "aten.div.Scalar": _div,
    "aten.neg.default": _neg,
    "aten.maximum.default": _larger,
    "aten.max.other": _larger,
    "aten.minimum.default": _smaller,
    "aten.min.other": _smaller,
}
