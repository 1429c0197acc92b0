"""What is in a file that edgeq wrote: what `edgeq inspect` does, as plain functions."""

from __future__ import annotations

import json
from importlib import import_module
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgeq
from edgeq.artifacts.files import kind_of, read_json
from edgeq.artifacts.manifest import MANIFEST, MANIFEST_VERSION, read_manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import ArtifactError, one_line
from edgeq.numerics.weights import as_stored
from edgeq.planning.cost import FLOAT_BITS, macs
from edgeq.runtimes.onnx_files import model_files, read_onnx, size

if TYPE_CHECKING:
    from torch import nn

    from edgeq.ir.graph import Node


def inspect(path: Path) -> tuple[str, dict[str, Any]]:
    """Read any file that edgeq writes for later stages, and check it.

    Returns:
        Its kind and its content as JSON values: `record` and `manifest` are the file itself; `model` is an ONNX file,
        its manifest with the `scales` of each layer; `onnx` is one without a manifest, its initializers; `packed` is a
        packed PyTorch network, its layers.

    Raises:
        ArtifactError: none of these, or damaged.
    """
    if not path.is_file():
        found = "found a folder" if path.is_dir() else "no such file"
        raise ArtifactError(f"{path}: {found}; expected a record, a manifest, an .onnx or a .safetensors file")
    if path.suffix == ".onnx":
        return _model(path)
    if path.suffix == ".safetensors":
        return "packed", _packed(path)
    kind = kind_of(path)
    if kind == "record":
        return kind, json.loads(CalibrationRecord.load(path).to_json())
    if kind == "manifest":
        return kind, read_json(path, kind, MANIFEST_VERSION, MANIFEST, "export again")
    raise ArtifactError(
        f"{path}: expected a record, a manifest, an .onnx or a .safetensors file, found {kind or 'another file'}"
    )


def _model(path: Path) -> tuple[str, dict[str, Any]]:
    onnx = import_module("onnx")
    described = path.with_suffix(".json").exists()
    manifest = read_manifest(path) if described else {}
    model = read_onnx(path)
    initializers = model.graph.initializer
    if described:
        scales = {tensor.name: tensor for tensor in initializers}
        for layer in manifest["layers"]:
            found = scales.get(f"{layer['name']}.scale")
            layer["scales"] = None if found is None else _span(path, found)
        return "model", manifest
    tensors = [
        {
            "name": tensor.name,
            "dtype": onnx.TensorProto.DataType.Name(tensor.data_type).lower(),
            "shape": list(tensor.dims),
            "bytes": prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize,
        }
        for tensor in initializers
    ]
    return "onnx", {"file": path.name, "bytes": size(model_files(path, model)), "tensors": tensors}


def _span(path: Path, tensor: Any) -> list[float]:
    """The smallest and the largest of some scales in an ONNX file."""
    onnx = import_module("onnx")
    if tensor.external_data:
        raise ArtifactError(f"{path}: {tensor.name}: expected scales in the file, found them in another; export again")
    try:
        onnx.checker.check_tensor(tensor)
        found = onnx.numpy_helper.to_array(tensor)
        span = [float(found.min()), float(found.max())]
    except Exception as error:  # of onnx and of NumPy, whatever does not fit
        raise ArtifactError(f"{path}: {tensor.name}: expected scales, found {one_line(error)}; export again") from error
    if not all(map(isfinite, span)):
        raise ArtifactError(f"{path}: {tensor.name}: expected finite scales, found {span}; export again")
    return span


def _packed(path: Path) -> dict[str, Any]:
    network = edgeq.load_packed(path)
    nodes = network.graph.nodes
    act_bits = 8 if any(node.op == "quantize" for node in nodes) else 32
    layers = [_packed_layer(node, network.layer(node.name), act_bits) for node in network.graph.layers]
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "act_bits": act_bits,
        "bitops": sum(layer["bitops"] for layer in layers),
        "layers": [{"position": i, **layer} for i, layer in enumerate(layers)],
    }


def _packed_layer(node: Node, layer: nn.Module, act_bits: int) -> dict[str, Any]:
    tensors = layer.state_dict()
    packed = "packed" in tensors
    bits = int(getattr(layer, "bits", FLOAT_BITS))
    shape = [int(d) for d in getattr(layer, "shape", None) or tensors["weight"].shape]
    multiplies = macs(tuple(shape), node.shape)
    return {
        "name": node.name,
        "kind": node.op,
        "shape": shape,
        "bits": bits,
        "act_bits": act_bits,
        "macs": multiplies,
        "bytes": sum(
            (as_stored(tensor.numpy()) if packed and tensor.is_floating_point() else tensor).nbytes
            for tensor in tensors.values()
        ),
        "bitops": multiplies * bits * act_bits,
        "scales": [float(tensors["scale"].min()), float(tensors["scale"].max())] if packed else None,
    }
