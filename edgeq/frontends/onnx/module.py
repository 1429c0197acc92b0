"""A folded ONNX graph as a module, which the tracer can take like any other.

Every node is a module at a path that is its name, so layers are named as in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from typing import Final

from torch import Tensor, nn

from edgeq.frontends.onnx.call import Call
from edgeq.frontends.onnx.interpret import Interpretation, Value
from edgeq.frontends.onnx.operators.table import OPERATORS

_NAMES: Final = {
    "Conv": ("", "weight", "bias"), "ConvTranspose": ("", "weight", "bias"), "Gemm": ("", "weight", "bias"),
    "MatMul": ("weight", "weight"), "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("", "weight", "bias"), "LayerNormalization": ("", "weight", "bias"),
    "GroupNormalization": ("", "weight", "bias"), "PRelu": ("", "weight"),
    "LSTM": ("", "weight", "recurrent", "bias"), "GRU": ("", "weight", "recurrent", "bias"),
}  # fmt: skip
"""What constant inputs are called as parameters; others by their number."""


class Operator(nn.Module):
    """One node, with its constants."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call, self.places = call, []  # what each input is: the name of a parameter, or none
        known, taken = _NAMES.get(call.op, ()), set[str]()
        for place, value in enumerate(call.static):
            name = known[place] if place < len(known) else ""
            name = name if name and name not in taken else f"input{place}"
            if value is not None:
                taken.add(name)
                if value.is_floating_point():
                    self.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))
                else:
                    self.register_buffer(name, value.clone())
            self.places.append("" if value is None else name)

    def forward(self, *computed: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the node from those of its inputs that are computed."""
        given = iter(computed)
        inputs: list[Tensor | None] = []
        for name, constant in zip(self.call.inputs, self.places, strict=True):
            inputs.append(getattr(self, constant) if constant else next(given) if name else None)
        made: Tensor | tuple[Tensor, ...] = OPERATORS[self.call.op](self.call, *inputs)
        return made


class OnnxModule(nn.Module):
    """Runs what has been interpreted.

    Args:
        found: the nodes.
        inputs: names of the inputs, in the order of the arguments.
        outputs: names of the values that are returned, each with the batch first and alone.
    """

    def __init__(self, found: Interpretation, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self._inputs, self._outputs = list(inputs), [(name, found.values[name]) for name in outputs]
        wanted = set(outputs)
        self._steps: list[tuple[Operator, list[str], list[str]]] = []
        for call in reversed(found.calls):
            if wanted.intersection(call.outputs):
                reads = [name for name in call.inputs if name in found.values]
                self._steps.append((Operator(call), reads, call.outputs))
                wanted.update(reads)
        self._steps.reverse()
        self.paths: dict[str, str] = {}
        """Of each node, by the path of its module."""
        for operator, _, _ in self._steps:
            self.paths[_register(self, operator.call.name, operator)] = operator.call.name

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs, each `[n, ...]`, from the inputs `[n, ...]`."""
        values: dict[str, Tensor] = dict(zip(self._inputs, inputs, strict=True))
        for operator, reads, names in self._steps:
            made = operator(*[values[name] for name in reads])
            values.update(zip(names, made if isinstance(made, tuple) else (made,), strict=False))
        found = tuple(batch_first(values[name], place) for name, place in self._outputs)
        return found if len(found) > 1 else found[0]


def batch_first(x: Tensor, place: Value) -> Tensor:
    """A value with the batch first and alone, where it was merged with others or behind them."""
    size, axis = place.shape[place.axis], place.axis
    inner = size // place.outer
    parts = [*([place.outer] if place.outer > 1 else []), -1, *([inner] if inner > 1 else [])]
    x = x if len(parts) == 1 else x.unflatten(axis, parts)  # type: ignore[no-untyped-call]
    axis += place.outer > 1
    return x if axis == 0 else x.movedim(axis, 0)


def _register(root: nn.Module, name: str, module: nn.Module) -> str:
    """Put a module at a path that is a name, nested at its dots, or as near to it as modules can be called."""
    *path, last = (_allowed(part) for part in name.split("."))
    place, found = root, list[str]()
    for part in path:
        if not isinstance(inner := place._modules.get(part), nn.Module):
            part, inner = _free(place, part), nn.Module()  # noqa: PLW2901
            place.add_module(part, inner)
        found.append(part)
        place = inner
    found.append(_free(place, last))
    place.add_module(found[-1], module)
    return ".".join(found)


def _allowed(part: str) -> str:
    return part if part and not hasattr(nn.Module, part) else f"{part}_"


def _free(place: nn.Module, part: str) -> str:
    return next(name for name in chain([part], (f"{part}:{i}" for i in count(2))) if not hasattr(place, name))
