"""Operators without an integer form: PyTorch computes them in float, by the ATen operator that a `float` node names.

Nodes come from files, too, so what may be named is a fixed list of pure functions; nothing else is ever looked up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgeq.errors import ArtifactError
from edgeq.ir.ops.op import Op
from edgeq.ir.ops.recurrent import RECURRENT
from edgeq.ir.ops.sorting import SORTING

OPERATORS: Final = frozenset({
    # activations
    "celu.default", "clamp.default", "elu.default", "gelu.default", "glu.default", "hardshrink.default",
    "log_sigmoid.default", "log_softmax.int", "mish.default", "selu.default", "softmax.int",
    "softplus.default", "softshrink.default", "threshold.default",
    # functions
    "abs.default", "acos.default", "acosh.default", "asin.default", "asinh.default", "atan.default", "atanh.default",
    "ceil.default", "cos.default", "cosh.default", "erf.default", "exp.default", "exp2.default", "expm1.default",
    "floor.default", "isinf.default", "isnan.default", "log.default", "log10.default", "log1p.default", "log2.default",
    "nan_to_num.default", "pow.Scalar", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "reciprocal.default", "round.default",
    "rsqrt.default", "sign.default", "sin.default", "sinh.default", "sqrt.default", "square.default", "tan.default",
    "trunc.default",
    # of two values
    "add.Tensor", "div.Tensor", "fmod.Scalar", "fmod.Tensor", "matmul.default", "maximum.default", "minimum.default",
    "mul.Tensor", "sub.Tensor",
    # comparisons
    "eq.Scalar", "eq.Tensor", "ge.Scalar", "ge.Tensor", "gt.Scalar", "gt.Tensor", "le.Scalar", "le.Tensor", "lt.Scalar",
    "lt.Tensor", "ne.Scalar", "ne.Tensor", "where.self",
    # of what is true or false
    "logical_and.default", "logical_not.default", "logical_or.default", "logical_xor.default",
    # over some dimensions
    "amax.default", "amin.default", "argmax.default", "argmin.default", "cumsum.default", "linalg_vector_norm.default",
    "logsumexp.default", "mean.dim", "prod.dim_int", "sort.default", "std.correction", "sum.dim_IntList",
    "topk.default", "var.correction",
    # of other places
    "embedding.default", "gather.default", "scatter.src", "scatter.value", "scatter_add.default",
    # normalizations
    "group_norm.default", "instance_norm.default", "layer_norm.default", "rms_norm.default",
    # maps
    "adaptive_avg_pool2d.default", "adaptive_max_pool2d.default", "avg_pool2d.default", "avg_pool3d.default",
    "col2im.default", "grid_sampler_2d.default", "pad.default", "upsample_bicubic2d.vec", "upsample_bilinear2d.vec",
    "upsample_trilinear3d.vec",
    # sequences
    "gru.input", "lstm.input",
})  # fmt: skip
"""ATen operators by name and overload: pure, deterministic, of tensors and constants to one or several tensors."""

FINAL: Final = frozenset({"softmax.int", "log_softmax.int", "argmax.default", "argmin.default"})
"""Those that, at the end of a network, turn its logits into something else."""

FLOAT: Final = (Op("float", opset=20),)
"""The op of all these operators: a node names its own, and its module is a `FloatOperator`."""


_POSITIONS: Final = ("index", "indices")
"""Arguments that are integers."""

_STEEP: Final = frozenset({"pow.Tensor_Scalar", "sqrt.default", "std.correction"})
"""Those whose gradient can be infinite at 0, as the root of a LP pooling over zeros."""


def _flat_where_infinite(x: Tensor) -> Tensor:
    """The same value, whose gradient is 0 where it would not be finite, as that of a ReLU is at 0."""
    if x.requires_grad:
        x = x.view_as(x)
        x.register_hook(lambda gradient: gradient.where(gradient.isfinite(), 0))  # type: ignore[no-untyped-call]
    return x


class FloatOperator(nn.Module):
    """One ATen operator with its constant arguments.

    Args:
        operator: one of `OPERATORS`.
        reads: names of the arguments that are computed, in the order in which they are passed.
        arguments: those that are numbers, booleans, strings or lists of them, by name.
        tensors: those that are parameters, float32, by name; `NAME_I` is number I of a list of them.
        result: which one of several results it makes.

    Raises:
        ArtifactError: another operator, or one without such an argument or result.
    """

    def __init__(
        self,
        operator: str,
        reads: Sequence[str],
        arguments: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        result: int = 0,
    ) -> None:
        super().__init__()
        if operator not in OPERATORS:
            raise ArtifactError(f"operator {operator} is none of those that edgeq computes in float")
        packet, _, overload = operator.partition(".")
        function = getattr(getattr(torch.ops.aten, packet), overload)
        self.function, schema = {**RECURRENT, **SORTING}.get(operator, function), function._schema
        self.operator, self.reads, self.arguments, self.tensors = operator, list(reads), dict(arguments), list(tensors)
        self.result, known = result, [argument.name for argument in schema.arguments]
        self.positional = {a.name: a.default_value for a in schema.arguments if not a.kwarg_only}
        self.lists = {name: name.rpartition("_")[0] for name in self.tensors if name not in known}
        named = {*self.reads, *self.arguments, *(self.lists.get(name, name) for name in self.tensors)}
        if unknown := named.difference(known):
            raise ArtifactError(f"operator {operator} has no argument {min(unknown)}; expected {', '.join(known)}")
        if not 0 <= result < len(schema.returns):
            raise ArtifactError(f"operator {operator} has no result {result}")
        for name, value in tensors.items():
            self.register_buffer(name, value.clone())

    @property
    def attrs(self) -> dict[str, Any]:
        """What a node says of it, in JSON values."""
        attrs = {name: getattr(self, name) for name in ("operator", "reads", "arguments", "tensors")}
        return attrs | ({"result": self.result} if self.result else {})

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute float32 from float32; what is true or false becomes 1 or 0, and a position a number."""
        given = self.arguments | {name: self.get_buffer(name) for name in self.tensors if name not in self.lists}
        for name, whole in self.lists.items():
            given[whole] = [*given.get(whole, ()), self.get_buffer(name)]
        given |= {name: value.float() for name, value in zip(self.reads, inputs, strict=True)}
        if self.operator in _STEEP:
            given["self"] = _flat_where_infinite(given["self"])
        given |= {name: given[name].long() for name in _POSITIONS if name in given}
        if "condition" in given:
            given["condition"] = given["condition"] != 0
        positional = [given.pop(name, default) for name, default in self.positional.items()]
        with torch.autocast("cpu", enabled=False):
            found = self.function(*positional, **given)
        values: Tensor = found[self.result] if isinstance(found, tuple) else found
        return values.float()
