"""Whatever network it is, the file computes what PyTorch does: random small ones through the whole pipeline.

Their channels may be switched off, as training does it: weights of nearly zero beside an ordinary bias, or a batch norm
with a gamma of nearly zero. Others have biases that are large beside everything else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import openvino
import torch
from drawn import SIZE, networks, openvino_takes, with_odd_channels
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from nets import images, randomized
from numpy.typing import NDArray
from torch import nn

import edgeq
from edgeq.environment import int8_overflows
from edgeq.parity import compare, output_point


def in_openvino(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    core = openvino.Core()
    model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(model(x)[0])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks(), st.sampled_from(["8bit", "4bit", "2bit", "adaptive"]), st.booleans(), st.integers(0, 99))
def test_the_file_computes_what_pytorch_computes(module: nn.Module, scheme: str, odd: bool, seed: int) -> None:
    shape = (3, SIZE, SIZE)
    note(str(module))
    module = randomized(module, seed)
    network = edgeq.trace(with_odd_channels(module, seed) if odd else module, shape)
    batches = [images(6, seed + i, shape) for i in range(2)]
    record = edgeq.calibrate(network, batches, "minmax", seed=seed)
    plan = edgeq.plan(record, scheme, portable=int8_overflows())
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    x = images(8, seed + 2, shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        edgeq.export(packed, path, record, plan, batches)
        step = record.activations[output_point(packed)].scale
        found = compare(packed, path, step, [x])
        again = edgeq.load_packed(path.with_suffix(".safetensors"))
        third = in_openvino(path, x) if openvino_takes(module) else None
    assert found.nodes_within_one_step == 1.0
    assert found.within_eight_steps == found.optimized_within_eight_steps == 1.0
    assert found.overflowing == 0.0
    with torch.inference_mode():
        expected = packed(torch.from_numpy(x)).numpy()
    assert third is None or (np.abs(expected - third) <= 8 * step).mean() > 0.98
    assert torch.equal(again(torch.from_numpy(x)), packed(torch.from_numpy(x)))
