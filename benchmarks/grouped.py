"""Grouped 3x3 convolutions of few channels in ONNX Runtime: in float, in integers, and in integers with groups merged.

    python benchmarks/grouped.py        # writes results/grouped.json

Microseconds of the processor for one of four such convolutions of 64 channels over maps of 28 x 28: the fastest of some
runs, in turns. Merged groups have weights of 0 where an output does not read a channel
(`edgeq/exporters/onnx/merged_groups.py`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeq.artifacts.files import write_json
from edgeq.system.environment import environment

CHANNELS: Final = 64
SIDE: Final = 28
CONVOLUTIONS: Final = 4
DEPTHS: Final = (2, 4, 8, 16, 32)
RUNS: Final = 100


def model(depth: int, merged: int, integer: bool) -> bytes:
    """A chain of convolutions with groups of `depth` channels, computed in groups of `merged` channels."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-63, 64, (CHANNELS, merged, 3, 3)).astype(np.int8)
    for channel in range(CHANNELS):
        first = channel % merged // depth * depth
        weight[channel, :first] = weight[channel, first + depth :] = 0
    constants: dict[str, Any] = {"bias": np.zeros(CHANNELS, np.float32)}
    nodes: list[NodeProto] = []
    if integer:
        constants |= {"step": np.float32(0.02), "zero": np.uint8(128), "levels": weight}
        constants["scale"] = np.full(CHANNELS, 1 / (63 * depth), np.float32)
        nodes.append(helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q0"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q0", "step", "zero"], ["v0"]))
        nodes.append(helper.make_node("DequantizeLinear", ["levels", "scale"], ["weight"], axis=0))
    else:
        constants["weight"] = weight.astype(np.float32) / (63 * depth)
    for number in range(1, CONVOLUTIONS + 1):
        source = f"v{number - 1}" if number > 1 or integer else "x"
        made = f"c{number}" if integer else f"v{number}"
        nodes.append(
            helper.make_node("Conv", [source, "weight", "bias"], [made], group=CHANNELS // merged, pads=[1] * 4)
        )
        if integer:
            nodes.append(helper.make_node("QuantizeLinear", [made, "step", "zero"], [f"q{number}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{number}", "step", "zero"], [f"v{number}"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])
        for name in ("x", f"v{CONVOLUTIONS}")
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "grouped", ends[:1], ends[1:], initializers)
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made_model)
    return bytes(made_model.SerializeToString())


def microseconds(depth: int) -> dict[str, float]:
    """Of one convolution with groups of some channels, by how it is computed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    files = {"float": model(depth, depth, False)}
    files |= {str(merged): model(depth, merged, True) for merged in (*DEPTHS, CHANNELS) if merged >= depth}
    sessions = {
        name: onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    fastest = dict.fromkeys(sessions, float("inf"))
    for _ in range(RUNS):
        for name, session in sessions.items():
            began = time.thread_time()
            session.run(None, {"x": x})
            fastest[name] = min(fastest[name], time.thread_time() - began)
    return {name: seconds / CONVOLUTIONS * 1e6 for name, seconds in fastest.items()}


def main() -> None:
    rows = {str(depth): microseconds(depth) for depth in DEPTHS}
    output = Path(__file__).parent / "results" / "grouped.json"
    write_json(output, "grouped", 1, {"environment": environment(), "microseconds": rows})


if __name__ == "__main__":
    main()
