"""The sizes that an ONNX file leaves open, and others to try: a file that was calibrated at one shall take them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from edgeq.artifacts.onnx_files import read_onnx
from edgeq.frontends.onnx.shapes import Shape, inputs_of

_STRIDE: Final = 32
"""What sizes are multiples of in most networks: those of maps that are halved five times."""


def names_of_sizes(path: Path) -> dict[tuple[str, int], str]:
    """The names of the open dimensions of inputs and outputs, by the value and the number of the dimension; of some it
    is empty."""
    graph = read_onnx(path).graph
    return {
        (value.name, i): dim.dim_param
        for value in (*inputs_of(graph), *graph.output)
        for i, dim in enumerate(value.type.tensor_type.shape.dim)
        if dim.dim_value <= 0
    }


def other_shapes(names: Mapping[tuple[str, int], str], shapes: Mapping[str, Shape]) -> Iterator[dict[str, Shape]]:
    """Other shapes for the inputs of a file: first with all open dimensions changed, then each by itself, the last
    first.

    Args:
        names: of the open dimensions, see `names_of_sizes`.
        shapes: of the inputs, without the batch.
    """
    places = [(name, i) for name, i in names if name in shapes and i > 0]
    for chosen in [places, *([place] for place in reversed(places) if len(places) > 1)]:
        if chosen:
            sizes = {name: [*shape] for name, shape in shapes.items()}
            for count, (name, i) in enumerate(chosen, 1):
                size = shapes[name][i - 1]
                sizes[name][i - 1] = size * (1 + count) if size % _STRIDE else size + _STRIDE * count
            yield {name: tuple(shape) for name, shape in sizes.items()}
