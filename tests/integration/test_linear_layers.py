"""Linear layers of any rank and layout run on integer kernels, and their packed weights are decoded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from nets import Function, images, randomized
from torch import Tensor, nn

import edgeq
from edgeq.exporters.onnx.model import to_onnx

SHAPE = (3, 7, 7)
CASES: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "a flattened map": (392, lambda x: x.flatten(1)),
    "a flattened map, channels last": (392, lambda x: x.permute(0, 2, 3, 1).flatten(1)),
    "an average": (8, lambda x: x.mean((2, 3))),
    "a map, channels last": (8, lambda x: x.permute(0, 2, 3, 1)),
    "a sequence of channels": (8, lambda x: x.flatten(2).transpose(1, 2)),
    "a sequence of rows": (7, lambda x: x.flatten(1, 2)),
    "rank 5": (4, lambda x: x.reshape(-1, 2, 4, 7, 7).permute(0, 1, 3, 4, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_no_matrix_is_multiplied_in_float_and_no_weight_decoded_in_a_run(case: str, tmp_path: Path) -> None:
    inputs, seen = CASES[case]
    layers = {"conv": nn.Conv2d(3, 8, 3, padding=1), "one": nn.Linear(inputs, 32), "two": nn.Linear(32, 16)}
    module = Function(lambda m, x: m.two(m.one(seen(m.conv(x).relu())).relu()), **layers)
    network = edgeq.trace(randomized(module), SHAPE, tasks="regression")
    batches = [images(64, 0, SHAPE)]
    record = edgeq.calibrate(network, batches)
    for scheme in ("8bit", "4bit"):
        plan = edgeq.plan(record, scheme)
        packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
        ops = optimized(to_onnx(packed), tmp_path / f"{scheme}.onnx")
        assert ops.count("QLinearConv") == 3
        assert not {"Conv", "FusedConv", "Gemm", "MatMul", "MatMulInteger", "Gather", "Cast"} & set(ops)


def optimized(model: onnx.ModelProto, path: Path) -> list[str]:
    """Operators of the graph that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]
