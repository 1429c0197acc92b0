"""What the inputs of an ONNX file tell of its images."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from edgeq.artifacts.onnx_files import read_onnx
from edgeq.errors import UnsupportedError
from edgeq.frontends.onnx.ends import Ends
from edgeq.frontends.onnx.shapes import inputs_of


def only_input(path: Path) -> str:
    """The name of the only input of a file.

    Raises:
        ArtifactError: no ONNX file.
        UnsupportedError: it has several.
    """
    names = [one.name for one in inputs_of(read_onnx(path).graph)]
    if len(names) != 1:
        raise UnsupportedError(f"{path}: it has the inputs {', '.join(names)}; give their shapes by name")
    return names[0]


def takes_bytes(ends: Ends) -> bool:
    """Whether a file takes pixels in 0..255."""
    return all(one.type.tensor_type.elem_type == TensorProto.UINT8 for one in ends.inputs)
