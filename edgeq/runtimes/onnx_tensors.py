"""The initializers of an ONNX file."""

from __future__ import annotations

from importlib import import_module
from math import isfinite, prod
from pathlib import Path
from typing import Any

from edgeq.errors import ArtifactError, one_line


def tensors(model: Any) -> list[dict[str, Any]]:
    """Return name, dtype, shape and bytes of every initializer of a `ModelProto`."""
    onnx = import_module("onnx")
    return [
        {
            "name": tensor.name,
            "dtype": onnx.TensorProto.DataType.Name(tensor.data_type).lower(),
            "shape": list(tensor.dims),
            "bytes": prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize,
        }
        for tensor in model.graph.initializer
    ]


def span(path: Path, model: Any, name: str) -> list[float] | None:
    """Return the smallest and the largest scale in an initializer of a `ModelProto`; None if there is no such tensor.

    Args:
        path: path of the ONNX file, for messages.
        model: the `ModelProto`.
        name: name of the initializer.

    Raises:
        ArtifactError: the scales are not finite numbers, or are external data.
    """
    onnx = import_module("onnx")
    tensor = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
    if tensor is None:
        return None
    if tensor.external_data:
        raise ArtifactError(f"{path}: {name}: expected scales in the file, found them in another; export again")
    try:
        onnx.checker.check_tensor(tensor)
        found = onnx.numpy_helper.to_array(tensor)
        ends = [float(found.min()), float(found.max())]
    except Exception as error:  # onnx and NumPy raise many types
        raise ArtifactError(f"{path}: {name}: expected scales, found {one_line(error)}; export again") from error
    if not all(map(isfinite, ends)):
        raise ArtifactError(f"{path}: {name}: expected finite scales, found {ends}; export again")
    return ends
