"""Ways to call every operator that stays in float, and networks that do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.float_operators import FloatOperator

SHAPE = (4, 6, 6)


@dataclass(frozen=True)
class Case:
    """How to call an operator on an image of `SHAPE`, and on what other nodes make of it."""

    reads: tuple[str, ...] = ("self",)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    result: int = 0
    before: tuple[str, ...] = ()  # operators on the image that make the other values, or all of them
    shape: tuple[int, ...] = SHAPE


def of(*reads: str, **arguments: Any) -> Case:
    return Case(reads or ("self",), arguments)


def weights(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)


def recurrent(gates: int, states: int, **more: Any) -> Mapping[str, Tensor]:
    """Of two layers in both directions, from 6 values to 2 * 3."""
    sizes = [(gates * 3, 6), (gates * 3, 3), (gates * 3,), (gates * 3,)] * 4
    sizes[8:] = [(gates * 3, 6), *sizes[9:12]] * 2
    generator = torch.Generator().manual_seed(0)
    made = {f"params_{i}": torch.randn(size, generator=generator) / 2 for i, size in enumerate(sizes)}
    first = {"hx": torch.zeros(1, 4, 3)} if states == 1 else {f"hx_{i}": torch.zeros(1, 4, 3) for i in range(states)}
    return first | made | more


RECURRENT = {
    "has_biases": True, "num_layers": 2, "dropout": 0.0, "train": False, "bidirectional": True, "batch_first": True,
}  # fmt: skip
POSITIVE, UNIT = ("abs.default",), ("sin.default",)
POINTS = ("lt.Scalar",)
TWO = of("self", "other")
CASES: dict[str, list[Case]] = {
    **{
        f"{name}.default": [Case()]
        for name in (
            "abs", "atan", "asinh", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1", "floor", "isinf", "isnan",
            "log_sigmoid", "mish", "nan_to_num", "reciprocal", "round", "selu", "sign", "sin", "sinh", "square", "tan",
            "trunc",
        )
    },
    **{
        f"{name}.default": [Case(before=POSITIVE)] for name in ("log", "log10", "log1p", "log2", "rsqrt", "sqrt")
    },
    **{f"{name}.default": [Case(before=UNIT)] for name in ("acos", "asin", "atanh")},
    "acosh.default": [Case(before=("cosh.default",))],
    "celu.default": [of(alpha=0.5)],
    "clamp.default": [of(min=-0.5, max=1.5), of(max=1)],
    "elu.default": [of(), of(alpha=0.7, scale=1.2, input_scale=0.9)],
    "gelu.default": [of(), of(approximate="tanh")],
    "glu.default": [of(dim=1)],
    "hardshrink.default": [of(lambd=0.3)],
    "softshrink.default": [of(lambd=0.3)],
    "softmax.int": [of(dim=1), of(dim=-1)],
    "log_softmax.int": [of(dim=2)],
    "softplus.default": [of(), of(beta=2.0)],
    "threshold.default": [of(threshold=0.1, value=0.3)],
    "pow.Scalar": [Case(("exponent",), {"self": 2.0})],
    "pow.Tensor_Scalar": [of(exponent=2)],
    "pow.Tensor_Tensor": [Case(("self", "exponent"), before=("abs.default", INPUT))],
    "add.Tensor": [TWO, of(other=2.0), Case(("other",), {"alpha": 3.0}, {"self": weights(6, 6)})],
    "sub.Tensor": [of("self", "other", alpha=0.5)],
    **{key: [TWO] for key in ("mul.Tensor", "div.Tensor", "maximum.default", "minimum.default", "matmul.default")},
    **{key: [Case(("self", "other"), before=("sign.default", "ceil.default"))] for key in ("eq.Tensor", "ne.Tensor")},
    **{key: [TWO] for key in ("ge.Tensor", "gt.Tensor", "le.Tensor", "lt.Tensor")},
    **{f"{name}.Scalar": [of(other=0.5)] for name in ("ge", "gt", "le", "lt")},
    **{f"{name}.Scalar": [Case(arguments={"other": 1}, before=("round.default",))] for name in ("eq", "ne")},
    "fmod.Scalar": [of(other=0.7)],
    "fmod.Tensor": [TWO],
    "where.self": [Case(("condition", "self", "other"), before=("gt.Scalar", INPUT, "abs.default"))],
    **{
        f"logical_{name}.default": [Case(("self", "other"), before=("trunc.default", "gt.Scalar"))]
        for name in ("and", "or", "xor")
    },
    "logical_not.default": [Case(before=("trunc.default",))],
    **{key: [of(dim=[1, -1])] for key in ("amax.default", "amin.default", "logsumexp.default", "mean.dim")},
    "sum.dim_IntList": [of(dim=[2], keepdim=True)],
    **{key: [of(dim=1), of(dim=3, keepdim=True)] for key in ("argmax.default", "argmin.default")},
    "linalg_vector_norm.default": [of(dim=[1]), of(ord=1, dim=[2], keepdim=True), of(ord=3, dim=[2, 3])],
    **{key: [of(dim=[2, 3]), of(dim=[1], correction=0, keepdim=True)] for key in ("std.correction", "var.correction")},
    "cumsum.default": [of(dim=1), of(dim=-1)],
    "prod.dim_int": [of(dim=2), of(dim=1, keepdim=True)],
    "sort.default": [of(dim=2), Case(arguments={"descending": True}, result=1)],
    "topk.default": [of(k=2, dim=1), Case(arguments={"k": 3, "largest": False}, result=1)],
    "gather.default": [Case(("self", "index"), {"dim": 1}, before=(INPUT, "gt.Scalar"))],
    "scatter.src": [Case(("self", "index", "src"), {"dim": 1}, before=(INPUT, "argmax", INPUT))],
    "scatter.value": [Case(("self", "index"), {"dim": 1, "value": 2.5}, before=(INPUT, "argmax"))],
    "scatter_add.default": [Case(("self", "index", "src"), {"dim": 1}, before=(INPUT, "gt.Scalar", INPUT))],
    "embedding.default": [Case(("indices",), tensors={"weight": weights(2, 5)}, before=("gt.Scalar",))],
    "group_norm.default": [Case(("input",), {"num_groups": 2}, {"weight": weights(4), "bias": weights(4)})],
    "instance_norm.default": [
        Case(("input",), {"use_input_stats": True, "momentum": 0.0, "eps": 1e-5, "cudnn_enabled": False})
    ],
    "layer_norm.default": [
        Case(("input",), {"normalized_shape": [6]}), Case(("input",), {"normalized_shape": [4, 6, 6], "eps": 1e-3}),
        Case(("input",), {"normalized_shape": [6]}, {"weight": weights(6), "bias": weights(6)}),
    ],
    "rms_norm.default": [Case(("input",), {"normalized_shape": [6, 6]}, {"weight": weights(6, 6)})],
    "adaptive_avg_pool2d.default": [of(output_size=[4, 5])],
    "adaptive_max_pool2d.default": [of(output_size=[4, 5])],
    "avg_pool2d.default": [of(kernel_size=[3, 2], padding=[1, 1], divisor_override=5)],
    "avg_pool3d.default": [Case(arguments={"kernel_size": [2, 3, 3], "stride": [1, 2, 2]}, shape=(1, *SHAPE))],
    "pad.default": [of(pad=[1, 0, 2, 1], value=0.5), of(pad=[-1, 0, 0, -2])],
    "upsample_bilinear2d.vec": [
        Case(("input",), {"output_size": [9, 5], "align_corners": True}),
        Case(("input",), {"align_corners": False, "scale_factors": [1.5, 2.0]}),
    ],
    "upsample_bicubic2d.vec": [Case(("input",), {"output_size": [9, 5], "align_corners": False})],
    "upsample_trilinear3d.vec": [
        Case(("input",), {"output_size": [3, 8, 4], "align_corners": False}, shape=(2, 2, 6, 6)),
    ],
    "col2im.default": [
        Case(arguments={
            "output_size": [5, 6], "kernel_size": [3, 2], "dilation": [1, 1], "padding": [1, 0], "stride": [2, 2],
        }, shape=(12, 9)),
    ],
    "grid_sampler_2d.default": [
        Case(
            ("input", "grid"), {"interpolation_mode": mode, "padding_mode": pad, "align_corners": corners},
            before=(INPUT, "sin.default"), shape=(4, 5, 2),
        )
        for mode, pad, corners in ((0, 0, False), (0, 1, True), (1, 0, False), (0, 2, False))
    ],
    "lstm.input": [
        Case(("input",), RECURRENT, recurrent(4, 2), result, shape=(5, 6)) for result in range(3)
    ] + [Case(("input",), RECURRENT, recurrent(4, 2, hx_1=weights(1, 4, 3)), shape=(5, 6))],
    "gru.input": [
        Case(("input",), RECURRENT, recurrent(3, 1, hx=weights(1, 4, 3)), result, shape=(5, 6)) for result in range(2)
    ],
}  # fmt: skip
"""Ways to call every operator."""

BEFORE: dict[str, Mapping[str, Any]] = {"gt.Scalar": {"other": 0.5}, "argmax": {"dim": 1, "keepdim": True}}


def network_of(operator: str, case: Case) -> Network:
    """The operator alone, behind those that make what it reads."""
    nodes: list[Node] = []
    layers: dict[str, FloatOperator] = {}
    values: dict[str, Tensor] = {INPUT: torch.rand(1, *case.shape)}

    def add(name: str, layer: FloatOperator, inputs: list[str]) -> None:
        layers[name] = layer
        values[name] = layer(*(values[source] for source in inputs))
        nodes.append(Node(name, "float", tuple(inputs), tuple(values[name].shape[1:]), layer.attrs))

    sources = []
    for number, made in enumerate(case.before):
        sources.append(INPUT if made == INPUT else f"before{number}")
        if made != INPUT:
            name = made if "." in made else f"{made}.default"
            add(sources[-1], FloatOperator(name, ["self"], BEFORE.get(made, {}), {}), [INPUT])
    sources += [INPUT] * (len(case.reads) - len(sources))
    layer = FloatOperator(operator, case.reads, case.arguments, dict(case.tensors), case.result)
    add("alone", layer, sources)
    return Network(Graph.of_image(case.shape, tuple(nodes)), layers)
