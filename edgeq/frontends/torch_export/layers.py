"""ATen operators with weights, as layers: convolutions, products with a matrix, normalizations."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import torch
from torch import fx

from edgeq.errors import WeightsError
from edgeq.frontends.torch_export.arithmetic import scale_and_shift
from edgeq.frontends.torch_export.arrange import aligned, first, image_dim, in_order, lead, placed
from edgeq.frontends.torch_export.builder import GraphBuilder, Handler, Parameters
from edgeq.frontends.torch_export.calls import module_path, unsupported
from edgeq.frontends.torch_export.shapes import cropped, viewed
from edgeq.ir.network import POINT, Moments, float_layer
from edgeq.ir.ops.layers import geometry


def _same(args: dict[str, Any]) -> list[int]:
    """The number of pixels behind a map that `padding="valid"` or `"same"` stands for; before it may be one less."""
    kernel = args["weight"].meta["val"].shape[2:]
    dilation = args["dilation"] if len(args["dilation"]) == len(kernel) else [*args["dilation"]] * len(kernel)
    return [-(-d * (k - 1) * (args["padding"] == "same") // 2) for d, k in zip(dilation, kernel, strict=True)]


def _conv2d_padding(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    attrs, source = geometry(args | {"padding": _same(args)}), builder.value(args["input"], node)
    _convolved(builder, node, source, builder.parameters(args, node), attrs, builder.shape(node))


def _convolved(
    builder: GraphBuilder,
    node: fx.Node,
    source: str,
    parameters: Parameters,
    attrs: dict[str, Any],
    shape: tuple[int, ...],
) -> str:
    """A convolution, padded on both sides alike, without the first outputs if it makes too many of them."""
    axes = [builder.shape_of(source)[1:], parameters.weight.shape[2:]]
    axes += [attrs[key] for key in ("stride", "padding", "dilation")]
    sizes = [(n + 2 * pad - d * (k - 1) - 1) // step + 1 for n, k, step, pad, d in zip(*axes, strict=True)]
    made = builder.add_layer(node, "conv2d", source, parameters, attrs, (shape[0], *sizes))
    starts = [0, *(size - wanted for size, wanted in zip(sizes, shape[1:], strict=True))]
    return cropped(builder, node, made.name, starts, shape)


def _conv1d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A convolution over rows of values, as one over maps of one row."""
    parameters = builder.parameters(args, node)
    (channels, length), (out, columns) = builder.shape(args["input"]), builder.shape(node)
    attrs: dict[str, Any] = {"stride": [1, *args["stride"]], "padding": [0, *args["padding"]]}
    attrs |= {"dilation": [1, *args["dilation"]], "groups": int(args["groups"])}
    source = viewed(builder, node, builder.value(args["input"], node), (channels, 1, length))
    over_maps = parameters._replace(weight=parameters.weight[:, :, None])
    viewed(builder, node, _convolved(builder, node, source, over_maps, attrs, (out, 1, columns)), (out, columns))


