"""From an `nn.Module` to a float `Network`: export with torch, fold batch norms, name the layers.

`torch.export` sees through modules and functions alike, so a `nn.ReLU6`, an `F.relu6` and a `clamp(0, 6)` all arrive
as ATen operators, and no code here knows how a network is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.fx.node import Argument
from torch.fx.operator_schemas import normalize_function

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.arrange import plain
from edgeq.frontends.torch_export.builder import GraphBuilder
from edgeq.frontends.torch_export.calls import POST_PROCESSING, target_name, unknown, unsupported
from edgeq.frontends.torch_export.constants import folded
from edgeq.frontends.torch_export.decompose import decompose
from edgeq.frontends.torch_export.fold import Traced, assembled
from edgeq.frontends.torch_export.handlers import HANDLERS, translated
from edgeq.frontends.torch_export.hard_sigmoid import hard_sigmoids
from edgeq.frontends.torch_export.lending import lent
from edgeq.frontends.torch_export.program import Program, Shapes
from edgeq.ir.analysis import usual_task
from edgeq.ir.graph import Graph, Output
from edgeq.ir.network import Network, with_gradients
from edgeq.ir.passes.clip_first import clips_first
from edgeq.ir.passes.depthwise import copied_channels
from edgeq.ir.passes.expectations import float_expectations
from edgeq.ir.passes.flatten_last import flattens_last
from edgeq.ir.passes.merge_clips import merged_clips
from edgeq.ir.passes.merge_pads import merged_pads
from edgeq.tasks import TASKS


@with_gradients
def trace(
    module: nn.Module,
    input_shape: Shapes,
    *,
    tasks: str | Mapping[str, str] | None = None,
) -> Network:
    """Trace a CNN into a float `Network` with its batch norms folded.

    Args:
        module: any module that takes float32 tensors `[batch, *shape]` and returns tensors `[batch, ...]`, or tuples,
            lists or dicts of them. It is traced in evaluation mode and in float32, and left as it was
            (`edgeq.frontends.torch_export.lending`).
        input_shape: `(channels, height, width)`, or any other shape of one image; of several inputs, a shape each, in
            the order of the arguments or by their names.
        tasks: what the outputs mean, one of `edgeq.tasks.TASKS` for all of them or by name; an output that is not named
            gets the task that `edgeq.ir.analysis.usual_task` finds.

    Returns:
        The network, on the CPU, with copies of the module's weights. An only input is called `image`, an only output
        `logits` if it is class scores, else `output`; several are called as the arguments and as the keys of what is
        returned (`output0`, `output1` in a tuple).

    Raises:
        UnsupportedError: the module fails when called so, cannot be exported (control flow), uses an operation that
            edgeq does not know, or does something that edgeq misses; the message names the layer. Unknown tasks.
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
        network = float_expectations(_translated(program))
        network = copied_channels(merged_pads(network.with_graph(flattens_last(network.graph))))
        network = network.with_graph(_with_tasks(clips_first(merged_clips(network.graph)), tasks)).eval()
        program.check(network)
    return network


def _translated(program: Program) -> Network:
    decompose(program.exported, HANDLERS)
    calls = program.exported.graph
    builder = GraphBuilder(calls, folded(program.exported), program.inputs)
    for node in calls.nodes:
        if node.op == "call_function" and node not in builder.constants:
            _add(builder, node)
    outputs = _outputs(builder, calls, program.names)
    nodes = builder.needed(output.value for output in outputs)
    if not nodes:
        raise UnsupportedError("expected a network that computes something, found one that returns its image")
    traced = Traced(program.inputs, nodes, outputs, builder.layers, builder.affines, builder.trained)
    return assembled(hard_sigmoids(traced))


def _outputs(builder: GraphBuilder, calls: fx.Graph, names: Sequence[str]) -> tuple[Output, ...]:
    """What a program returns, but for results that are None."""
    (end,) = calls.find_nodes(op="output")
    results = zip(names, cast(Sequence[Argument], end.args[0]), strict=True)
    taken = {one.name for one in builder.inputs.values()}  # in a file, no output has the name of an input
    found = [(f"{name}_output" if name in taken else name, result) for name, result in results if result is not None]
    if fixed := [name for name, result in found if not isinstance(result, fx.Node) or result in builder.constants]:
        raise UnsupportedError(f"output {fixed[0]}: it is the same for all images; expected a network without it")
    return tuple(Output(name, plain(builder, cast(fx.Node, value), end)[0], "regression") for name, value in found)


def _with_tasks(graph: Graph, tasks: str | Mapping[str, str] | None) -> Graph:
    """Give every output its task, and an only output its usual name."""
    names = {output.name for output in graph.outputs}
    if not isinstance(tasks, str | Mapping | None):
        raise UnsupportedError(f"tasks: expected one of {', '.join(TASKS)}, or a dict of them, found {tasks!r}")
    given = {} if tasks is None else dict.fromkeys(names, tasks) if isinstance(tasks, str) else dict(tasks)
    if unknown := [task for task in given.values() if task not in TASKS]:
        raise UnsupportedError(f"unknown task {unknown[0]!r}; expected one of {', '.join(TASKS)}")
    if unknown := sorted(given.keys() - names):
        raise UnsupportedError(f"tasks: no output {unknown[0]}; expected one of {', '.join(sorted(names))}")
    made = [replace(one, task=given.get(one.name) or usual_task(graph, one)) for one in graph.outputs]
    if len(made) == 1:
        made = [replace(made[0], name="logits" if made[0].task == "classification" else "output")]
    return replace(graph, outputs=tuple(made))


def _add(builder: GraphBuilder, node: fx.Node) -> None:
    """Translate one call."""
    if not isinstance(node.meta.get("val"), Tensor | tuple | list):
        return  # arithmetic on the batch size, as in `x.view(x.size(0), -1)`
    _check_size(builder, node)
    target = target_name(node)
    handler = HANDLERS.get(target)
    if handler is None or not callable(node.target):
        raise unknown(node)
    bound = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
    given = {} if bound is None else bound.kwargs
    translated(builder, node, handler, {k: _argument(builder, node, k, v) for k, v in given.items()})


def _check_size(builder: GraphBuilder, node: fx.Node) -> None:
    """Refuse a call of which torch.export knows only from values how much it makes."""
    value = node.meta["val"]
    if not isinstance(value, Tensor) or not free_unbacked_symbols(value):
        return
    others = node.all_input_nodes[1:]
    if others and all(source in builder.constants for source in others):
        raise unsupported(node, f"{node.target} with a constant mask; expected where it is true, as in x[:, [0, 2]]")
    raise unsupported(
        node,
        f"{node.target} makes a tensor whose size depends on the values in an image; expected the same size for all "
        f"images, as torch.where or topk make. {POST_PROCESSING}",
    )


def _argument(builder: GraphBuilder, user: fx.Node, key: str, argument: Argument) -> Any:
    """An argument; of a number that the network computes from its parameters, as `scale.item()`, its value."""
    if not isinstance(argument, fx.Node) or isinstance(argument.meta.get("val"), Tensor | tuple | list):
        return argument
    if argument in builder.constants:
        return builder.constants[argument].value
    if key not in ("start", "end", "length"):  # of slices, whose sizes are known from what they make
        raise unsupported(user, f"{user.target} by a number that depends on the images; expected a constant")
    return argument
