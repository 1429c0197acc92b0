"""Small ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Value = tuple[str, int, Sequence[int | str] | None]
FLOAT, HALF, INT64, UINT8 = map(int, (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8))
IMAGE: Value = ("x", FLOAT, ["n", 3, 8, 8])
WEIGHT = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
node = helper.make_node


def conv(source: str = "x", made: str = "c") -> NodeProto:
    """A convolution of 3x3 from 3 to 4 channels with the weight `w`."""
    return node("Conv", [source, "w"], [made], name=f"conv_{made}", pads=[1] * 4)


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    outputs: Sequence[Value],
    constants: Mapping[str, NDArray[Any]],
    inputs: Sequence[Value] = (IMAGE,),
    opset: int = 17,
) -> Path:
    """Write a file; `w` is `WEIGHT` if it is not given."""
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in ({"w": WEIGHT} | dict(constants)).items()]
    taken, made = ([helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs))
    graph = helper.make_graph(list(nodes), "graph", taken, made, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path