def _conv1d_padding(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    _conv1d(builder, node, args | {"padding": _same(args)})


def _linear(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    mix(builder, node, args["input"], builder.parameters(args, node))


def _matmul(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A product with a constant matrix `[in, out]` is a linear layer, one of two computed values stays in float."""
    first, second = args["input"], args["mat2"] if "mat2" in args else args["other"]
    if second in builder.constants and second.meta["val"].dim() == 2 and first not in builder.constants:
        name, weight = builder.tensor(second, node)
        mix(builder, node, first, Parameters(name, weight.T.contiguous(), None))
        return
    if first in builder.constants and first.meta["val"].dim() == 2 and second.meta["val"].dim() > 1:
        mix(builder, node, second, Parameters(*builder.tensor(first, node), None), -2)
        return
    sizes, axis = builder.sizes(node)
    computed = [value for value in (first, second) if value in builder.alias]
    if axis >= len(sizes) - 2 or min(value.meta["val"].dim() for value in computed) < 2:
        raise unsupported(node, f"{node.target} over the batch; expected products of matrices of one image")
    ordered = {value: in_order(builder, value, node) for value in computed}
    with builder.seen(ordered):
        like = lead(builder, node, computed)
        seen = {value: aligned(builder, value, node, like) for value in computed}
    builder.layouts[node] = like.resized(sizes)
    with builder.seen(seen):
        _product(builder, node, first, second)


def _product(builder: GraphBuilder, node: fx.Node, first: fx.Node, second: fx.Node) -> None:
    """Of the matrices in the last two dimensions, at least one of which is computed."""
    changed: dict[str, Any] = {"self": first, "other": second}
    for key, value in changed.items():
        if value in builder.constants:
            changed[key] = builder.layouts[node].constant(builder.tensor(value, node)[1])
    builder.emit_float(node, changed | {"input": None, "mat2": None}, "matmul.default")


def _addmm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A product with a constant matrix and a constant bias."""
    if not {args["input"], args["mat2"]} <= builder.constants.keys():
        raise unsupported(node, f"{node.target} of computed values; expected a constant matrix and a constant bias")
    (name, weight), bias = builder.tensor(args["mat2"], node), builder.tensor(args["input"], node)[1]
    bias = args["beta"] * bias.reshape(-1).expand(weight.shape[1])
    mix(builder, node, args["mat1"], Parameters(name, (args["alpha"] * weight.T).contiguous(), bias))


def mix(builder: GraphBuilder, node: fx.Node, source: fx.Node, parameters: Parameters, dim: int = -1) -> None:
    """Weights `[out, in]` over a dimension, as a convolution of 1x1; flat values are one pixel.

    Where they lie is the same before and behind it: the dimension is put first, as channels are, and left there.
    """
    name, layout = first(builder, source, node, dim)
    builder.layouts[node] = layout.resized(builder.sizes(node).sizes)
    shape = out, *rest = builder.shape(node)
    if len(rest) == 2:
        builder.add_layer(node, "conv2d", name, parameters.as_conv(), POINT)
    else:
        rows = prod(rest)
        seen = viewed(builder, node, name, (parameters.weight.shape[1], 1, rows))
        made = builder.add_layer(node, "conv2d", seen, parameters.as_conv(), POINT, (out, 1, rows))
        viewed(builder, node, made.name, shape)


def _batch_norm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if args.get("training", args.get("use_input_stats")):
        raise unsupported(node, "normalizes with the statistics of the batch; expected running statistics")
    mean, var = (builder.tensor(args[key], node)[1] for key in ("running_mean", "running_var"))
    gamma, beta = (builder.optional(args[key], node) for key in ("weight", "bias"))
    if len(low := (var + args["eps"] <= 0).nonzero()):
        channel = int(low[0])
        raise WeightsError(
            f"layer {module_path(node) or node.name}: its running variance at channel {channel} is "
            f"{float(var[channel]):g} and eps is {args['eps']:g}; expected a sum above 0 to take the root of"
        )
    beta = torch.zeros_like(mean) if beta is None else beta
    factor = (torch.ones_like(mean) if gamma is None else gamma) / torch.sqrt(var + args["eps"])
    shift = beta - mean * factor
    name, layout = first(builder, args["input"], node, 1)
    builder.layouts[node] = layout
    made = scale_and_shift(builder, node, name, factor, shift, module_path(node))
    # Mean 0 and variance 1 everywhere are what a batch norm starts with, or what is left of one that was folded.
    if mean.any() or (var != 1).any():
        builder.trained[made] = Moments(beta, factor.abs() * var.sqrt())


def _instance_norm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if not args["use_input_stats"]:
        _batch_norm(builder, node, args)
        return
    kept = {"running_mean": None, "running_var": None, "momentum": 0.0, "cudnn_enabled": False}
    builder.emit_float(node, kept)


def _layer_norm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Over what lies first in a node, as channels do, or over its last dimensions."""
    source, count = args["input"], len(args["normalized_shape"])
    layout = builder.layouts[source]
    if count == 1 and layout.node_dim(-1) == 1 and len(layout.shape) > 1:
        _channel_norm(builder, node, args)
        return
    rank = len(layout.shape)
    seen = placed(builder, source, node)
    if [layout.node_dim(dim) for dim in range(-count, 0)] != list(range(rank - count + 1, rank + 1)):
        seen = in_order(builder, source, node)
        image_dim(builder, source, node, -count)
    builder.layouts[node] = seen[1]
    with builder.seen({source: seen}):
        builder.emit_float(node, {"cudnn_enable": False})


def _channel_norm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Over the channels at each position of a map, or of values seen as one of one row."""
    builder.layouts[node] = builder.layouts[args["input"]]
    channels, *rest = shape = builder.shape(node)
    seen = builder.value(args["input"], node)
    if len(rest) != 2:
        seen = viewed(builder, node, seen, (channels, 1, prod(rest)))
    weight, bias = (builder.optional(args[key], node) for key in ("weight", "bias"))
    made = builder.emit(node, "layer_norm", [seen], {"eps": float(args["eps"])}, shape=builder.shape_of(seen))
    ones = torch.ones(channels, dtype=torch.float32)
    builder.layers[made.name] = float_layer(made, ones if weight is None else weight, bias)
    viewed(builder, node, made.name, shape)


def _group_norm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    builder.emit_float(node, {"cudnn_enabled": False})


LAYERS: Final[dict[str, Handler]] = {
    "aten.conv1d.default": _conv1d,
    "aten.conv1d.padding": _conv1d_padding,
    "aten.conv2d.padding": _conv2d_padding,
    "aten.linear.default": _linear,
    "aten.matmul.default": _matmul,
    "aten.mm.default": _matmul,
    "aten.bmm.default": _matmul,
    "aten.addmm.default": _addmm,
    "aten.batch_norm.default": _batch_norm,
    "aten.instance_norm.default": _instance_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.group_norm.default": _group_norm,
}

ANY_LAYOUT: Final = frozenset({
    "aten.linear.default", "aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.addmm.default",
    "aten.batch_norm.default", "aten.layer_norm.default",
})  # fmt: skip
"""Those that take values however they lie."""
