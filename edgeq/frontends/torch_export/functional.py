"""Programs that write into a part of a tensor, as `x[:, 0] = 0` does, as programs that make a new tensor instead.

torch.export keeps such a write as it is: a view, and a call that changes it in place. What reads the whole tensor
afterwards does not read that call, so nothing would show in the graph that it sees the change.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.export.graph_signature import OutputKind

from edgeq.frontends.torch_export.calls import target_name


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program without writes into views; a program without such writes is returned as it is."""
    if not _reads_what_is_written(program.graph):
        return program
    # An empty table: nothing is decomposed, but everything is made functional.
    made: torch.export.ExportedProgram = program.run_decompositions({})
    (end,) = made.graph.find_nodes(op="output")
    specs = zip(made.graph_signature.output_specs, end.args[0], strict=True)
    end.args = (tuple(result for spec, result in specs if spec.kind is OutputKind.USER_OUTPUT),)
    return made


def _reads_what_is_written(graph: fx.Graph) -> bool:
    """Whether a call reads a value after its memory has been written to by way of another one."""
    memory: dict[fx.Node, fx.Node] = {}  # of a value: the one that owns it
    stale: set[fx.Node] = set()
    for node in graph.nodes:
        makes_number = isinstance(node.meta.get("val"), torch.SymInt)  # as a shape does, which no write changes
        if not makes_number and not stale.isdisjoint(node.all_input_nodes):
            return True
        if (source := _aliased(node)) is None:
            continue
        owner = memory.get(source, source)
        if _is_written(node):
            stale |= {owner, *(value for value, other in memory.items() if other is owner)}
        memory[node] = owner
    return False


def _aliased(node: fx.Node) -> fx.Node | None:
    """The value whose memory a call may return or write to."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if target_name(node) == "<built-in function getitem>":
        return node.args[0]
    arguments = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else ()
    return node.args[0] if arguments and arguments[0].alias_info is not None else None


def _is_written(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or "detach" in str(target):  # which writes no number
        return False
    alias = target._schema.arguments[0].alias_info
    return alias is not None and bool(alias.is_write)
