"""Detectors of torchvision with their non-maximum suppression: an ONNX file keeps it, a trace points to the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import images, randomized
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

import edgeq
from edgeq.errors import UnsupportedError

SIDE = 64
ANCHORS = ((16,),), ((1.0,),)


class Ready(nn.Module):
    """In place of a detector's own transform: images have one size."""

    def forward(self, batch: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        return ImageList(batch, [(SIDE, SIDE)]), targets

    def postprocess(self, found: Any, *sizes: Any) -> Any:
        return found


class OfOneImage(nn.Module):
    """A detector as it is exported."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector, detector.transform = detector, Ready()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.detector(image)[0]
        return found


def maps(channels: Any) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
    body.out_channels = channels
    return body


DETECTORS: dict[str, tuple[Callable[[], nn.Module], Sequence[str]]] = {
    "one stage": (lambda: SSD(maps([32]), DefaultBoxGenerator([[2]]), (SIDE, SIDE), 10), ()),
    "one stage, many levels of scores": (
        lambda: RetinaNet(maps(32), 10, anchor_generator=AnchorGenerator(*ANCHORS)), (),
    ),
    "two stages": (
        lambda: FasterRCNN(maps(32), 10, rpn_anchor_generator=AnchorGenerator(*ANCHORS)),
        ["box_head/fc6", "box_head/fc7", "box_predictor/cls_score", "box_predictor/bbox_pred"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_found_in_an_image_stays_in_the_file(tmp_path: Path, name: str) -> None:
    make, in_float = DETECTORS[name]
    torch.manual_seed(0)
    detector, path = OfOneImage(randomized(make())).eval(), tmp_path / "detector.onnx"
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(detector, (torch.zeros(1, 3, SIDE, SIDE),), str(path), dynamo=False, input_names=["image"])
    source = edgeq.load(str(path))
    assert "NonMaxSuppression" not in str(source.network.graph)
    behind = [note for note in source.notes if "stay in float" in note]
    assert len(behind) == bool(in_float)
    assert all(layer in behind[0] for layer in in_float)
    batches = [images(8, 0, (3, SIDE, SIDE))]
    record = edgeq.calibrate(source.network, batches)
    plan = edgeq.plan(record, edgeq.Recipe("8bit", reduce_range=True))
    layers = edgeq.quantize(source.network, record, plan, batches)
    packed = edgeq.pack(source.network, layers, record, plan)
    place = edgeq.place_of(source, lambda other: edgeq.pack(other, layers, record, plan))
    made = tmp_path / "quantized.onnx"
    edgeq.export(packed, made, record, plan, batches, place=place)
    before, after = (outputs(file, batches[0][:1]) for file in (path, made))
    assert before.keys() == after.keys()
    assert all(array.dtype == after[name].dtype and array.ndim == after[name].ndim for name, array in before.items())
    assert "NonMaxSuppression" in operators(made)


def outputs(path: Path, image: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": image}), strict=True))


def operators(path: Path) -> set[str]:
    """Of a file, also within its branches."""

    def of(graph: onnx.GraphProto) -> set[str]:
        inner = (a.g for node in graph.node for a in node.attribute if a.HasField("g"))
        return {node.op_type for node in graph.node}.union(*map(of, inner))

    return of(onnx.load(path).graph)


def test_a_trace_points_to_the_file() -> None:
    with pytest.raises(
        UnsupportedError, match=r"depends on the values in an image; .* torch.onnx.export\(\.\.\., dynamo"
    ):
        edgeq.trace(DETECTORS["one stage"][0]().eval(), (3, SIDE, SIDE))
