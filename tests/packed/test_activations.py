from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeq.packed.activations import ActivationQuantizer

SCALES = st.floats(2**-20, 2**20, width=32)
ZERO_POINTS = st.integers(0, 255)
LEVELS = st.lists(st.one_of(st.integers(-600, 600).map(lambda n: n / 2), st.floats(-300, 300)), min_size=1, max_size=64)
"""Values in steps: halfway cases, values between, and values out of range."""


@cache
def onnx_session() -> ort.InferenceSession:
    """`(x, scale, zero_point)` -> codes and values, by ONNX Runtime."""
    names = {"x": (TensorProto.FLOAT, ["n"]), "scale": (TensorProto.FLOAT, []), "zero": (TensorProto.UINT8, [])}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["values"]),
        ],
        "quantizer",
        [helper.make_tensor_value_info(name, *kind) for name, kind in names.items()],
        [
            helper.make_tensor_value_info("codes", TensorProto.UINT8, ["n"]),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n"]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def by_onnx(x: NDArray[np.float32], scale: float, zero_point: int) -> list[NDArray[np.float32]]:
    feeds = {"x": x, "scale": np.array(scale, np.float32), "zero": np.array(zero_point, np.uint8)}
    results: list[NDArray[np.float32]] = onnx_session().run(None, feeds)
    return results


def test_known_values() -> None:
    quantizer = ActivationQuantizer(0.5, 10)
    x = torch.tensor([0.0, 0.5, 0.25, 0.75, -0.25, -5.0, -5.3, 122.5, 1e9])
    assert quantizer.codes(x).tolist() == [10, 11, 10, 12, 10, 0, 0, 255, 255]
    assert quantizer(x).tolist() == [0.0, 0.5, 0.0, 1.0, 0.0, -5.0, -5.0, 122.5, 122.5]


@given(LEVELS, SCALES, ZERO_POINTS)
def test_the_same_bits_as_onnx_runtime(levels: list[float], scale: float, zero_point: int) -> None:
    x = np.array(levels, np.float32) * np.float32(scale)
    quantizer = ActivationQuantizer(scale, zero_point)
    codes, values = by_onnx(x, scale, zero_point)
    assert quantizer.codes(torch.from_numpy(x)).numpy().tobytes() == codes.tobytes()
    # -0.0 and 0.0 are the same number and must not fail
    np.testing.assert_array_equal(quantizer(torch.from_numpy(x)).numpy(), values)
    np.testing.assert_array_equal(quantizer.values(torch.from_numpy(codes)).numpy(), values)


@given(LEVELS, SCALES, ZERO_POINTS)
def test_quantizing_twice_changes_nothing(levels: list[float], scale: float, zero_point: int) -> None:
    quantizer = ActivationQuantizer(scale, zero_point)
    once = quantizer(torch.tensor(levels) * scale)
    assert torch.equal(quantizer(once), once)


@given(SCALES, ZERO_POINTS)
def test_zero_stays_zero(scale: float, zero_point: int) -> None:
    assert ActivationQuantizer(scale, zero_point)(torch.zeros(1)).item() == 0.0
