"""From an `nn.Module` to a float `Network`: export with torch, fold batch norms, name the layers.

`torch.export` sees through modules and functions alike, so a `nn.ReLU6`, an `F.relu6` and a `clamp(0, 6)` all arrive
as ATen operators, and no code here knows how a network is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument
from torch.fx.operator_schemas import normalize_function

from edgeq.errors import UnsupportedError, WeightsError
from edgeq.graph import INPUT, Graph, Node
from edgeq.network import POINT, Network, float_layer, linear_as_conv, with_gradients


@with_gradients
def trace(module: nn.Module, input_shape: tuple[int, ...], keep_float: bool = False) -> Network:
    """Trace a CNN classifier into a float `Network` with its batch norms folded.

    Args:
        module: any module that takes one float32 tensor `[batch, *input_shape]` and returns one tensor. It is not
            changed; it is traced in evaluation mode.
        input_shape: `(channels, height, width)`.
        keep_float: leave layers that edgeq cannot quantize in float instead of refusing the network.

    Returns:
        The network, on the CPU, with copies of the module's weights.

    Raises:
        UnsupportedError: the module cannot be exported (control flow, several inputs) or uses an operation that
            edgeq does not know; the message names the layer.
        WeightsError: a weight is NaN or infinite.

    Example:
        >>> maps = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()
        >>> module = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        >>> network = edgeq.trace(module, (3, 32, 32))
        >>> [node.op for node in network.graph.nodes]
        ['conv2d', 'relu', 'global_avg_pool', 'conv2d', 'flatten']
    """
    program = _export(module, input_shape)
    builder = _Builder(program, keep_float)
    for node in program.graph.nodes:
        if node.op == "call_function":
            builder.add(node)
        elif node.op == "output":
            builder.finish(node)
    return linear_as_conv(Network(Graph(input_shape, tuple(builder.nodes)), builder.layers)).eval()


def _export(module: nn.Module, input_shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    modes = [(part, part.training) for part in module.modules()]
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    example = torch.zeros(2, *input_shape, dtype=torch.float32, device=device)
    try:
        return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch.export raises whatever the user's module raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedError(
            f"{type(module).__name__} cannot be traced: {reason}; "
            "edgeq takes networks of one image tensor without data-dependent control flow"
        ) from error
    finally:
        for part, training in modes:
            part.training = training


class _Builder:
    """Turns ATen calls into nodes one by one; `alias` follows values whose op has vanished (dropout, batch norm).

    A graph holds maps with their channels first only. A network may turn a map around, `permute(0, 2, 3, 1)`, to mix or
    normalize its channels as the last dimension: such values, `last`, are aliases of maps, too.
    """

    def __init__(self, program: torch.export.ExportedProgram, keep_float: bool) -> None:
        self.keep_float = keep_float
        self.nodes: list[Node] = []
        self.layers: dict[str, nn.Module] = {}
        self.alias: dict[fx.Node, str] = {}
        self.last: set[fx.Node] = set()
        self.split: dict[fx.Node, int] = {}  # the dimension that a call has split
        self.tensors: dict[str, tuple[str, Tensor]] = {}
        constants = {**program.state_dict, **program.constants}
        for spec in program.graph_signature.input_specs:
            if spec.target is not None:
                self.tensors[spec.arg.name] = (spec.target, constants[spec.target])
        self.alias |= {n: INPUT for n in program.graph.find_nodes(op="placeholder") if n.name not in self.tensors}

    def add(self, node: fx.Node) -> None:
        """Translate one call."""
        if not isinstance(node.meta.get("val"), Tensor | tuple | list):
            return  # arithmetic on the batch size, as in `x.view(x.size(0), -1)`
        handler = _HANDLERS.get(str(node.target).replace("_.", "."))  # `relu_` in place computes what `relu` does
        if handler is None or not callable(node.target):
            known = "replace it by a supported operation, or split the network before it"
            raise _unsupported(node, f"edgeq does not know {node.target}; {known}")
        if turned := [source.name for source in node.all_input_nodes if source in self.last]:
            if str(node.target) not in _CHANNELS_LAST:
                raise _unsupported(
                    node, f"{node.target} of a map with channels last, {turned[0]}; permute it back first"
                )
            self.last.add(node)
        bound = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
        handler(self, node, {} if bound is None else bound.kwargs)

    def emit(
        self,
        node: fx.Node,
        op: str,
        inputs: Iterable[Argument],
        attrs: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        shape: tuple[int, ...] | None = None,
    ) -> Node:
        """Append a node; its name is the layer's, or where there is none the path of its module plus the op."""
        wanted = name or f"{_module_path(node)}.{op}".lstrip(".")
        taken = {INPUT, *(n.name for n in self.nodes)}
        unique = next(n for n in chain([wanted], (f"{wanted}:{i}" for i in count(2))) if n not in taken)
        sources = tuple(self.value(i, node) for i in inputs)
        made = Node(unique, op, sources, shape or self.shape(node), attrs or {})
        self.nodes.append(made)
        self.alias[node] = unique
        return made

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Of a value, as the graph has it, without the batch."""
        dims = tuple(int(d) for d in node.meta["val"].shape[1:])
        return (dims[-1], *dims[:-1]) if node in self.last else dims

    def emit_layer(self, node: fx.Node, op: str, args: Mapping[str, Any], geometry: Mapping[str, Any]) -> None:
        """Append a node with weights, named by its parameter, and make its module."""
        name, weight = self.tensor(args["weight"], node)
        bias = None if args["bias"] is None else self.tensor(args["bias"], node)[1]
        made = self.emit(node, op, [args["input"]], geometry, name=name.removesuffix(".weight"))
        self.layers[made.name] = float_layer(made, weight, bias)

    def value(self, source: Argument, user: fx.Node) -> str:
        """Name of the node that computes a value."""
        if isinstance(source, fx.Node) and source in self.alias:
            return self.alias[source]
        raise _unsupported(user, f"{user.target} takes a constant; only computed values are supported")

    def tensor(self, source: Argument, user: fx.Node) -> tuple[str, Tensor]:
        """The name and value of a parameter, checked to be finite."""
        if not isinstance(source, fx.Node) or source.name not in self.tensors:
            raise _unsupported(user, "its weights are computed, expected a parameter")
        name, value = self.tensors[source.name]
        if not torch.isfinite(value).all():
            raise WeightsError(f"weights {name}: found NaN or infinite values; use weights that are finite")
        return name, value.detach().float().cpu()

    def only_read_by(self, name: str, node: fx.Node) -> bool:
        """Whether nothing else reads a value, under this name or an alias."""
        readers = {user for source, alias in self.alias.items() if alias == name for user in source.users}
        return all(user is node or self.alias.get(user) == name for user in readers)

    def finish(self, output: fx.Node) -> None:
        """Check that the last node is the one output."""
        results = output.args[0]
        if not isinstance(results, tuple | list) or len(results) != 1:
            raise UnsupportedError("expected a network with one output; wrap it in a module that returns one tensor")
        last = self.value(results[0], output)
        if not self.nodes or last != self.nodes[-1].name:
            raise UnsupportedError("expected the output to be the last value computed; remove what comes after it")


_Handler = Callable[[_Builder, fx.Node, dict[str, Any]], object]


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return str(list(stack.values())[-1][0])


def _unsupported(node: fx.Node, text: str) -> UnsupportedError:
    return UnsupportedError(f"layer {_module_path(node) or node.name}: {text}")


def _pair(value: Sequence[int]) -> list[int]:
    return [int(value[0]), int(value[-1])]


def _conv2d(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    pairs: dict[str, Any] = {key: _pair(args[key]) for key in ("stride", "padding", "dilation")}
    builder.emit_layer(node, "conv2d", args, pairs | {"groups": int(args["groups"])})


def _conv2d_padding(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    """`padding="valid"` or `"same"`, as the number of pixels on both sides."""
    kernel = args["weight"].meta["val"].shape[2:]
    added = [d * (k - 1) * (args["padding"] == "same") for d, k in zip(_pair(args["dilation"]), kernel, strict=True)]
    if any(pixels % 2 for pixels in added):
        raise _unsupported(node, "padding='same' pads one side more than the other; expected an odd kernel")
    _conv2d(builder, node, args | {"padding": [pixels // 2 for pixels in added]})


def _conv_transpose2d(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    if not builder.keep_float:
        raise _unsupported(
            node,
            "a transposed convolution cannot be quantized; keep such layers in float with --keep-float, or replace it",
        )
    pairs: dict[str, Any] = {key: _pair(args[key]) for key in ("stride", "padding", "output_padding", "dilation")}
    builder.emit_layer(node, "conv_transpose2d", args, pairs | {"groups": int(args["groups"])})


def _batch_norm(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["training"]:
        raise _unsupported(node, "normalizes with the statistics of the batch; expected running statistics")
    mean, var = (builder.tensor(args[key], node)[1] for key in ("running_mean", "running_var"))
    gamma = torch.ones_like(mean) if args["weight"] is None else builder.tensor(args["weight"], node)[1]
    beta = torch.zeros_like(mean) if args["bias"] is None else builder.tensor(args["bias"], node)[1]
    factor = gamma / torch.sqrt(var + args["eps"])
    _scale_and_shift(builder, node, args["input"], factor, beta - mean * factor, _module_path(node))


def _scale_and_shift(
    builder: _Builder, node: fx.Node, value: Argument, factor: Tensor, shift: Tensor, name: str = ""
) -> None:
    """`factor * value + shift`, both `[channels]`: folded into the layer before it, or a depthwise 1x1 convolution."""
    source = builder.value(value, node)
    layer = builder.layers.get(source)
    if isinstance(layer, nn.Conv2d | nn.Linear) and builder.only_read_by(source, node):
        weight = layer.weight * factor.reshape(-1, *[1] * (layer.weight.dim() - 1))
        bias = shift if layer.bias is None else layer.bias * factor + shift
        layer.load_state_dict({"weight": weight, "bias": bias})
        builder.alias[node] = source
        return
    if node.meta["val"].dim() != 4:
        raise _unsupported(node, f"{node.target} cannot be folded; expected it right behind a layer, or over maps")
    made = builder.emit(node, "conv2d", [value], POINT | {"groups": len(factor)}, name=name)
    builder.layers[made.name] = float_layer(made, factor.reshape(-1, 1, 1, 1), shift)


def _constant(builder: _Builder, node: fx.Node, source: Argument) -> Tensor | None:
    """What an operand has for each channel of the result, float32 `[channels]`; None if it is computed."""
    if isinstance(source, fx.Node) and source.name not in builder.tensors:
        return None
    value = (
        builder.tensor(source, node)[1]
        if isinstance(source, fx.Node)
        else torch.tensor(float(cast(float, source)), dtype=torch.float32)
    )
    channels, maps = builder.shape(node)[0], node not in builder.last and node.meta["val"].dim() == 4
    if value.numel() == 1:
        return value.reshape(1).repeat(channels)
    if value.numel() != channels or value.shape[-3 if maps else -1 :] != (channels, *[1] * 2 * maps):
        raise _unsupported(node, f"{node.target} with a constant {list(value.shape)}; expected one value a channel")
    return value.reshape(-1)


def _add(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    """A sum or a difference, of two values or with a constant."""
    alpha = float(args["alpha"])
    factors = {
        "add": {"input": 1.0, "other": alpha}, "sub": {"input": 1.0, "other": -alpha},
        "rsub": {"input": -alpha, "other": 1.0},
    }[str(node.target).split(".")[1]]  # fmt: skip
    constants = {key: _constant(builder, node, args[key]) for key in factors}
    for key, shift in constants.items():
        if shift is not None:
            value = "other" if key == "input" else "input"
            factor = torch.full_like(shift, factors[value])
            return _scale_and_shift(builder, node, args[value], factor, factors[key] * shift)
    if factors["other"] != 1:
        raise _unsupported(node, f"{node.target} of two values with a factor of {factors['other']:g}; expected a sum")
    builder.emit(node, "add", [args["input"], args["other"]])
    return None


def _mul(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    for value, key in (("input", "other"), ("other", "input")):
        factor = _constant(builder, node, args[key])
        if factor is not None:
            return _scale_and_shift(builder, node, args[value], factor, torch.zeros_like(factor))
    builder.emit(node, "mul", [args["input"], args["other"]])
    return None


def _div(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    divisor = _constant(builder, node, args["other"])
    if divisor is None:
        raise _unsupported(node, "a division of two computed values; expected a constant divisor")
    if not divisor.all():
        raise _unsupported(node, "a division by zero")
    _scale_and_shift(builder, node, args["input"], 1 / divisor, torch.zeros_like(divisor))


def _linear(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    """Over rows, or over the channels of a map that has them last."""
    if node not in builder.last:
        builder.emit_layer(node, "linear", args, {})
        return
    name, weight = builder.tensor(args["weight"], node)
    bias = None if args["bias"] is None else builder.tensor(args["bias"], node)[1]
    made = builder.emit(node, "conv2d", [args["input"]], POINT, name=name.removesuffix(".weight"))
    builder.layers[made.name] = float_layer(made, weight[:, :, None, None], bias)


def _layer_norm(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    channels = builder.shape(node)[0]
    if node not in builder.last or list(args["normalized_shape"]) != [channels]:
        raise _unsupported(
            node,
            f"a layer norm over {list(args['normalized_shape'])}; expected one over the channels of a map, put last",
        )
    weight = (
        torch.ones(channels, dtype=torch.float32) if args["weight"] is None else builder.tensor(args["weight"], node)[1]
    )
    bias = None if args["bias"] is None else builder.tensor(args["bias"], node)[1]
    made = builder.emit(node, "layer_norm", [args["input"]], {"eps": float(args["eps"])})
    builder.layers[made.name] = float_layer(made, weight, bias)


def _permute(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
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
        raise _unsupported(node, f"a permutation to {dims}; expected one that leaves the batch first")
    else:
        builder.emit(node, "permute", [args["input"]], {"dims": dims})


def _reshape(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    """A view of each image by itself."""
    before, after = args["input"].meta["val"], node.meta["val"]
    if after.dim() < 2 or str(after.shape[0]) != str(before.shape[0]):
        raise _unsupported(node, f"{node.target} that mixes the batch with other dimensions")
    shape = builder.shape(node)
    if shape == builder.shape(args["input"]):
        _vanishing(builder, node, args)
    elif len(shape) == 1:
        builder.emit(node, "flatten", [args["input"]])
    else:
        builder.emit(node, "reshape", [args["input"]], {"sizes": list(shape)})


def _piece(builder: _Builder, node: fx.Node, _: dict[str, Any]) -> None:
    """One part of a split."""
    whole, index = cast(fx.Node, node.args[0]), cast(int, node.args[1])
    sizes = [int(value.shape[builder.split[whole]]) for value in whole.meta["val"]]
    _slice_of(builder, node, whole, builder.split[whole], sum(sizes[:index]), sum(sizes[: index + 1]))


def _split(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    builder.split[node] = args.get("dim", 0) % args["input"].meta["val"].dim()
    _vanishing(builder, node, args)


def _slice(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    before, dim = args["input"].meta["val"], args["dim"] % args["input"].meta["val"].dim()
    if args.get("step", 1) != 1:
        raise _unsupported(node, "a slice with a step; expected neighbours")
    size, length = int(before.shape[dim]) if dim else 0, node.meta["val"].shape[dim]
    start = args["start"] or 0
    if dim == 0 and start == 0 and str(length) == str(before.shape[0]):
        _vanishing(builder, node, args)
    else:
        start = max(start + size if start < 0 else start, 0)
        _slice_of(builder, node, args["input"], dim, start, start + int(length))


def _slice_of(builder: _Builder, node: fx.Node, source: Argument, dim: int, start: int, end: int) -> None:
    if dim == 0:
        raise _unsupported(node, "a part of the batch; expected all images to go the same way")
    builder.emit(node, "slice", [source], {"dim": dim, "start": start, "end": end})


def _pad(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    sides = [int(size) for size in args["pad"]]  # left, right, top, bottom, then those of further dimensions
    left, right, top, bottom = (sides + [0] * 4)[:4]
    if args.get("mode", "constant") != "constant" or args["value"] or any(sides[4:]) or min(sides) < 0:
        raise _unsupported(node, "padding that is not of rows and columns of zeros")
    builder.emit(node, "pad", [args["input"]], {"pads": [top, left, bottom, right]})


def _function(op: str, **attrs: float) -> _Handler:
    """A handler for an op of one input."""
    return lambda builder, node, args: builder.emit(node, op, [args["input"]], attrs)


def _vanishing(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    """Another name of a value, or of a parameter."""
    if args["input"].name in builder.tensors:
        builder.tensors[node.name] = builder.tensors[args["input"].name]
    else:
        builder.alias[node] = builder.value(args["input"], node)


def _gelu(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["approximate"] != "none":
        raise _unsupported(node, f"a GELU approximated by {args['approximate']}; expected the exact one")
    builder.emit(node, "gelu", [args["input"]])


def _dropout(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["train"]:
        raise _unsupported(node, "a dropout that stays active in evaluation; pass it training=self.training")
    _vanishing(builder, node, args)


def _clip(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    low, high = (args.get(f"{end}_val", args.get(end)) for end in ("min", "max"))
    if low != 0:
        raise _unsupported(node, f"a clamp from {low}; expected one from 0, as in ReLU6")
    if high is None:
        builder.emit(node, "relu", [args["input"]])
    else:
        builder.emit(node, "clip", [args["input"]], {"max": float(high)})


def _cat(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    dim = args["dim"] % node.meta["val"].dim()
    if dim == 0:
        raise _unsupported(node, "a concatenation over the batch; expected channels")
    builder.emit(node, "cat", args["tensors"], {"dim": dim})


def _window(args: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kernel": _pair(args["kernel_size"]),
        "stride": _pair(args["stride"] or args["kernel_size"]),
        "padding": _pair(args["padding"]),
        "ceil": bool(args["ceil_mode"]),
    }


def _max_pool2d(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    attrs = _window(args) | {"dilation": _pair(args["dilation"])}
    builder.emit(node, "max_pool2d", [args["input"]], attrs)


def _avg_pool2d(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    if args["divisor_override"] is not None:
        raise _unsupported(node, "average pooling with a divisor; expected none")
    attrs = _window(args) | {"count_padding": bool(args["count_include_pad"])}
    builder.emit(node, "avg_pool2d", [args["input"]], attrs)


def _adaptive_avg_pool2d(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
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
        raise _unsupported(node, f"adaptive pooling from {have} to {size}; expected a whole ratio")


def _mean(builder: _Builder, node: fx.Node, args: dict[str, Any]) -> None:
    """A mean over height and width is a global pooling, and a flatten unless the dimensions are kept."""
    value = args["input"].meta["val"]
    dims = sorted(d % value.dim() for d in args["dim"] or [])
    if value.dim() != 4 or dims != [2, 3]:
        raise _unsupported(node, f"a mean over {dims}; expected height and width")
    channels = int(value.shape[1])
    pooled = builder.emit(node, "global_avg_pool", [args["input"]], shape=(channels, 1, 1))
    if not args["keepdim"]:
        flat = Node(f"{pooled.name}.flatten", "flatten", (pooled.name,), (channels,))
        builder.nodes.append(flat)
        builder.alias[node] = flat.name


_HANDLERS: dict[str, _Handler] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d_padding,
    "aten.conv_transpose2d.input": _conv_transpose2d,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten.relu.default": _function("relu"),
    "aten.relu6.default": _function("clip", max=6.0),
    "aten.hardtanh.default": _clip,
    "aten.clamp.default": _clip,
    "aten.sigmoid.default": _function("sigmoid"),
    "aten.hardsigmoid.default": _function("hardsigmoid"),
    "aten.hardswish.default": _function("hardswish"),
    "aten.silu.default": _function("silu"),
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
    "aten.permute.default": _permute,
    "aten.transpose.int": _permute,
    "aten.chunk.default": _split,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "<built-in function getitem>": _piece,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": _slice,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.layer_norm.default": _layer_norm,
    "aten.dropout.default": _dropout,
    "aten.feature_dropout.default": _dropout,
    "aten.contiguous.default": _vanishing,
    "aten.clone.default": _vanishing,
    "aten.alias.default": _vanishing,
    "aten.lift_fresh_copy.default": _vanishing,
    "aten.detach.default": _vanishing,
}

_CHANNELS_LAST = frozenset({
    "aten.permute.default", "aten.linear.default", "aten.layer_norm.default", "aten.gelu.default", "aten.relu.default",
    "aten.silu.default", "aten.hardswish.default", "aten.add.Tensor", "aten.mul.Tensor", "aten.dropout.default",
    "aten.contiguous.default", "aten.clone.default",
})  # fmt: skip
"""What may read a map with its channels last: its handler asks for shapes by `_Builder.shape` alone."""
