"""From an `nn.Module` to a float `Network`: export with torch, fold batch norms, name the layers.

`torch.export` sees through modules and functions alike, so a `nn.ReLU6`, an `F.relu6` and a `clamp(0, 6)` all arrive
as ATen operators, and no code here knows how a network is written.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument
from torch.fx.operator_schemas import normalize_function

from edgeq.frontends.torch_export.arrange import plain
from edgeq.frontends.torch_export.builder import GraphBuilder
from edgeq.frontends.torch_export.calls import target_name, unknown, unsupported
from edgeq.frontends.torch_export.constants import folded
from edgeq.frontends.torch_export.fold import assembled
from edgeq.frontends.torch_export.handlers import HANDLERS, translated
from edgeq.frontends.torch_export.lending import lent
from edgeq.frontends.torch_export.program import Program
from edgeq.ir.network import Network, with_gradients
from edgeq.ir.passes.linear_to_conv import linear_as_conv
from edgeq.ir.passes.merge_clips import merged_clips


@with_gradients
def trace(module: nn.Module, input_shape: tuple[int, ...], keep_float: bool = False) -> Network:
    """Trace a CNN classifier into a float `Network` with its batch norms folded.

    Args:
        module: any module that takes one float32 tensor `[batch, *input_shape]` and returns one tensor. It is traced
            in evaluation mode and in float32, and left as it was (`edgeq.frontends.torch_export.lending`).
        input_shape: `(channels, height, width)`.
        keep_float: leave layers that edgeq cannot quantize in float instead of refusing the network.

    Returns:
        The network, on the CPU, with copies of the module's weights.

    Raises:
        UnsupportedError: the module fails when called so, cannot be exported (control flow), uses an operation that
            edgeq does not know, or does something that edgeq misses; the message names the layer.
        WeightsError: a weight is NaN or infinite, or becomes so when a batch norm is folded.

    Example:
        >>> maps = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()
        >>> module = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        >>> network = edgeq.trace(module, (3, 32, 32))
        >>> [node.op for node in network.graph.nodes]
        ['conv2d', 'relu', 'global_avg_pool', 'conv2d', 'flatten']
    """
    with lent(module) as plain:
        program = Program(plain, input_shape)
        network = linear_as_conv(_translated(program.exported, input_shape, keep_float))
        network = network.with_graph(merged_clips(network.graph)).eval()
        program.check(network)
    return network


def _translated(program: torch.export.ExportedProgram, input_shape: tuple[int, ...], keep_float: bool) -> Network:
    builder = GraphBuilder(program.graph, folded(program), input_shape, keep_float)
    for node in program.graph.nodes:
        if node.op == "call_function" and node not in builder.constants:
            _add(builder, node)
    (output,) = program.graph.find_nodes(op="output")
    nodes = builder.finish(plain(builder, cast(Any, output.args[0])[0], output)[0])
    return assembled(input_shape, nodes, builder.layers, builder.affines)


def _add(builder: GraphBuilder, node: fx.Node) -> None:
    """Translate one call."""
    if not isinstance(node.meta.get("val"), Tensor | tuple | list):
        return  # arithmetic on the batch size, as in `x.view(x.size(0), -1)`
    target = target_name(node)
    handler = HANDLERS.get(target)
    if handler is None or not callable(node.target):
        raise unknown(node)
    bound = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
    given = {} if bound is None else bound.kwargs
    translated(builder, node, handler, {k: _argument(builder, node, k, v) for k, v in given.items()})


def _argument(builder: GraphBuilder, user: fx.Node, key: str, argument: Argument) -> Any:
    """An argument; of a number that the network computes from its parameters, as `scale.item()`, its value."""
    if not isinstance(argument, fx.Node) or isinstance(argument.meta.get("val"), Tensor | tuple | list):
        return argument
    if argument in builder.constants:
        return builder.constants[argument].value
    if key not in ("start", "end", "length"):  # of slices, whose sizes are known from what they make
        raise unsupported(user, f"{user.target} by a number that depends on the images; expected a constant")
    return argument
