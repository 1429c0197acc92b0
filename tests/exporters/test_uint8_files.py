"""Files that take the image in uint8, run by ONNX Runtime, from the record of a network of normalized images on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import SHAPE, float_network, pixels, quantized, randomized
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from edgeq.artifacts.record import CalibrationRecord
from edgeq.calibration.calibrate import calibrate
from edgeq.commands.export import reading_pixels
from edgeq.data.preprocess import IMAGENET, Preprocess
from edgeq.errors import UnsupportedError
from edgeq.exporters.export import export
from edgeq.exporters.onnx.model import to_onnx
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.graph import INPUT
from edgeq.ir.network import Network
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.quantization.quantize import quantize
from edgeq.runtimes.onnxruntime import onnx_runner

WHOLE = Preprocess(16, 16, (102 / 255, 153 / 255, 51 / 255), (0.2, 0.25, 0.5))  # its mean is whole levels of pixels
BGR = Preprocess(16, 16, (0.4, 0.6, 0.2), (0.2, 0.25, 0.5), channel_order="bgr")


def recorded(network: Network, preprocess: Preprocess = WHOLE) -> CalibrationRecord:
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocess.mean, preprocess.std))
    return replace(calibrate(network, [(pixels(8, 1) - mean) / std]), preprocess=preprocess.to_dict())


def run(network: Network, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return found


def photos(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(count)
    return [Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]


def test_only_the_ranges_and_the_preprocessing_of_the_image_change() -> None:
    network = float_network("residual")
    record = recorded(network)
    _, changed = reading_pixels(network, record)
    assert changed.layers == record.layers
    different = {name for name, kept in changed.activations.items() if record.activations.get(name) != kept}
    assert different == {INPUT, f"{INPUT}.border"}
    assert changed.activations[INPUT].scale == np.float32(1 / 255)
    assert changed.activations[INPUT].zero_point == 0
    assert changed.preprocess == {**record.preprocess, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_files_of_another_channel_order_take_rgb(tmp_path: Path) -> None:
    """The uint8 file, given photos as they are, answers like the float file, given what the network was trained on."""
    network = float_network("residual")
    as_float = recorded(network, BGR)
    found, as_pixels = reading_pixels(network, as_float)
    assert as_pixels.preprocess == BGR.to_pixels().to_dict()
    few = np.stack([BGR(photo) for photo in photos(5)])
    export(network, tmp_path / "float.onnx", as_float, plan(as_float, "fp32"), [few])
    rgb = [BGR.pixels(few)]
    export(found, tmp_path / "uint8.onnx", as_pixels, plan(as_pixels, Recipe("fp32", input="uint8")), rgb)
    expected = onnx_runner(tmp_path / "float.onnx")(few)
    session = onnxruntime.InferenceSession(tmp_path / "uint8.onnx", providers=["CPUExecutionProvider"])
    cut = np.stack([np.rint(BGR.to_pixels()(photo).transpose(1, 2, 0) * 255).astype(np.uint8) for photo in photos(5)])
    (logits,) = session.run(None, {"image": cut})
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(onnx_runner(tmp_path / "uint8.onnx", preprocess=BGR)(few), logits)


@pytest.mark.parametrize("name", ["residual", "fire"])
@pytest.mark.parametrize(("scheme", "act_bits"), [("fp32", 8), ("8bit", 8), ("4bit", 8), ("2bit", 8), ("4bit", 32)])
def test_in_onnx_runtime_from_uint8(name: str, scheme: str, act_bits: int, tmp_path: Path) -> None:
    network = float_network(name)
    found, record = reading_pixels(network, recorded(network, IMAGENET))
    widths = plan(record, Recipe(scheme, act_bits, input="uint8"))
    packed = found
    if scheme != "fp32":
        packed = pack(found, quantize(found, record, widths, [pixels(16)]), record, widths)
    path = tmp_path / "net.onnx"
    manifest = export(packed, path, record, widths, [pixels(16), pixels(5, 2)])
    assert manifest["input"] == "uint8"
    assert (manifest["parity"]["nodes_within_one_step"], manifest["parity"]["images"]) == (1.0, 21)
    assert manifest["parity"]["outputs"]["logits"]["optimized_within_eight_steps"] == 1.0
    taken = onnx.load(path).graph.input[0].type.tensor_type
    assert taken.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in taken.shape.dim] == ["batch", 16, 16, 3]


def test_no_padding_no_border(tmp_path: Path) -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 8, 2, 2)).eval(), SHAPE)
    for scheme in ("fp32", "8bit"):
        found, record = reading_pixels(network, recorded(network))
        widths = plan(record, Recipe(scheme, reduce_range=scheme == "8bit"))  # which no kernel saturates
        if scheme == "8bit":
            found = pack(found, quantize(found, record, widths, [pixels(8)]), record, widths)
        model = to_onnx(found, pixels=True)
        assert not {"Expand", "QuantizeLinear"} & {node.op_type for node in model.graph.node[:4]}
        onnx.save(model, tmp_path / "net.onnx")
        got = onnx_runner(tmp_path / "net.onnx")(pixels(3))
        step = record.activations["0"].scale if scheme == "8bit" else 1e-5
        assert np.abs(got - run(found, pixels(3))).max() <= 1.01 * step


def test_float_files_say_so(tmp_path: Path) -> None:
    found = quantized("residual", "8bit")
    assert export(found.packed, tmp_path / "a.onnx", found.record, found.plan, [pixels(4)])["input"] == "float"


class OneChannel(nn.Module):
    """A padded stem with a stride on a gray image, which becomes groups of columns in a file of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 5, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.stem(x).relu()).mean([2, 3])
        return logits


@pytest.mark.parametrize("scheme", ["fp32", "4bit"])
def test_gray_images(scheme: str, tmp_path: Path) -> None:
    """The uint8 file takes `[rows, columns, 1]` and answers as the float file does, quantized up to a few steps."""
    gray = Preprocess(16, 16, (102 / 255,), (0.25,), channel_order="gray")
    network = trace(randomized(OneChannel()), gray.shape)
    few = np.stack([gray(photo) for photo in photos(8)])
    record = replace(calibrate(network, [few]), preprocess=gray.to_dict())
    found, as_pixels = reading_pixels(network, record)
    widths, planes = plan(as_pixels, Recipe(scheme, input="uint8")), gray.pixels(few)
    assert planes.shape == (8, 1, 16, 16)
    if scheme != "fp32":
        found = pack(found, quantize(found, as_pixels, widths, [planes]), as_pixels, widths)
    export(found, tmp_path / "gray.onnx", as_pixels, widths, [planes])
    session = onnxruntime.InferenceSession(tmp_path / "gray.onnx", providers=["CPUExecutionProvider"])
    levels = np.stack([np.rint(gray.to_pixels()(photo) * 255).astype(np.uint8) for photo in photos(8)])
    (logits,) = session.run(None, {"image": levels.transpose(0, 2, 3, 1)})
    expected = run(network, few)
    error = np.square(logits - expected).sum() / np.square(expected).sum()
    assert error < (1e-8 if scheme == "fp32" else 0.03)
    np.testing.assert_array_equal(onnx_runner(tmp_path / "gray.onnx", preprocess=gray)(few), logits)


def test_channels_last_have_no_pixels_to_read() -> None:
    record = replace(recorded(float_network("residual")), preprocess=replace(WHOLE, layout="channels_last").to_dict())
    with pytest.raises(
        UnsupportedError,
        match=r"^expected a network that takes its channels first, found one that takes them last; leave out --input u",
    ):
        reading_pixels(float_network("residual"), record)
