"""A detector of two inputs and three outputs through all stages, to its files and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import Detector, images, randomized, worked
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeq
from edgeq.errors import DataError
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import compare
from edgeq.ir.network import Network
from edgeq.system.environment import int8_overflows

OUTPUTS = ("boxes", "scores", "joined")
SHAPES = {"boxes": [4, 64], "scores": [7, 64], "joined": [11, 64]}

Batch = dict[str, NDArray[np.float32]]


def batch(count: int, seed: int) -> Batch:
    about = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    return {"about": about, "image": images(count, seed)}  # by name, in any order


BATCHES = [batch(8, 1), batch(7, 2)]


@dataclass(frozen=True)
class Made:
    """A detector after all stages before export."""

    module: nn.Module
    network: Network
    record: edgeq.CalibrationRecord
    plan: edgeq.PrecisionPlan
    packed: Network


@cache
def detector(scheme: str) -> Made:
    module = randomized(Detector())
    network = edgeq.trace(module, Detector.shapes)
    record = edgeq.calibrate(network, BATCHES)
    recipe = edgeq.Recipe(scheme, reduce_range=int8_overflows())
    # Two views of the images and a few steps of training: what effort balanced does, in less time.
    plan = worked(edgeq.plan(record, recipe), views=2, steps=0 if scheme == "8bit" else 20)
    layers = edgeq.tune(network, record, plan, edgeq.quantize(network, record, plan, BATCHES), BATCHES)
    return Made(module, network, record, plan, edgeq.pack(network, layers, record, plan))


def tensors(given: Batch) -> list[Tensor]:
    return [torch.from_numpy(given[name]) for name in Detector.shapes]


def sqnr(found: Any, wanted: Any) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()))


def test_the_record_knows_outputs_by_what_they_hold() -> None:
    """Boxes of hundreds of pixels and scores of 0..1 are each measured by themselves, channel by channel."""
    made = detector("8bit")
    outputs = {output.name: output for output in made.record.outputs}
    assert tuple(outputs) == OUTPUTS
    with torch.no_grad():
        parts = [made.module(**{name: torch.from_numpy(x) for name, x in given.items()}) for given in BATCHES]
    for name, output in outputs.items():
        values = torch.cat([part[name] for part in parts]).double()
        assert (list(output.shape), output.task) == (SHAPES[name], "regression")
        assert (output.low, output.high) == pytest.approx((float(values.min()), float(values.max())), rel=1e-5)
        assert output.units == pytest.approx(values.std((0, 2), correction=0).tolist(), rel=1e-4)
    assert outputs["joined"].units == pytest.approx(outputs["boxes"].units + outputs["scores"].units)
    assert all(0 < layer.sensitivity[8] < layer.sensitivity[4] < layer.sensitivity[2] for layer in made.record.layers)
    # Of the layers that make them alone: they are decoded in float.
    inside = {"stem", "about:2", "about.reshape", "relu", "boxes", "scores"}
    assert {*made.record.activations} == {"image", "about"} | inside


@pytest.mark.parametrize(("scheme", "least"), [("8bit", 30), ("4bit", 14)])
def test_every_output_is_close_to_the_float_network_in_the_file(scheme: str, least: float, tmp_path: Path) -> None:
    made, path = detector(scheme), tmp_path / "net.onnx"
    edgeq.export(made.packed, path, made.record, made.plan, BATCHES)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == list(Detector.shapes)
    assert [one.name for one in session.get_outputs()] == [*OUTPUTS]
    given = BATCHES[0]  # of others, such a small network makes values far beyond the ranges
    with torch.no_grad():
        wanted = made.module(*tensors(given))
    for name, found in zip(OUTPUTS, session.run(list(OUTPUTS), given), strict=True):
        assert sqnr(found, wanted[name].numpy()) > least, name
    # In the joined output, scores are as good as by themselves: they share no scale with boxes.
    (joined,) = session.run(["joined"], given)
    assert sqnr(joined[:, 4:], wanted["scores"].numpy()) > least


@pytest.mark.parametrize("scheme", ["8bit", "4bit"])
def test_the_file_computes_what_pytorch_does(scheme: str, tmp_path: Path) -> None:
    made, path = detector(scheme), tmp_path / "net.onnx"
    manifest = edgeq.export(made.packed, path, made.record, made.plan, BATCHES)
    found = compare(translate(made.packed), path, made.record.activations, [batch(8, 4)])
    assert (found.images, found.nodes_within_one_step) == (8, 1.0)
    assert tuple(found.outputs) == tuple(manifest["parity"]["outputs"]) == OUTPUTS
    for output in found.outputs.values():
        assert output.within_eight_steps == output.optimized_within_eight_steps == 1.0
        assert (output.top1, output.optimized_top1, output.overflowing) == (None, None, 0.0)
    again = edgeq.load_packed(path.with_suffix(".safetensors"))
    assert again.graph == made.packed.graph
    with torch.inference_mode():
        for ours, theirs in zip(again(*tensors(batch(4, 5))), made.packed(*tensors(batch(4, 5))), strict=True):
            assert torch.equal(ours, theirs)


def test_the_manifest_names_inputs_outputs_and_what_is_float(tmp_path: Path) -> None:
    made, path = detector("8bit"), tmp_path / "net.onnx"
    edgeq.export(made.packed, path, made.record, made.plan, BATCHES)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["inputs"] == [{"name": name, "shape": list(shape)} for name, shape in Detector.shapes.items()]
    assert [(one["name"], one["shape"], one["task"]) for one in manifest["outputs"]] == [
        (name, SHAPES[name], "regression") for name in OUTPUTS
    ]
    assert manifest["outputs"][0]["range"] == [made.record.outputs[0].low, made.record.outputs[0].high]
    behind = [name for name, why in manifest["in_float"].items() if why.startswith("computes an output from those of")]
    ops = {node.name: node.op for node in made.packed.graph.nodes}
    assert [ops[name] for name in behind] == ["sigmoid"]  # the factor is folded, the rest is only moved
    model = onnx.load(path)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    assert made_by["joined"] == "Concat"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(2), "expected batches with the inputs image, about by name, found one array"),
        ({"image": images(2)}, "expected batches with the inputs image, about, found image"),
        (
            batch(2, 1) | {"about": batch(3, 1)["about"]},
            "expected as many images in each input of a batch, found",
        ),
        (
            batch(2, 1) | {"about": np.zeros((2, 6), np.float32)},
            r"expected batches of the input about \[5\], found \[6\]",
        ),
    ],
    ids=["one array", "one input", "other counts", "another shape"],
)
def test_batches_that_do_not_fit_are_one_line_at_every_stage(given: Any, message: str, tmp_path: Path) -> None:
    made = detector("8bit")
    network, record, plan = made.network, made.record, made.plan
    with pytest.raises(DataError, match=f"^{message}"):
        edgeq.calibrate(network, [given])
    with pytest.raises(DataError, match=f"^{message}"):
        edgeq.quantize(network, record, plan, [given])
    with pytest.raises(DataError, match=f"^{message}"):
        edgeq.export(made.packed, tmp_path / "net.onnx", record, plan, [given])
    assert not list(tmp_path.iterdir())
