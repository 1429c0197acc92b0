"""What every ATen operator becomes in a graph: a node or two, another name of a value, part of a layer, or an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Final, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from edgeq.builder import GraphBuilder
from edgeq.calls import module_path, target_name, unsupported
from edgeq.errors import WeightsError
from edgeq.graph import CLIPPING, Node
from edgeq.network import POINT, float_layer

Handler = Callable[[GraphBuilder, fx.Node, dict[str, Any]], object]
"""Adds to a graph what a call with these arguments, by name, stands for."""


def _pair(value: Sequence[int]) -> list[int]:
    return [int(value[0]), int(value[-1])]


def _conv2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    pairs: dict[str, Any] = {key: _pair(args[key]) for key in ("stride", "padding", "dilation")}
    builder.emit_layer(node, "conv2d", args, pairs | {"groups": int(args["groups"])})


def _conv2d_padding(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`padding="valid"` or `"same"`, as the number of pixels on both sides."""
    kernel = args["weight"].meta["val"].shape[2:]
    added = [d * (k - 1) * (args["padding"] == "same") for d, k in zip(_pair(args["dilation"]), kernel, strict=True)]
    if any(pixels % 2 for pixels in added):
        raise unsupported(node, "padding='same' pads one side more than the other; expected an odd kernel")
    _conv2d(builder, node, args | {"padding": [pixels // 2 for pixels in added]})


def _conv_transpose2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if not builder.keep_float:
        raise unsupported(
            node,
            "a transposed convolution cannot be quantized; keep such layers in float with --keep-float, or replace it",
        )
    pairs: dict[str, Any] = {key: _pair(args[key]) for key in ("stride", "padding", "output_padding", "dilation")}
    builder.emit_layer(node, "conv_transpose2d", args, pairs | {"groups": int(args["groups"])})


def _batch_norm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["training"]:
        raise unsupported(node, "normalizes with the statistics of the batch; expected running statistics")
    mean, var = (builder.tensor(args[key], node)[1] for key in ("running_mean", "running_var"))
    gamma, beta = (builder.optional(args[key], node) for key in ("weight", "bias"))
    if len(low := (var + args["eps"] <= 0).nonzero()):
        channel = int(low[0])
        raise WeightsError(
            f"layer {module_path(node) or node.name}: its running variance at channel {channel} is "
            f"{float(var[channel]):g} and eps is {args['eps']:g}; expected a sum above 0 to take the root of"
        )
    factor = (torch.ones_like(mean) if gamma is None else gamma) / torch.sqrt(var + args["eps"])
    shift = (torch.zeros_like(mean) if beta is None else beta) - mean * factor
    _scale_and_shift(builder, node, args["input"], factor, shift, module_path(node))


def _scale_and_shift(
    builder: GraphBuilder, node: fx.Node, value: Argument, factor: Tensor, shift: Tensor, name: str = ""
) -> None:
    """`factor * value + shift`, both `[channels]`: folded into the layer before it, or a depthwise 1x1 convolution."""
    source = builder.value(value, node)
    if builder.shape(cast(fx.Node, value)) != builder.shape(node):
        raise unsupported(node, f"{node.target} with a constant of another shape; expected one value a channel")
    layer = builder.layers.get(source)
    rows = node.meta["val"].dim() == 3  # whose features come last
    if isinstance(layer, nn.Conv2d | nn.Linear) and builder.only_read_by(source, node) and not rows:
        weight = layer.weight * factor.reshape(-1, *[1] * (layer.weight.dim() - 1))
        bias = shift if layer.bias is None else layer.bias * factor + shift
        _check_folded(node, source, weight.flatten(1).isfinite().all(1) & bias.isfinite())
        layer.load_state_dict({"weight": weight, "bias": bias})
        builder.alias[node] = source
        return
    if node.meta["val"].dim() != 4:
        raise unsupported(node, f"{node.target} cannot be folded; expected it right behind a layer, or over maps")
    made = builder.emit(node, "conv2d", [value], POINT | {"groups": len(factor)}, name=name)
    _check_folded(node, made.name, factor.isfinite() & shift.isfinite())
    builder.layers[made.name] = float_layer(made, factor.reshape(-1, 1, 1, 1), shift)


def _check_folded(node: fx.Node, layer: str, finite: Tensor) -> None:
    """Refuse a scale and shift that makes weights or a bias of a layer too large, by channel `[out]`."""
    if not finite.all():
        raise WeightsError(
            f"layer {module_path(node) or node.name}: its scale and shift make the weights of {layer} infinite at "
            f"channel {int(finite.logical_not().nonzero()[0])}; expected results within float32"
        )


def _constant(builder: GraphBuilder, node: fx.Node, source: Argument) -> Tensor | None:
    """What an operand has for each channel of the result, float32 `[channels]`; None if it is computed."""
    if isinstance(source, fx.Node) and source not in builder.constants:
        return None
    value = (
        builder.tensor(source, node)[1]
        if isinstance(source, fx.Node)
        else torch.tensor(float(cast(float, source)), dtype=torch.float32)
    )
    if not builder.shape(node):
        raise unsupported(node, f"{node.target} of one number an image; expected channels")
    channels, *positions = builder.shape(node)
    if value.numel() == 1:
        return value.reshape(1).repeat(channels)
    shape = (*positions, channels) if node in builder.last else (channels, *positions)
    if value.dim() > len(shape) and len(value) != 1:
        raise unsupported(node, f"{node.target} with a constant for each image; expected the same for all")
    each = value.expand(1, *shape)[0].movedim(-1 if node in builder.last else 0, 0).reshape(channels, -1)
    if not torch.equal(each, each[:, :1].expand_as(each)):
        raise unsupported(
            node,
            f"{node.target} with a constant {list(value.shape)} that varies over positions; expected one value a "
            "channel",
        )
    return each[:, 0]


def _add(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A sum or a difference, of two values or with a constant."""
    alpha = float(args["alpha"])
    factors = {
        "add": {"input": 1.0, "other": alpha}, "sub": {"input": 1.0, "other": -alpha},
        "rsub": {"input": -alpha, "other": 1.0},
    }[target_name(node).split(".")[1]]  # fmt: skip
    constants = {key: _constant(builder, node, args[key]) for key in factors}
    for key, shift in constants.items():
        if shift is not None:
            value = "other" if key == "input" else "input"
            factor = torch.full_like(shift, factors[value])
            return _scale_and_shift(builder, node, args[value], factor, factors[key] * shift)
    if factors["other"] != 1:
        raise unsupported(node, f"{node.target} of two values with a factor of {factors['other']:g}; expected a sum")
    builder.emit(node, "add", [args["input"], args["other"]])
    return None


def _mul(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    for value, key in (("input", "other"), ("other", "input")):
        factor = _constant(builder, node, args[key])
        if factor is not None:
            return _scale_and_shift(builder, node, args[value], factor, torch.zeros_like(factor))
    builder.emit(node, "mul", [args["input"], args["other"]])
    return None


def _div(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    divisor = _constant(builder, node, args["other"])
    if divisor is None:
        raise unsupported(node, "a division by a computed value; expected a constant divisor")
    if not divisor.all():
        raise unsupported(node, "a division by zero")
    _scale_and_shift(builder, node, args["input"], 1 / divisor, torch.zeros_like(divisor))


def _linear(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    name, weight = builder.tensor(args["weight"], node)
    _mix(builder, node, args["input"], name, weight, builder.optional(args["bias"], node), maps=node in builder.last)


def _matmul(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A product with a constant matrix `[in, out]` is a linear layer; that of `addmm` has a bias."""
    matrix = args["mat2"] if "mat2" in args else args["other"]
    if matrix not in builder.constants or matrix.meta["val"].dim() != 2:
        raise unsupported(node, f"{node.target} of two computed values; expected a constant matrix on the right")
    if args.get("alpha", 1) != 1 or args.get("beta", 1) != 1:
        raise unsupported(node, f"{node.target} with factors; expected none")
    name, weight = builder.tensor(matrix, node)
    bias = builder.tensor(args["input"], node)[1].reshape(-1).expand(weight.shape[1]) if "mat1" in args else None
    source = args.get("mat1", args["input"])
    _mix(builder, node, source, name, weight.T.contiguous(), bias, maps=node in builder.last)


def _einsum(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """One that mixes the channels of a map, or the features of flat values, by a constant matrix."""
    terms, _, made = args["equation"].replace(" ", "").replace("...", "N").partition("->")
    operands = zip(args["tensors"], terms.split(","), strict=True)
    (source, read), *others = sorted(operands, key=lambda operand: operand[0] in builder.constants)
    matrix, pair = others[-1] if len(others) == 1 else (None, "")
    mixed = read[1:2]  # the letter of the channels
    into = pair.replace(mixed, "")
    fits = len(read) == source.meta["val"].dim() in (2, 4) and len(pair) == 2 and len(into) == 1
    if matrix not in builder.constants or not fits or made != read.replace(mixed, into):
        raise unsupported(node, f"an einsum {args['equation']}; expected one that mixes channels by a constant matrix")
    name, weight = builder.tensor(matrix, node)
    _mix(builder, node, source, name, weight if pair[0] == into else weight.T.contiguous(), None, maps=len(read) == 4)


def _mix(
    builder: GraphBuilder, node: fx.Node, source: Argument, name: str, weight: Tensor, bias: Tensor | None, maps: bool
) -> None:
    """Weights `[out, in]` over rows, or over the channels of maps."""
    if maps:
        builder.add_layer(node, "conv2d", source, name, weight[:, :, None, None], bias, POINT)
    else:
        builder.add_layer(node, "linear", source, name, weight, bias, {})


def _layer_norm(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    channels = builder.shape(node)[0]
    if node not in builder.last or list(args["normalized_shape"]) != [channels]:
        raise unsupported(
            node,
            f"a layer norm over {list(args['normalized_shape'])}; expected one over the channels of a map, put last",
        )
    weight, bias = (builder.optional(args[key], node) for key in ("weight", "bias"))
    made = builder.emit(node, "layer_norm", [args["input"]], {"eps": float(args["eps"])})
    ones = torch.ones(channels, dtype=torch.float32)
    builder.layers[made.name] = float_layer(made, ones if weight is None else weight, bias)


def _permute(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Channels to the end or back, which only renames a map, or dimensions of another order."""
    count = node.meta["val"].dim()
    if "dims" in args:
        dims = [d % count for d in args["dims"]]
    else:  # two that change places
        dims = list(range(count))
        first, second = args["dim0"] % count, args["dim1"] % count
        dims[first], dims[second] = second, first
    turned = args["input"] in builder.last
    if dims == ([0, 3, 1, 2] if turned else [0, 2, 3, 1]):
        _vanishing(builder, node, args)
        (builder.last.discard if turned else builder.last.add)(node)
    elif turned or dims[0] != 0:
        raise unsupported(node, f"a permutation to {dims}; expected one that leaves the batch first")
    else:
        builder.emit(node, "permute", [args["input"]], {"dims": dims})


def _reshape(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A view of each image by itself."""
    before, after = args["input"].meta["val"], node.meta["val"]
    if after.dim() < 2 or str(after.shape[0]) != str(before.shape[0]):
        raise unsupported(node, f"{node.target} that mixes the batch with other dimensions")
    shape = builder.shape(node)
    if shape == builder.shape(args["input"]):
        _vanishing(builder, node, args)
    elif len(shape) == 1:
        builder.emit(node, "flatten", [args["input"]])
    else:
        builder.emit(node, "reshape", [args["input"]], {"sizes": list(shape)})


def _piece(builder: GraphBuilder, node: fx.Node, _: dict[str, Any]) -> None:
    """One part of a split."""
    whole, index = cast(fx.Node, node.args[0]), cast(int, node.args[1])
    sizes = [int(value.shape[builder.split[whole]]) for value in whole.meta["val"]]
    _slice_of(builder, node, whole, builder.split[whole], sum(sizes[:index]), sum(sizes[: index + 1]))


def _split(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    builder.split[node] = args.get("dim", 0) % args["input"].meta["val"].dim()
    _vanishing(builder, node, args)


def _slice(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    before, dim = args["input"].meta["val"], args["dim"] % args["input"].meta["val"].dim()
    if args.get("step", 1) != 1:
        raise unsupported(node, "a slice with a step; expected neighbours")
    size, length = int(before.shape[dim]) if dim else 0, node.meta["val"].shape[dim]
    start = args["start"] or 0
    if dim == 0 and start == 0 and str(length) == str(before.shape[0]):
        _vanishing(builder, node, args)
    else:
        start = max(start + size if start < 0 else start, 0)
        _slice_of(builder, node, args["input"], dim, start, start + int(length))


def _select(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """One of a dimension, which goes away."""
    shape = list(builder.shape(args["input"]))
    dim = args["dim"] % (len(shape) + 1)
    start = args["index"] % (shape[dim - 1] if dim else 1)
    shape[dim - 1] = 1
    made = _slice_of(builder, node, args["input"], dim, start, start + 1, tuple(shape))
    builder.follow(node, made, "reshape", builder.shape(node), {"sizes": list(builder.shape(node))})


def _slice_of(
    builder: GraphBuilder,
    node: fx.Node,
    source: Argument,
    dim: int,
    start: int,
    end: int,
    shape: tuple[int, ...] | None = None,
) -> Node:
    if dim == 0:
        raise unsupported(node, "a part of the batch; expected all images to go the same way")
    return builder.emit(node, "slice", [source], {"dim": dim, "start": start, "end": end}, shape=shape)


def _pad(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    sides = [int(size) for size in args["pad"]]  # left, right, top, bottom, then those of further dimensions
    left, right, top, bottom = (sides + [0] * 4)[:4]
    if args.get("mode", "constant") != "constant" or args["value"] or any(sides[4:]) or min(sides) < 0:
        raise unsupported(node, "padding that is not of rows and columns of zeros")
    builder.emit(node, "pad", [args["input"]], {"pads": [top, left, bottom, right]})


def _function(op: str, **attrs: float) -> Handler:
    """A handler for an op of one input."""
    return lambda builder, node, args: builder.emit(node, op, [args["input"]], attrs)


def _vanishing(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Another name of a value."""
    builder.alias[node] = builder.value(args["input"], node)


def _silu(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """`x * sigmoid(x)`: for both of these runtimes have integer kernels."""
    source, gate = builder.value(args["input"], node), builder.emit(node, "sigmoid", [args["input"]])
    builder.follow(node, gate, "mul", gate.shape, {}, source)


def _gelu(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["approximate"] != "none":
        raise unsupported(node, f"a GELU approximated by {args['approximate']}; expected the exact one")
    builder.emit(node, "gelu", [args["input"]])


def _dropout(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["train"]:
        raise unsupported(node, "a dropout that stays active in evaluation; pass it training=self.training")
    _vanishing(builder, node, args)


def _clip(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    low, high = (args.get(f"{end}_val", args.get(end)) for end in ("min", "max"))
    if (low is None or low < 0) and builder.op(builder.value(args["input"], node)) in CLIPPING:
        low = 0
    if low != 0 or (high is not None and high < 0):
        raise unsupported(node, f"a clamp from {low} to {high}; expected one from 0 up, as in ReLU6")
    if high is None or high == inf:
        builder.emit(node, "relu", [args["input"]])
    else:
        builder.emit(node, "clip", [args["input"]], {"max": float(high)})


def _cat(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    dim = args["dim"] % node.meta["val"].dim()
    if dim == 0:
        raise unsupported(node, "a concatenation over the batch; expected channels")
    builder.emit(node, "cat", args["tensors"], {"dim": dim})


def _window(args: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kernel": _pair(args["kernel_size"]),
        "stride": _pair(args["stride"] or args["kernel_size"]),
        "padding": _pair(args["padding"]),
        "ceil": bool(args["ceil_mode"]),
    }


def _max_pool2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    attrs = _window(args) | {"dilation": _pair(args["dilation"])}
    builder.emit(node, "max_pool2d", [args["input"]], attrs)


def _avg_pool2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["divisor_override"] is not None:
        raise unsupported(node, "average pooling with a divisor; expected none")
    attrs = _window(args) | {"count_padding": bool(args["count_include_pad"])}
    builder.emit(node, "avg_pool2d", [args["input"]], attrs)


def _adaptive_avg_pool2d(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    size, have = _pair(args["output_size"]), [int(d) for d in args["input"].meta["val"].shape[2:]]
    if size == [1, 1]:
        builder.emit(node, "global_avg_pool", [args["input"]])
    elif size == have:
        _vanishing(builder, node, args)
    elif all(h % s == 0 for h, s in zip(have, size, strict=True)):
        kernel = [h // s for h, s in zip(have, size, strict=True)]
        attrs = {"kernel": kernel, "stride": kernel, "padding": [0, 0], "ceil": False, "count_padding": True}
        builder.emit(node, "avg_pool2d", [args["input"]], attrs)
    else:
        raise unsupported(node, f"adaptive pooling from {have} to {size}; expected a whole ratio")


def _mean(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """A mean over height and width is a global pooling, and a flatten unless the dimensions are kept."""
    value = args["input"].meta["val"]
    dims = sorted(d % value.dim() for d in args["dim"] or [])
    if value.dim() != 4 or dims != [2, 3]:
        raise unsupported(node, f"a mean over {dims}; expected height and width")
    channels = int(value.shape[1])
    pooled = builder.emit(node, "global_avg_pool", [args["input"]], shape=(channels, 1, 1))
    if not args["keepdim"]:
        builder.follow(node, pooled, "flatten", (channels,), {})


HANDLERS: Final[dict[str, Handler]] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d_padding,
    "aten.conv_transpose2d.input": _conv_transpose2d,
    "aten.linear.default": _linear,
    "aten.matmul.default": _matmul,
    "aten.mm.default": _matmul,
    "aten.addmm.default": _matmul,
    "aten.einsum.default": _einsum,
    "aten.batch_norm.default": _batch_norm,
    "aten.relu.default": _function("relu"),
    "aten.relu6.default": _function("clip", max=6.0),
    "aten.hardtanh.default": _clip,
    "aten.clamp.default": _clip,
    "aten.sigmoid.default": _function("sigmoid"),
    "aten.hardsigmoid.default": _function("hardsigmoid"),
    "aten.hardswish.default": _function("hardswish"),
    "aten.silu.default": _silu,
    "aten.gelu.default": _gelu,
    "aten.leaky_relu.default": lambda builder, node, args: builder.emit(
        node, "leaky_relu", [args["input"]], {"slope": float(args["negative_slope"])}
    ),
    "aten.tanh.default": _function("tanh"),
    "aten.add.Tensor": _add,
    "aten.sub.Tensor": _add,
    "aten.rsub.Scalar": _add,
    "aten.mul.Tensor": _mul,
    "aten.div.Tensor": _div,
    "aten.cat.default": _cat,
    "aten.max_pool2d.default": _max_pool2d,
    "aten.avg_pool2d.default": _avg_pool2d,
    "aten.adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "aten.mean.dim": _mean,
    "aten.flatten.using_ints": _reshape,
    "aten.view.default": _reshape,
    "aten.reshape.default": _reshape,
    "aten.unsqueeze.default": _reshape,
    "aten.squeeze.dim": _reshape,
    "aten.squeeze.dims": _reshape,
    "aten.permute.default": _permute,
    "aten.transpose.int": _permute,
    "aten.chunk.default": _split,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "<built-in function getitem>": _piece,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": _slice,
    "aten.select.int": _select,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.layer_norm.default": _layer_norm,
    "aten.dropout.default": _dropout,
    "aten.feature_dropout.default": _dropout,
    "aten.contiguous.default": _vanishing,
    "aten.clone.default": _vanishing,
    "aten.alias.default": _vanishing,
    "aten.detach.default": _vanishing,
}

CHANNELS_LAST: Final = frozenset({
    "aten.permute.default", "aten.linear.default", "aten.matmul.default", "aten.layer_norm.default",
    "aten.gelu.default", "aten.relu.default",
    "aten.silu.default", "aten.hardswish.default", "aten.add.Tensor", "aten.mul.Tensor", "aten.dropout.default",
    "aten.contiguous.default", "aten.clone.default",
})  # fmt: skip
"""What may read a map with its channels last: its handler asks for shapes by `GraphBuilder.shape` alone."""
