"""Einsums: one that mixes a dimension by a constant matrix is a layer, any other of two values a product in float."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from string import ascii_letters
from typing import Any

from torch import fx

from edgeq.frontends.torch_export.arrange import turned
from edgeq.frontends.torch_export.builder import GraphBuilder, Parameters
from edgeq.frontends.torch_export.calls import unsupported
from edgeq.frontends.torch_export.layers import mix
from edgeq.frontends.torch_export.layouts import Layout
from edgeq.frontends.torch_export.shapes import viewed
from edgeq.ir.ops.float_operators import FloatOperator


@dataclass(frozen=True)
class _Operand:
    """A value of an einsum: a letter for each of its dimensions, and what its node has for it, the batch as 0.

    Attributes:
        value: computed or constant.
        letters: of its dimensions.
        layout: of a constant, without any batch.
        computed: whether it is.
    """

    value: fx.Node
    letters: str
    layout: Layout
    computed: bool

    def group(self, letter: str) -> tuple[int, ...]:
        """The dimensions of the node that a letter stands for."""
        return self.layout.dims[self.letters.index(letter)] if letter in self.letters else ()

    def dims(self, letters: Iterable[str]) -> list[int]:
        """Those that some letters stand for, without the batch."""
        return [dim for letter in letters for dim in self.group(letter) if dim]

    def sizes(self, letters: Iterable[str]) -> list[int]:
        """Their sizes."""
        return [self.layout.shape[dim - 1] for dim in self.dims(letters)]

    @property
    def batch(self) -> tuple[str, list[int]]:
        """The letter of the batch, and the sizes of what is merged with it, 0 for the batch itself."""
        letter = self.letters[self.layout.axis]
        return letter, [self.layout.shape[dim - 1] if dim else 0 for dim in self.group(letter)]


def einsum(builder: GraphBuilder, node: fx.Node, args: dict[str, Any]) -> None:
    """Translate any einsum of two values."""
    values = args["tensors"]
    (*terms, made), known = _spelled(args["equation"], values), builder.constants.keys()
    if len(values) != 2 or any(len({*term}) < len(term) for term in terms):
        raise unsupported(node, f"an einsum {args['equation']}; expected two values and no repeated letter in one")
    for (value, read), (matrix, pair) in (zip(values, terms, strict=True), zip(values[::-1], terms[::-1], strict=True)):
        for way in (pair, pair[::-1]):
            if matrix in known and value not in known and len(pair) == 2 and made == read.replace(way[1], way[0]):
                name, weight = builder.tensor(matrix, node)
                weight = weight if way == pair else weight.T.contiguous()
                mix(builder, node, value, Parameters(name, weight, None), read.find(way[1]))
                return
    operands = [_operand(builder, value, term) for value, term in zip(values, terms, strict=True)]
    _product(builder, node, (operands[0], operands[1]), made)


def _operand(builder: GraphBuilder, value: fx.Node, letters: str) -> _Operand:
    if value in builder.alias:
        return _Operand(value, letters, builder.layouts[value], computed=True)
    shape = tuple(value.meta["val"].shape)
    return _Operand(value, letters, Layout(tuple((dim,) for dim in range(1, len(shape) + 1)), shape), computed=False)


def _spelled(equation: str, values: Sequence[fx.Node]) -> list[str]:
    """The terms with a letter for every dimension, that of the result last."""
    inputs, _, made = equation.replace(" ", "").partition("->")
    terms, free = inputs.split(","), [letter for letter in ascii_letters if letter not in equation]
    hidden = [
        value.meta["val"].dim() - len(term) + 3 if "..." in term else 0
        for value, term in zip(values, terms, strict=True)
    ]
    spelled = [
        term.replace("...", "".join(free[max(hidden) - count : max(hidden)]))
        for term, count in zip(terms, hidden, strict=True)
    ]
    return [*spelled, made.replace("...", "".join(free[: max(hidden)]))]


def _product(builder: GraphBuilder, node: fx.Node, operands: tuple[_Operand, _Operand], made: str) -> None:
    """`[shared.., left.., summed..] @ [shared.., summed.., right..]`; the batch is first in every node by itself."""
    first, second = operands
    shared = [letter for letter in made if letter in first.letters and letter in second.letters]
    left, right = ([letter for letter in made if letter in own.letters and letter not in shared] for own in operands)
    summed = [letter for letter in first.letters if letter in second.letters and letter not in made]
    batches = [operand.batch for operand in operands if operand.computed]
    if batches[0][0] not in made or batches[0] != batches[-1] or {*made, *summed} != {*first.letters, *second.letters}:
        raise unsupported(
            node,
            f"an einsum of {first.letters}, {second.letters} to {made}; expected a product of two values of one image",
        )
    inputs, tensors = {}, {}
    for key, operand, rows, columns in (("self", first, left, summed), ("other", second, summed, right)):
        order = operand.dims([*shared, *rows, *columns])
        shape = (*operand.sizes(shared), prod(operand.sizes(rows)), prod(operand.sizes(columns)))
        if operand.computed:
            inputs[key] = viewed(builder, node, turned(builder, operand.value, node, order)[0], shape)
        else:
            values = builder.tensor(operand.value, node)[1]
            tensors[key] = values.permute([dim - 1 for dim in order]).reshape(shape).contiguous()
    layout = builder.layouts[node] = _result(operands, [*shared, *left, *right], made)
    whole = max((first, second), key=lambda operand: operand.computed).sizes(shared)
    shape = (*whole, prod(first.sizes(left)), prod(second.sizes(right)))
    product = FloatOperator("matmul.default", [*inputs], {}, tensors)
    viewed(builder, node, builder.add_float(node, product, inputs.values(), shape).name, layout.shape)


def _result(operands: Iterable[_Operand], letters: Iterable[str], made: str) -> Layout:
    """Of a result whose node has the dimensions of these letters one after the other."""
    groups: dict[str, tuple[int, ...]] = {}
    shape: list[int] = []
    computed_first = sorted(operands, key=lambda operand: not operand.computed)
    for letter in letters:
        owner = next(operand for operand in computed_first if letter in operand.letters)
        before = len(shape)
        shape += owner.sizes(letter)
        numbers = iter(range(before + 1, len(shape) + 1))
        groups[letter] = tuple(dim and next(numbers) for dim in owner.group(letter))
    return Layout(tuple(groups[letter] for letter in made), tuple(shape))
