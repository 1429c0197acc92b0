"""ONNX files as they lie on the disk: what is in one, the files that its tensors lie in, their size and digest.

A model may keep tensors in files beside it ("external data"), as exporters do with large ones: it is all of these.
Nothing is read here but the ONNX file itself, and its folder is all that it may refer to, as for ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, Final

from edgeq.artifacts.files import sha256
from edgeq.artifacts.schema import TEXT
from edgeq.errors import ArtifactError, one_line
from edgeq.numerics.activations import MAX_ELEMENTS

_LARGEST_PADDING: Final = 2**16


def read_onnx(path: Path) -> Any:
    """The model in an ONNX file, a `ModelProto`; tensors that lie outside of the file stay there.

    Raises:
        ArtifactError: no such file, no ONNX file, or a tensor in it of an unknown type or of negative size.
    """
    onnx = import_module("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except Exception as error:  # protobuf raises its own classes, which differ between its versions
        raise ArtifactError(f"{path}: expected an ONNX file, found something unreadable: {one_line(error)}") from error
    for tensor in model.graph.initializer:
        known = tensor.data_type in onnx.helper.get_all_tensor_dtypes()
        if not known or min(tensor.dims, default=0) < 0 or not TEXT.holds(tensor.name):
            raise ArtifactError(
                f"{path}: expected tensors with names, types and sizes as ONNX knows them, found {tensor.name!r} "
                f"of type {tensor.data_type} and size {list(tensor.dims)}"
            )
    return model


def check_values(path: Path, model: Any) -> None:
    """Refuse a model that computes a value too large for memory, as far as its sizes are known without running it.

    A runtime would take that memory, which a few bytes of padding or of a shape can ask for.

    Raises:
        ArtifactError: a value of more than `MAX_ELEMENTS` numbers an image, or padding that no image needs.
    """
    onnx = import_module("onnx")
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except MemoryError as error:
        raise ArtifactError(f"{path}: its sizes take more memory than there is") from error
    except Exception:  # of onnx, about operators and types; what the runtime says of them is clearer
        graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
            raise ArtifactError(
                f"{path}: expected values of at most {MAX_ELEMENTS} numbers an image, found one of {shape}"
            )
    for node in model.graph.node:  # also where shapes are not known
        pads = max((abs(size) for a in node.attribute if a.name == "pads" for size in a.ints), default=0)
        if pads > _LARGEST_PADDING:
            raise ArtifactError(f"{path}: expected padding of at most {_LARGEST_PADDING} pixels, found {pads}")


def model_files(path: Path, model: Any = None) -> list[Path]:
    """The files that a model is made of, each once: the ONNX file, then those that its tensors lie in, in their order.

    Args:
        path: of the ONNX file.
        model: what `read_onnx` gives for it, if that is there already.

    Raises:
        ArtifactError: as `read_onnx` does; or a tensor lies outside of the folder of the ONNX file (that of a link or
            of what it leads to), or in a file that is not there.
    """
    allowed = {os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))}  # noqa: PTH120
    found = {os.path.realpath(path): path}
    for tensor in _external(read_onnx(path) if model is None else model):
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        place = path.parent / location
        try:
            real = os.path.realpath(place)
            inside = bool(location) and any(Path(real).is_relative_to(folder) for folder in allowed)
            there = inside and Path(real).is_file()
        except (OSError, ValueError) as error:  # no name that a file can have
            raise ArtifactError(
                f"{path}: {tensor.name}: cannot be read from {location!r}: {one_line(error)}"
            ) from error
        if not inside:
            raise ArtifactError(
                f"{path}: expected its tensors in files of its folder, found {tensor.name} in {location!r}; nothing "
                "outside of the folder is read"
            )
        if not there:
            raise ArtifactError(
                f"{path}: expected the file {location} beside it, which holds {tensor.name}, found none; put it there"
            )
        found.setdefault(real, place)
    return list(found.values())


def _external(message: Any) -> Iterator[Any]:
    """All tensors within a protobuf message that lie in another file, those of nodes and of graphs within them, too."""
    onnx = import_module("onnx")
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _external(part)


def size(files: Sequence[Path]) -> int:
    """Their bytes in all."""
    return sum(path.stat().st_size for path in files)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, that of the lines `digest name` of each."""
    if len(files) == 1:
        return sha256(files[0])
    lines = "".join(f"{sha256(path)} {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
