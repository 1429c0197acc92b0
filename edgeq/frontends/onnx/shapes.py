"""The shapes of inputs, for a batch of one image, and all that follows from them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from edgeq.errors import UnsupportedError
from edgeq.frontends.onnx.call import reason
from edgeq.numerics.activations import MAX_ELEMENTS

Shape = tuple[int, ...]

_LARGEST: Final = 2**16
"""Numbers of a folded constant: shape arithmetic, grids and anchors are smaller, or are computed when the file is."""


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no weights: old files list those, too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [one for one in graph.input if one.name not in weights]


def shapes_of(path: Path, graph: onnx.GraphProto, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of every input without the batch, as the file has it, and where that is open as it is given.

    Raises:
        UnsupportedError: an open size that is not given, one that contradicts the file, an input that the file lacks,
            or one that has no batch of 1 or any size in front.
    """
    inputs = inputs_of(graph)
    names = [one.name for one in inputs]
    if unknown := [name for name in given if name not in names]:
        raise UnsupportedError(f"{path}: no input {unknown[0]}; expected one of {', '.join(names)}")
    if not inputs:
        raise UnsupportedError(f"{path}: it has no input; expected an image")
    return {one.name: _shape(path, one, given.get(one.name)) for one in inputs}


def _shape(path: Path, value: onnx.ValueInfoProto, given: Shape | None) -> Shape:
    where = f"{path}: input {value.name}"
    if not value.type.tensor_type.HasField("shape"):
        if given is None:
            raise UnsupportedError(f"{where} has no shape; {_way_out(value.name, None)}")
        return given
    dims = value.type.tensor_type.shape.dim
    declared = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
    if len(declared) < 2 or declared[0] not in (1, None):
        raise UnsupportedError(
            f"{where} is {_described(dims)}; expected the batch first, of 1 or of any size: export it so"
        )
    if given is None:
        if None in declared[1:]:
            place = declared.index(None, 1)
            raise UnsupportedError(
                f"{where} is {_described(dims)}, whose dimension {place} is open; {_way_out(value.name, declared)}"
            )
        given = tuple(size for size in declared[1:] if size is not None)
    if len(given) != len(declared) - 1 or any(
        want not in (size, None) for size, want in zip(given, declared[1:], strict=True)
    ):
        raise UnsupportedError(
            f"{where} is {_described(dims)}; expected sizes that fit it, found {'x'.join(map(str, (1, *given)))}"
        )
    if min(given) < 1 or prod(given) > MAX_ELEMENTS:
        raise UnsupportedError(
            f"{where}: expected sizes of 1 or more, at most {MAX_ELEMENTS} numbers, found {list(given)}"
        )
    return given


def _way_out(name: str, declared: list[int | None] | None) -> str:
    """How to give a shape, with an example."""
    rest = (
        [3, 224, 224]
        if declared is None
        else [size or (224 if place > 1 else 3) for place, size in enumerate(declared[1:], 1)]
    )
    example = "x".join(map(str, (1, *rest)))
    return f"give its size, as in --input-shape {example}, or input_shapes={{{name!r}: {tuple(rest)}}}"


def _described(dims: object) -> str:
    return f"[{', '.join(str(d.dim_value) if d.dim_value > 0 else d.dim_param or '?' for d in dims)}]"  # type: ignore[attr-defined]


def folded(path: Path, model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """The same model for one image of these shapes: constants and what is computed from shapes are folded.

    onnxscript's constant folding keeps the names of all values and their exact numbers; its whole optimizer, ONNX
    Runtime's and onnxsim fold batch norms too, whose statistics are still needed.

    Raises:
        UnsupportedError: its shapes contradict each other, or it is too large.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    weights = {tensor.name for tensor in fixed.graph.initializer}
    for value in [one for one in fixed.graph.input if one.name in weights]:
        fixed.graph.input.remove(value)
    for value in fixed.graph.input:
        value.type.tensor_type.ClearField("shape")
        for size in (1, *shapes[value.name]):
            value.type.tensor_type.shape.dim.add().dim_value = size
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed.graph.ClearField("value_info")
    try:
        with _silent():
            ordered = ir.serde.deserialize_model(fixed)
            ordered.graph.sort()  # runtimes take nodes in any order
            fixed = ir.serde.serialize_model(ordered)
            made = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(fixed, data_prop=True))
            common.InlinePass()(made)
            fold_constants(made, onnx_shape_inference=True, input_size_limit=_LARGEST, output_size_limit=_LARGEST)
            common.RemoveUnusedNodesPass()(made)
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(made)
            return ir.serde.serialize_model(made)
    except Exception as error:  # onnx and onnxscript raise many types
        raise UnsupportedError(f"{path}: its constants cannot be folded: {reason(error)}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """onnxscript logs what it leaves as it is."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
