"""Runtimes: real sessions of a tiny model, the one line of every error, and what the measuring child loads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.evaluation.memory import _peak_reader, empty_model, memory_in_fresh_process
from edgeq.runtimes.jobs import Job, Runtime, TensorType, model_file, random_inputs
from edgeq.runtimes.opening import open_model

SHAPE = (2, 3, 4, 4)
INPUTS = (TensorType(SHAPE),)


def save_model(path: Path, operator: str = "Conv") -> Path:
    """Save a 4x4 convolution from 3 to 2 channels, under another name if one is given."""
    weight = np.ones((2, 3, 4, 4), np.float32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["out"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 2, 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_that_the_runtime_refuses(tmp_path: Path, runtime: Runtime) -> None:
    pytest.importorskip(runtime)
    path = save_model(tmp_path / "odd.onnx", operator="NoSuchOperator")
    expected = rf"odd\.onnx: {runtime} cannot run it on a float32 input \[2, 3, 4, 4\]"
    with pytest.raises(ArtifactError, match=expected) as caught:
        open_model(Job(runtime, str(path), INPUTS, 1))
    assert "\n" not in str(caught.value)


def test_openvino_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnsupportedError, match=r"pip install edgeq\[openvino\]"):
        open_model(Job("openvino", str(save_model(tmp_path / "net.onnx")), INPUTS, 1))


def test_only_torch_takes_the_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert model_file("onnxruntime", path) == model_file("openvino", path) == path
    with pytest.raises(ArtifactError, match=r"net\.safetensors: the torch runtime needs this file beside net\.onnx"):
        model_file("torch", path)
    path.with_suffix(".safetensors").touch()
    assert model_file("torch", path) == tmp_path / "net.safetensors"


def test_equal_shapes_get_the_same_normal_input() -> None:
    job = Job("onnxruntime", "net.onnx", (TensorType((4, 3, 64, 64)), TensorType((9,), "uint8")), 1)
    (x, pixels), again = random_inputs(job), random_inputs(job)
    np.testing.assert_array_equal(x, again[0])
    assert pixels.shape == (9,)
    assert pixels.dtype == np.uint8
    assert x.dtype == np.float32
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02


def test_the_child_imports_only_its_runtime(tmp_path: Path) -> None:
    job = f"Job('onnxruntime', {str(save_model(tmp_path / 'net.onnx'))!r}, (({SHAPE}, 'float32'),), 1)"
    with empty_model("onnxruntime") as empty:
        code = f"""
import sys
from edgeq.evaluation.memory import _measure_memory
from edgeq.runtimes.jobs import Job
_measure_memory({job}, {empty!r})
print([name for name in ("torch", "onnx", "openvino", "onnxruntime") if name in sys.modules])
"""
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['onnxruntime']"


def test_a_child_that_fails_is_one_line(tmp_path: Path) -> None:
    job = Job("onnxruntime", str(tmp_path / "gone.onnx"), INPUTS, 1)
    with empty_model("onnxruntime") as empty, pytest.raises(ArtifactError) as caught:
        memory_in_fresh_process(job, empty)
    assert str(caught.value).startswith(f"{job.file}: cannot measure the memory it takes in onnxruntime: ")
    assert "\n" not in str(caught.value)


def test_the_peak_is_read_without_a_reset_where_there_is_no_clear_refs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    read_peak, method = _peak_reader()
    assert method == "ru_maxrss of the whole process"
    assert read_peak() > 2**20
