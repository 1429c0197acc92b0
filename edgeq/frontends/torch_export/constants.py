"""What does not depend on the image, computed once: constant folding of an exported program.

A weight norm, a pruning mask, a scale `1 + g`, a mean and its shape made in `forward`: all of it is arithmetic on
parameters, buffers and literals. Nothing of it is left when the calls that make a graph are looked at.

What is the same for every image, as a class token expanded to the batch, is computed for a batch of one: it is
broadcast where the program has it as often as there are images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from edgeq.frontends.torch_export.calls import unsupported
from edgeq.frontends.torch_export.layouts import of_one

_PARAMETRIZED: Final = re.compile(r"parametrizations\.(\w+)\.original\d*$|(weight|bias)_(?:orig|v|g)$")
_OF_A_TYPE: Final = {
    "aten.new_zeros.default": 0, "aten.new_ones.default": 0, "aten.new_full.default": 0, "aten.new_empty.default": 0,
    "aten.zeros_like.default": 0, "aten.ones_like.default": 0, "aten.full_like.default": 0, "aten.type_as.default": 1,
}  # fmt: skip
"""Calls that take only the type or the shape of one of their arguments, none of its values: which one."""


@dataclass(frozen=True)
class Constant:
    """A value that does not depend on the image.

    Attributes:
        name: of the parameter or buffer that it is or mainly is computed from; without one, empty. One that is
            parametrized, `conv.parametrizations.weight.original0` or `conv.weight_orig`, is `conv.weight`.
        value: a tensor of any type and shape; in between also numbers, and tuples of tensors.
        weight: how many numbers that parameter has; 0 of a buffer or a literal.
        computed: whether it is computed from parameters, and not one of them.
    """

    name: str
    value: Any
    weight: int
    computed: bool


def folded(program: torch.export.ExportedProgram) -> dict[fx.Node, Constant]:
    """Compute all calls of a program whose arguments do not depend on its input.

    Args:
        program: on the CPU; its parameters and buffers are left as they are.

    Returns:
        Parameters, buffers, literals, and what is computed from them alone.

    Raises:
        UnsupportedError: a call draws random numbers.
    """
    held = {**program.state_dict, **program.constants}
    parameters = program.graph_signature.inputs_to_parameters
    names = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    found: dict[fx.Node, Constant] = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if target := names.get(node.name):
                value = held[target].detach().clone()  # a call may write into it
                found[node] = Constant(target, value, value.numel() * (node.name in parameters), computed=False)
            elif node.op == "call_function" and _is_constant(node, found):
                main = max((found[n] for n in node.all_input_nodes if n in found), key=lambda c: c.weight, default=None)
                name, weight = (_plain(main.name), main.weight) if main else ("", 0)
                found[node] = Constant(name, _computed(node, found), weight, computed=True)
    return found


def _is_size(node: fx.Node) -> bool:
    """Whether a value is a number that only depends on how many images there are."""
    return isinstance(node.meta.get("val"), torch.SymInt)


def _is_constant(node: fx.Node, found: Mapping[fx.Node, Constant]) -> bool:
    typed = _OF_A_TYPE.get(str(node.target))
    args = [argument for place, argument in enumerate(node.args) if place != typed]
    inputs: list[fx.Node] = []
    map_arg((args, node.kwargs), inputs.append)
    made = isinstance(node.meta.get("val"), Tensor | tuple | list)  # and not a number of images
    return all(source in found or (made and _is_size(source)) for source in inputs)


def _computed(node: fx.Node, found: Mapping[fx.Node, Constant]) -> Any:
    def value(source: fx.Node) -> Any:
        if source in found:
            return found[source].value
        made = source.meta["val"]
        return (
            of_one(made) if _is_size(source) else torch.empty([of_one(size) for size in made.shape], dtype=made.dtype)
        )

    def call() -> Any:
        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))  # type: ignore[operator]

    made = call()
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and not torch.equal(made, call()):
        raise unsupported(
            node,
            f"{node.target} draws random numbers in evaluation mode; expected a network that always computes the same",
        )
    return made


def _plain(name: str) -> str:
    return _PARAMETRIZED.sub(lambda match: match[1] or match[2], name)
