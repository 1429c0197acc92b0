"""The command line on networks that are not torchvision's: from a file to a file that takes its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from commandline import Capture, fail, picture, run
from onnx import TensorProto, helper, numpy_helper

from edgeq.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with twelve pictures."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        picture(Path(f"photos/{i}.png"), seed=i)
    return tmp_path


def detector(path: Path) -> Path:
    """Two convolutions, boxes and scores of every place, the largest score of each as int64."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)) / 5, "b": rng.normal(size=8) / 5,
        "v": rng.normal(size=(4, 8, 1, 1)), "s": rng.normal(size=(5, 8, 1, 1)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["/stem/y"], name="/stem/conv", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["/stem/y"], ["/stem/z"], name="/stem/relu"),
        helper.make_node("Conv", ["/stem/z", "v"], ["boxes"], name="/boxes/conv"),
        helper.make_node("Conv", ["/stem/z", "s"], ["scores"], name="/scores/conv"),
        helper.make_node("ArgMax", ["scores"], ["best"], name="/best", axis=1, keepdims=0),
    ]
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 4, 16, 16]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5, 16, 16]),
        helper.make_tensor_value_info("best", TensorProto.INT64, [1, 16, 16]),
    ]
    stored = [numpy_helper.from_array(value.astype("float32"), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "detector", [taken], outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def ends(path: Path) -> list[tuple[str, str, list[int]]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [(one.name, one.type, one.shape) for one in (*session.get_inputs(), *session.get_outputs())]


def test_an_onnx_file_from_end_to_end(folder: Path, capsys: Capture) -> None:
    """The export takes the place of the file, which is the float model that it is measured against."""
    Path("models").mkdir()
    path = detector(folder / "models" / "detector.onnx")
    capsys.readouterr()
    assert main(["calibrate", "models/detector.onnx", "--data", "photos"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("calib/detector.calib: detector, 3 layers, ")
    assert (
        f"{path} does not say how its images were prepared; assumed pixels in 0..1: --resize 32,32 --mean 0.0,0.0,0.0 "
        "--std 1.0,1.0,1.0 --interpolation bilinear --channel-order rgb\n"
    ) in err
    assert re.search(
        r"^detector.onnx in ONNX Runtime and the network that was read from it: (equal|1\d\d dB) at output", err, re.M
    )
    record = json.loads(Path("calib/detector.calib").read_text())
    assert (record["version"], record["network"]["model"], record["network"]["classes"]) == (8, str(path), None)
    run(capsys, "plan", "--record", "calib/detector.calib", "--scheme", "4bit")
    made = Path("exports/detector-8bit.onnx")
    recipe = "--scheme", "8bit", "--reduce-range", "--output", str(made)
    run(capsys, "export", "--record", "calib/detector.calib", *recipe)
    assert ends(made) == ends(path)
    manifest = json.loads(made.with_suffix(".json").read_text())
    assert manifest["drop_in"] == {
        "inputs": [{"name": "images", "type": "float32", "dims": [1, 3, 32, 32]}],
        "outputs": [
            {"name": "boxes", "type": "float32", "dims": [1, 4, 16, 16]},
            {"name": "scores", "type": "float32", "dims": [1, 5, 16, 16]},
            {"name": "best", "type": "int64", "dims": [1, 16, 16]},
        ],
        "fixed": None,
    }
    report = json.loads(run(capsys, "evaluate", str(made), "--data", "photos", "--json"))
    (model,) = report["models"]
    assert (report["task"], report["metric"], model["outputs"].keys()) == (
        "regression", "sqnr_db", {"boxes", "scores", "best"},
    )  # fmt: skip
    assert model["outputs"]["boxes"]["sqnr_db"] > 25
    rows = json.loads(run(capsys, "bench", "--runs", "2", "--json"))["rows"]
    assert [(row["name"], row["scheme"]) for row in rows] == [("detector-8bit", "8bit"), ("detector", "fp32")]
    message = fail(capsys, "export", "--record", "calib/detector.calib", "--scheme", "8bit", "--input", "uint8")
    assert message == f"error: {path}: its export takes what it takes itself, found --input uint8; leave that out\n"
    path.write_bytes(path.read_bytes() + b"\0")
    capsys.readouterr()
    assert main(["bench", "--runs", "2"]) == 0
    changed = f"warning: no fp32 baseline, so no ratios to it: {path} has changed or is not there"
    assert changed in capsys.readouterr().err


def test_a_function_from_end_to_end(folder: Path, capsys: Capture) -> None:
    Path("own_network.py").write_text(
        "import torch\nfrom torch import nn\n\ndef small():\n    torch.manual_seed(0)\n    return nn.Sequential("
        "nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n"
    )
    arguments = ("--input-shape", "1x3x24x24", "--task", "regression", "--data", "photos")
    out = run(capsys, "calibrate", "own_network:small", *arguments)
    assert out.startswith("calib/small.calib: small, 2 layers, ")
    network = json.loads(Path("calib/small.calib").read_text())["network"]
    assert (network["input_shapes"], network["tasks"], network["weights"]) == ([3, 24, 24], "regression", "own")
    run(capsys, "export", "--record", "calib/small.calib", "--scheme", "8bit")
    manifest = json.loads(Path("exports/small-8bit.json").read_text())
    assert (manifest["drop_in"], manifest["network"]) == (None, network)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx", "--model", "b.onnx"], "expected one model, found a.onnx and --model b.onnx; leave one out"),
        (["a.onnx"], "a.onnx weights need images of their own, found none; name a folder with --data DIR"),
        (["a.onnx", "--data", "photos", "--samples", "12"], "PLACE/a.onnx: no such file"),
        (["a:b", "--data", "photos", "--input-shape", "2x3x8x8"], "--input-shape 2x3x8x8: expected sizes above 0 with "
         "x between them, a batch of 1 or n first, such as 1x3x320x320"),
        (["a:b", "--data", "photos", "--input-shape", "1x3x0"], "--input-shape 1x3x0: expected sizes above 0 with x "
         "between them, a batch of 1 or n first, such as 1x3x320x320"),
        (["a:b", "--data", "photos", "--input-shape", "1x3", "--input-shape", "x=1x4"], "expected one --input-shape, "
         "or several with different names, as in NAME=..., found others"),
        (["--task", "detection"], "unknown task 'detection'; expected one of classification, regression"),
    ],
)  # fmt: skip
def test_models_and_shapes_that_do_not_fit(arguments: list[str], message: str, folder: Path, capsys: Capture) -> None:
    expected = message.replace("PLACE", str(folder))
    assert fail(capsys, "calibrate", *arguments) == f"error: {expected}\n"
