"""ONNX files on disk: parse one, check its sizes, find the files with its tensors, their size and digest.

Exporters store large tensors in files beside the ONNX file ("external data"), and all of these belong to the model. As
in ONNX Runtime, they must be in the folder of the ONNX file.
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

LARGEST_PADDING: Final = 2**16
"""The widest border of a map, in pixels."""


def read_onnx(path: Path) -> Any:
    """Read an ONNX file as a `ModelProto`, without external data.

    Raises:
        ArtifactError: no such file, not an ONNX file, or a tensor of an unknown type or a negative size.
    """
    onnx = import_module("onnx")
    if path.is_dir():
        raise ArtifactError(f"{path}: expected an ONNX file, found a folder")
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
    """Refuse a model with a value too large for memory, as far as shape inference finds it.

    A few bytes of a shape or of padding can make a runtime allocate any amount of memory.

    Raises:
        ArtifactError: a value of more than `MAX_ELEMENTS` numbers, or a padding of more than 65536.
    """
    onnx = import_module("onnx")
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except MemoryError as error:
        raise ArtifactError(f"{path}: its sizes take more memory than there is") from error
    except Exception:  # of onnx, about operators and types; the runtime's own errors are clearer
        graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
            raise ArtifactError(
                f"{path}: expected values of at most {MAX_ELEMENTS} numbers an image, found one of {shape}"
            )
    for node in model.graph.node:  # also if shapes are unknown
        pads = max((abs(size) for a in node.attribute if a.name == "pads" for size in a.ints), default=0)
        if pads > LARGEST_PADDING:
            raise ArtifactError(f"{path}: expected padding of at most {LARGEST_PADDING} pixels, found {pads}")


def model_files(path: Path, model: Any = None) -> list[Path]:
    """Return the files of a model, each once: the ONNX file, then those with external data in the order of tensors.

    Args:
        path: path of the ONNX file.
        model: the result of `read_onnx`, if the file has been read already.

    Raises:
        ArtifactError: as for `read_onnx`; or external data is missing, or is outside of the folder of the ONNX file
            (for a symlink, also outside of the folder of its target).
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
        except (OSError, ValueError) as error:  # an invalid path
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
    """Yield all tensors with external data in a protobuf message, those of nodes and subgraphs included."""
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
    """Return the total size of files in bytes."""
    return sum(path.stat().st_size for path in files)


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file; for several files, that of one line `digest name` for each."""
    if len(files) == 1:
        return sha256(files[0])
    lines = "".join(f"{sha256(path)} {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
