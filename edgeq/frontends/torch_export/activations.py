"""Activations that need more than the entry of an op (`edgeq.ir.ops.activations`): several nodes, or a look around."""

from __future__ import annotations

from math import inf
from typing import Any, Final

from torch import fx

from edgeq.frontends.torch_export.builder import GraphBuilder, Handler
from edgeq.frontends.torch_export.calls import unsupported
from edgeq.frontends.torch_export.shapes import vanishing
from edgeq.ir.ops.registry import OPS


def _silu(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`x * sigmoid(x)`, because runtimes have integer kernels for both."""
    source, gate = builder.value(args["input"], node), builder.emit(node, "sigmoid", [args["input"]])
    builder.follow(node, gate, "mul", gate.shape, {}, source)


def _random_relu(_: GraphBuilder, node: fx.Node, __: dict[str, Any]) -> None:
    raise unsupported(node, "an RReLU that stays random in evaluation; pass it training=self.training")


def _clip(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A ReLU or a clip if the lower bound is 0, or has no effect; else a clamp in float."""
    low, high = (args.get(f"{end}_val", args.get(end)) for end in ("min", "max"))
    low, high = None if low == -inf else low, None if high == inf else high
    before = OPS.get(builder.op(builder.value(args["input"], node)))
    if (low is None or low < 0) and before is not None and before.clipping:
        low = 0
    if low is None and high is None:
        vanishing(builder, node, args)
    elif low != 0 or (high is not None and high <= 0):
        bounds = {"self": args["input"], "min": low, "max": high}
        builder.emit_float(node, bounds | {"min_val": None, "max_val": None}, "clamp.default")
    elif high is None:
        builder.emit(node, "relu", [args["input"]])
    else:
        builder.emit(node, "clip", [args["input"]], {"max": float(high)})


ACTIVATIONS: Final[dict[str, Handler]] = {
    "aten.hardtanh.default": _clip,
    "aten.clamp.default": _clip,
    "aten.clip.default": _clip,
    "aten.clamp_min.default": _clip,
    "aten.clamp_max.default": _clip,
    "aten.silu.default": _silu,
    "aten.rrelu.default": _random_relu,
}
