"""Calls that edgeq does not know, replaced by those that PyTorch itself computes them with.

Each call is taken apart by itself, so that all others, and what torch.export has noted about them, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from edgeq.frontends.torch_export.calls import target_name, unknown, written
from edgeq.frontends.torch_export.decompositions import DECOMPOSITIONS
from edgeq.frontends.torch_export.layouts import Sizes, sizes_of

_PARTS: Final = ("placeholder", "call_function", "output")
_SCOPES: Final = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
"""Calls of a part of the program, under a setting that makes no difference to what is computed in float32."""


def decompose(program: torch.export.ExportedProgram, known: Container[str]) -> None:
    """Take apart the calls of a program that compute something from its inputs and are not known.

    Calls that cannot be taken apart stay; whoever translates the program names them.

    Args:
        program: changed in place.
        known: names of the calls to leave as they are, see `target_name`.

    Raises:
        UnsupportedError: how PyTorch computes a call depends on the number of images.
    """
    graph, inputs = program.graph, set(program.graph_signature.user_inputs)
    computed = {node for node in graph.find_nodes(op="placeholder") if node.name in inputs}
    with torch.no_grad():
        for node in graph.nodes:  # what is inserted behind a node comes next
            if node.op != "call_function" or computed.isdisjoint(node.all_input_nodes):
                continue
            computed.add(node)
            if target_name(node) in _SCOPES:
                scope = next(source for source in node.all_input_nodes if source.op == "get_attr")
                place = node.args.index(scope)
                _insert(node, getattr(program.graph_module, str(scope.target)).graph, node.args[place + 1 :])
            elif not _stays(node, known, computed):
                _take_apart(node)


def _stays(node: fx.Node, known: Container[str], computed: Container[fx.Node]) -> bool:
    if not any(isinstance(source.meta.get("val"), Tensor) for source in node.all_input_nodes):
        return True  # arithmetic on the batch size, and what has that size
    is_value = isinstance(node.meta.get("val"), Tensor | tuple | list)
    name = target_name(node)
    if name == "aten.addmm.default":  # a linear layer, or a product and a sum
        return node.args[0] not in computed and node.args[2] not in computed
    return not is_value or (name in known and name not in DECOMPOSITIONS)


def _take_apart(node: fx.Node) -> None:
    function = DECOMPOSITIONS.get(target_name(node)) or _by_torch(node.target)
    if function is None:
        return
    sources = node.all_input_nodes

    def call(*given: Any) -> Any:
        by_node = dict(zip(sources, given, strict=True))
        args: Any = map_arg(node.args, by_node.__getitem__)
        kwargs: Any = map_arg(node.kwargs, by_node.__getitem__)
        return function(*args, **kwargs)

    values = [source.meta["val"] for source in sources]
    sizes = _sizes(values)
    parts = _parts(call, values, node.target)
    if _sizes(values) != sizes:  # PyTorch has asked for the number of images, and taken it for a constant everywhere
        raise unknown(node)
    if parts is not None:
        node.meta["written"] = written(node)  # what errors about its parts name
        _insert(node, parts, sources)


def _sizes(values: Sequence[Any]) -> list[Sizes | None]:
    return [sizes_of(value) for value in values if isinstance(value, Tensor)]


def _by_torch(target: Any) -> Callable[..., Any] | None:
    """How PyTorch takes a call apart; None if it does not."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    table = torch.export.default_decompositions()
    if target in table:
        return cast(Callable[..., Any], table[target])
    return target.decompose if target._can_decompose() else None


def _parts(call: Callable[..., Any], values: Sequence[Any], target: Any) -> fx.Graph | None:
    """The calls that a function makes of values like these; None if there is nothing simpler than itself."""
    mode = next(cast(Any, value).fake_mode for value in values if isinstance(value, Tensor))
    for pre_dispatch in (True, False):  # what consists of several calls stays one, if that is possible
        try:
            with mode:
                made = make_fx(call, pre_dispatch=pre_dispatch)(*values).graph
        except Exception:
            return None
        made.eliminate_dead_code()
        if all(part.op in _PARTS and part.target != target for part in made.nodes):
            return made
    return None


def _insert(node: fx.Node, parts: fx.Graph, arguments: Sequence[Any]) -> None:
    """Put calls in the place of one, and let what reads that one read their results."""
    copies = dict(zip(parts.find_nodes(op="placeholder"), arguments, strict=True))
    place, path = node, node.meta.get("nn_module_stack")
    for part in parts.nodes:
        if part.op == "call_function":
            with node.graph.inserting_after(place):
                place = copies[part] = node.graph.node_copy(part, copies.__getitem__)
            place.meta["nn_module_stack"] = part.meta.get("nn_module_stack") or path
            place.meta["written"] = node.meta.get("written", place)
    (output,) = parts.find_nodes(op="output")
    result = map_arg(output.args[0], copies.__getitem__)
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
    else:
        for piece in list(node.users):
            piece.replace_all_uses_with(result[cast(int, piece.args[1])])
            node.graph.erase_node(piece)
        for part in result:
            if not part.users:
                node.graph.erase_node(part)
    node.graph.erase_node(node)
