"""The native engine as a runtime: what it opens, what a process that measures it loads, and models of pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from native_engine import compiled, packed, program
from nets import SHAPE, float_network, images

from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.evaluation.memory import empty_model, memory_in_fresh_process
from edgeq.lowering.files import program_of
from edgeq.native.program import read_head
from edgeq.packed.file import save_packed
from edgeq.runtimes.jobs import Job, TensorType, model_file
from edgeq.runtimes.native import NativeModel
from edgeq.runtimes.opening import open_model, prepared

pytestmark = compiled
INPUTS = (TensorType((2, *SHAPE)),)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    save_packed(packed("residual"), tmp_path / "net.safetensors")
    (tmp_path / "programs").mkdir()
    (made,) = prepared([Job("native", str(tmp_path / "net.safetensors"), INPUTS, 1)], tmp_path / "programs")
    return made


def test_the_packed_network_becomes_a_program(job: Job) -> None:
    assert Path(job.file).read_bytes() == program("residual").to_bytes()
    found = open_model(job)([images(2)])
    expected = NativeModel(program("residual"), "net")(images(2))
    np.testing.assert_array_equal(found, [*expected.values()])


def test_other_runtimes_keep_their_files(tmp_path: Path) -> None:
    jobs = [Job("onnxruntime", "net.onnx", INPUTS, 1), Job("torch", "net.safetensors", INPUTS, 1)]
    assert prepared(jobs, tmp_path) == jobs
    assert list(tmp_path.iterdir()) == []


def test_it_takes_the_packed_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"net\.safetensors: the native runtime needs this file beside net\.onnx"):
        model_file("native", tmp_path / "net.onnx")


def test_a_program_is_made_for_as_many_threads_as_are_asked_for(job: Job, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (shared,) = prepared([Job("native", str(tmp_path / "net.safetensors"), INPUTS, 2)], tmp_path / "shared")
    assert read_head(memoryview(Path(shared.file).read_bytes())).threads == 2
    np.testing.assert_array_equal(open_model(shared)([images(3)]), open_model(job)([images(3)]))


def test_a_float_network_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    save_packed(float_network("residual"), tmp_path / "net.safetensors")
    with pytest.raises(UnsupportedError, match=r"net\.safetensors: layer .* the native engine "):
        program_of(tmp_path / "net.safetensors", pixels=False)


def test_the_child_imports_no_other_runtime(job: Job) -> None:
    code = f"""
import sys
from edgeq.evaluation.memory import _measure_memory
from edgeq.runtimes.jobs import Job
_measure_memory(Job("native", {job.file!r}, (((2, 3, 16, 16), "float32"),), 1), None)
print([name for name in ("torch", "onnx", "openvino", "onnxruntime") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_memory_is_that_of_the_program(job: Job) -> None:
    with empty_model("native") as empty:
        found = memory_in_fresh_process(job, empty)
    assert 0 < found.peak_rss_bytes < 2**22  # PyTorch alone takes a hundred times as much


def test_a_model_gives_its_outputs_in_their_shapes_by_name() -> None:
    found = NativeModel(program("residual"), "net")({"image": images(3)})
    assert {name: values.shape for name, values in found.items()} == {"logits": (3, 6)}
    with torch.inference_mode():
        expected = packed("residual")(torch.from_numpy(images(3))).numpy()
    assert np.abs(found["logits"] - expected).max() < 0.2 * np.abs(expected).max()


def test_inputs_of_other_names_or_shapes() -> None:
    model = NativeModel(program("residual"), "net")
    with pytest.raises(DataError, match=r"net: expected the inputs image, found other"):
        model({"other": images(1)})
    with pytest.raises(DataError, match=r"net: expected images \[3, 16, 16\] of input image, found \[16, 16, 3\]"):
        model(images(1).transpose(0, 2, 3, 1))
