"""Reading pixels is the same network: folded by hand, exact to the last level, and in ONNX Runtime from uint8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import SHAPE, float_network, quantized
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from edgeq.artifacts.record import CalibrationRecord
from edgeq.calibration.calibrate import calibrate
from edgeq.commands.pixels import reading_pixels
from edgeq.data.preprocess import IMAGENET, Preprocess, interleaved, planar
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


def pixels(count: int, seed: int = 0) -> NDArray[np.float32]:
    levels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE))
    return (levels / 255).astype(np.float32)


def normalized(images: NDArray[np.float32], preprocess: Preprocess) -> NDArray[np.float32]:
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocess.mean, preprocess.std))
    return (images - mean) / std


def recorded(network: Network, preprocess: Preprocess = WHOLE) -> CalibrationRecord:
    record = calibrate(network, [normalized(pixels(8, 1), preprocess)])
    return replace(record, preprocess=preprocess.to_dict())


def run(network: Network, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return found


class Stem(nn.Module):
    def __init__(self, stem: nn.Conv2d) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        return y


def test_folded_by_hand() -> None:
    conv = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 2.0, 3.0])[None, :, None, None])
        conv.bias = nn.Parameter(torch.tensor([10.0]))
    network = trace(Stem(conv).eval(), SHAPE)
    preprocess = Preprocess(16, 16, (0.5, 0.25, 0.0), (0.5, 0.25, 0.125))
    found, _ = reading_pixels(network, recorded(network, preprocess))
    weight, bias = found.weight_and_bias("stem")
    # 1 / 0.5, 2 / 0.25, 3 / 0.125; and 10 - 2 x 0.5 - 8 x 0.25 - 24 x 0
    assert weight.flatten().tolist() == [2.0, 8.0, 24.0]
    assert bias.tolist() == [7.0]
    assert [node.op for node in found.graph.nodes] == ["conv2d"]


@pytest.mark.parametrize(
    "stem",
    [
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.Conv2d(3, 4, 2, 2),
        nn.Conv2d(3, 4, 7, 4, 3), nn.Conv2d(3, 6, 3, 1, (2, 0), dilation=2), nn.Conv2d(3, 6, (1, 5), 2, (0, 2)),
        nn.Conv2d(3, 6, 3, 1, 1, groups=3), nn.Conv2d(3, 4, 2, 5, 1),
    ],
    ids=str,
)  # fmt: skip
def test_the_same_network_padding_included(stem: nn.Conv2d) -> None:
    network = trace(Stem(stem).eval(), SHAPE)
    found, _ = reading_pixels(network, recorded(network))
    expected = run(network, normalized(pixels(4), WHOLE))
    np.testing.assert_allclose(run(found, pixels(4)), expected, atol=1e-5 * np.abs(expected).max())


BGR = Preprocess(16, 16, (0.4, 0.6, 0.2), (0.2, 0.25, 0.5), channel_order="bgr")


def photos(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(count)
    return [Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("stem", [nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 4, 2, 2)], ids=str)
def test_a_network_of_another_channel_order_reads_rgb(stem: nn.Conv2d) -> None:
    network = trace(Stem(stem).eval(), SHAPE)
    found, record = reading_pixels(network, recorded(network, BGR))
    rgb = np.stack([BGR.to_pixels()(photo) for photo in photos(4)])
    expected = run(network, np.stack([BGR(photo) for photo in photos(4)]))
    np.testing.assert_allclose(run(found, rgb), expected, atol=1e-5 * np.abs(expected).max())
    assert record.preprocess == BGR.to_pixels().to_dict()
    assert record.preprocess["channel_order"] == "rgb"


def test_files_of_another_channel_order_take_rgb(tmp_path: Path) -> None:
    """The uint8 file, given photos as they are, answers like the float file, given what the network was trained on."""
    network = float_network("residual")
    as_float = recorded(network, BGR)
    found, as_pixels = reading_pixels(network, as_float)
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


def test_groups_of_another_channel_order() -> None:
    network = trace(Stem(nn.Conv2d(3, 6, 3, 1, 1, groups=3)).eval(), SHAPE)
    expected = (
        "expected a convolution without groups to read the image, whose channels are bgr, found stem with 3; leave"
    )
    with pytest.raises(UnsupportedError, match=expected):
        reading_pixels(network, recorded(network, BGR))


def test_nothing_is_added_that_the_convolution_does_not_read() -> None:
    network = float_network("residual")  # 3 x 3 with stride 2 on 16 x 16: the last row of its padding is never read
    border = reading_pixels(network, recorded(network))[0].graph.nodes[0]
    assert (border.op, border.shape, border.attrs["pads"]) == ("border", (3, 17, 17), [1, 1, 0, 0])


def test_a_border_between_levels_is_half_a_level_off_at_most() -> None:
    network = trace(Stem(nn.Conv2d(3, 8, 3, 1, 1)).eval(), SHAPE)
    found, _ = reading_pixels(network, recorded(network, IMAGENET))
    assert [round(255 * value, 6) for value in found.graph.nodes[0].attrs["values"]] == [
        124,
        116,
        104,
    ]  # 123.7 116.3 103.5
    off = np.abs(run(found, pixels(4)) - run(network, normalized(pixels(4), IMAGENET)))
    assert off[:, :, 1:-1, 1:-1].max() < 1e-5
    largest = 0.5 / 255 * found.weight_and_bias("stem")[0].abs().sum((1, 2, 3)).numpy()
    assert (off.max(axis=(0, 2, 3)) <= largest + 1e-5).all()
    assert off.max() > 1e-4


def test_only_the_input_and_the_first_layer_change() -> None:
    network = float_network("residual")
    record = recorded(network)
    found, changed = reading_pixels(network, record)
    assert found.graph.nodes[2:] == network.graph.nodes[1:]
    assert changed.layers == record.layers
    different = {name for name, kept in changed.activations.items() if record.activations.get(name) != kept}
    assert different == {INPUT, f"{INPUT}.border"}
    assert changed.activations[INPUT].scale == np.float32(1 / 255)
    assert changed.activations[INPUT].zero_point == 0
    assert changed.preprocess == {**record.preprocess, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


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
    assert manifest["parity"]["optimized_within_eight_steps"] == 1.0
    taken = onnx.load(path).graph.input[0].type.tensor_type
    assert taken.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in taken.shape.dim] == ["batch", 16, 16, 3]


def test_no_padding_no_border(tmp_path: Path) -> None:
    network = trace(Stem(nn.Conv2d(3, 8, 2, 2)).eval(), SHAPE)
    for scheme in ("fp32", "8bit"):
        found, record = reading_pixels(network, recorded(network))
        widths = plan(record, Recipe(scheme, reduce_range=scheme == "8bit"))  # which no kernel saturates
        if scheme == "8bit":
            found = pack(found, quantize(found, record, widths, [pixels(8)]), record, widths)
        model = to_onnx(found, pixels=True)
        assert not {"Expand", "QuantizeLinear"} & {node.op_type for node in model.graph.node[:4]}
        onnx.save(model, tmp_path / "net.onnx")
        got = onnx_runner(tmp_path / "net.onnx")(pixels(3))
        step = record.activations["stem"].scale if scheme == "8bit" else 1e-5
        assert np.abs(got - run(found, pixels(3))).max() <= 1.01 * step


def test_float_files_say_so(tmp_path: Path) -> None:
    found = quantized("residual", "8bit")
    assert export(found.packed, tmp_path / "a.onnx", found.record, found.plan, [pixels(4)])["input"] == "float"


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.one(x) + self.two(x)
        return y


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.max_pool2d(x, 2))
        return y


@pytest.mark.parametrize(
    ("module", "readers"), [(Twice, r"one \(conv2d\), two \(conv2d\)"), (Pooled, r"max_pool2d \(max_pool2d\)")]
)
def test_images_read_otherwise(module: type[nn.Module], readers: str) -> None:
    network = trace(module().eval(), SHAPE)
    expected = f"expected one convolution to read the image, found {readers}; leave out --input uint8"
    with pytest.raises(UnsupportedError, match=expected):
        reading_pixels(network, recorded(network))


def test_interleaved_and_back() -> None:
    images = np.zeros((1, 3, 1, 2), np.float32)
    images[0, :, 0, 0], images[0, :, 0, 1] = (0, 1, 51 / 255), (2 / 255, 3 / 255, 4 / 255)
    assert interleaved(images).tolist() == [[[[0, 255, 51], [2, 3, 4]]]]
    assert interleaved(images).dtype == np.uint8
    np.testing.assert_array_equal(planar(interleaved(pixels(2))), pixels(2))


@pytest.mark.parametrize("preprocess", [IMAGENET, WHOLE])
def test_pixels_of_normalized_images(preprocess: Preprocess) -> None:
    every = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16).repeat(3, 1) / np.float32(255)
    np.testing.assert_array_equal(preprocess.pixels(normalized(every, preprocess)), every)
