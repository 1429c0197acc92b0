"""Read an ONNX file whole, and refuse what is no float network of one version or another of ONNX's own operators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from edgeq.artifacts.onnx_files import check_values, digest, model_files, read_onnx
from edgeq.errors import ArtifactError, UnsupportedError, WeightsError, one_line

OPSETS: Final = range(9, 23)
"""Versions of the operators that are read."""

_DOMAINS: Final = ("", "ai.onnx")
_QUANTIZED: Final = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinear",
    "DynamicQuantize", "QAttention", "QGemm", "QMoE", "MatMulNBits", "QEmbed", "MatMulBnb4", "FusedMatMulInteger",
)  # fmt: skip


def read(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a file with its external data.

    Returns:
        The model, and the SHA-256 of its files.

    Raises:
        ArtifactError: no ONNX file, damaged, or its external data is missing or outside of its folder.
        UnsupportedError: opsets other than 9 to 22, operators of other domains, a quantized network.
        WeightsError: a weight that is NaN or infinite.
    """
    model = read_onnx(path)
    if not model.graph.node:
        raise ArtifactError(f"{path}: expected an ONNX file with operators, found none")
    files = model_files(path, model)
    check_version(path, model)
    check_operators(path, model.graph)
    check_sources(path, model.graph)
    check_values(path, model)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises many types
        raise ArtifactError(f"{path}: its external data cannot be read: {one_line(error)}") from error
    for tensor in model.graph.initializer:
        _check_tensor(path, tensor)
    return model, digest(files)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model has; 0 if it names none."""
    return next((one.version for one in model.opset_import if one.domain in _DOMAINS), 0)


def check_version(path: Path, model: onnx.ModelProto) -> None:
    """Refuse versions of the operators that are not read."""
    opset = opset_of(model)
    if opset not in OPSETS:
        raise UnsupportedError(
            f"{path}: expected operators of opset {OPSETS[0]} to {OPSETS[-1]}, found {opset or 'none'}; export it with "
            "such a one, or convert it with onnx.version_converter"
        )


def check_operators(path: Path, graph: onnx.GraphProto) -> None:
    """Refuse a quantized network, and names that are no text; the nodes of subgraphs are looked at, too."""
    for node in _nodes(graph):
        if not all(isinstance(text, str) for text in (node.op_type, node.domain, node.name, *node.input, *node.output)):
            raise ArtifactError(f"{path}: expected names in UTF-8, found one that is not")  # protobuf gives bytes then
        if node.op_type.startswith(_QUANTIZED):
            raise UnsupportedError(
                f"{path}: it is already quantized, as node {node.name or node.output[:1]} is a {node.op_type}; "
                "expected the float file that it was made of"
            )


def check_sources(path: Path, graph: onnx.GraphProto) -> None:
    """Refuse a node that reads what comes from nowhere."""
    known = {""} | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    known |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        if missing := [name for name in node.input if name not in known]:
            raise ArtifactError(
                f"{path}: node {node.name or node.output[:1]} reads {missing[0]}, which nothing makes; expected a "
                "whole network: export it again"
            )


def check_domains(path: Path, graph: onnx.GraphProto) -> None:
    """Refuse operators that are not ONNX's own."""
    for node in _nodes(graph):
        if node.domain not in _DOMAINS:
            raise UnsupportedError(
                f"{path}: node {node.name or node.output[:1]} is a {node.op_type} of {node.domain}; expected ONNX's "
                "own operators: export the network without custom operators and without a runtime's optimizations"
            )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # NumPy and onnx raise many types
        raise ArtifactError(
            f"{path}: tensor {tensor.name}: expected as many values as its size {list(tensor.dims)} says, found others"
        ) from error
    if array.dtype.kind != "f":
        return
    # The ends of a clip may be infinite.
    wrong = ~np.isfinite(array) if array.ndim > 1 else np.isnan(array)
    if wrong.any():
        raise WeightsError(f"{path}: weights {tensor.name}: found NaN or infinite values; use weights that are finite")
