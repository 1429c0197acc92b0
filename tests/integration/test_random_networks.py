"""Whatever network it is, the file computes what PyTorch does: random small ones through the whole pipeline.

Their channels may be switched off, as training does it: weights of nearly zero beside an ordinary bias, or a batch norm
with a gamma of nearly zero. Others have biases that are large beside everything else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from drawn import SIZE, in_openvino, networks, openvino_takes, through_stages
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from nets import images, randomized
from torch import Tensor, nn

import edgeq
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import compare


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks(), st.sampled_from(["8bit", "4bit", "2bit", "adaptive"]), st.booleans(), st.integers(0, 99))
def test_the_file_computes_what_pytorch_computes(module: nn.Module, scheme: str, odd: bool, seed: int) -> None:
    note(str(module))
    made = through_stages(module, scheme, odd, seed)
    record, packed, x = made.record, made.packed, images(8, seed + 2, (3, SIZE, SIZE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        edgeq.export(packed, path, record, made.plan, made.batches)
        found = compare(translate(packed), path, record.activations, [x])
        again = edgeq.load_packed(path.with_suffix(".safetensors"))
        third = in_openvino(path, x) if openvino_takes(module) else None
    assert found.nodes_within_one_step == 1.0
    logits = found.outputs["logits"]
    assert logits.within_eight_steps == logits.optimized_within_eight_steps == 1.0
    assert logits.overflowing == 0.0
    with torch.inference_mode():
        expected = packed(torch.from_numpy(x)).numpy()
    assert third is None or (np.abs(expected - third) <= 8 * logits.step).mean() > 0.98
    assert torch.equal(again(torch.from_numpy(x)), packed(torch.from_numpy(x)))


CLIPS = (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0, 1), nn.Hardtanh(0, 3), nn.Dropout(), nn.Identity())


class Clipped(nn.Module):
    """Chains of clips behind a layer, a pooling, a concatenation, an addition, the image and at the end."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__()
        self.chains = nn.ModuleDict({
            name: nn.Sequential(*(draw(st.sampled_from(CLIPS)) for _ in range(draw(st.integers(0, 3)))))
            for name in ("image", "conv", "pool", "cat", "add", "end")
        })  # fmt: skip
        self.conv, self.next, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = self.chains["conv"](self.conv(self.chains["image"](x)))
        pooled = self.chains["pool"](nn.functional.max_pool2d(first, 2))
        added = self.chains["add"](pooled + self.next(pooled))
        joined = self.chains["cat"](torch.cat([pooled, added], 1))
        y: Tensor = self.chains["end"](self.head(joined.mean((2, 3))))
        return y


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.composite(Clipped)(), st.integers(0, 99))
def test_clips_behind_clips_are_right_in_pytorch_and_in_the_file(module: nn.Module, seed: int) -> None:
    shape = (3, SIZE, SIZE)
    note(str(module))
    network = edgeq.trace(randomized(module, seed), shape)
    batches = [images(12, seed, shape)]
    record = edgeq.calibrate(network, batches, "minmax", seed=seed)
    plan = edgeq.plan(record, edgeq.Recipe("8bit", reduce_range=True))  # which no kernel saturates
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    x = torch.from_numpy(batches[0])
    with torch.inference_mode():
        wanted, found = module(x), packed(x)
    assert float((found - wanted).square().mean()) <= 0.02 * float(wanted.square().mean())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        edgeq.export(packed, path, record, plan, batches)
        same = compare(translate(packed), path, record.activations, [images(8, seed + 1, shape)])
    logits = same.outputs["logits"]
    assert same.nodes_within_one_step == logits.within_eight_steps == logits.optimized_within_eight_steps == 1.0
