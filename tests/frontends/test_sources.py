"""Every way in by one rule on a text, and what a record needs to load the same again."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import images
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, EdgeqError, UnsupportedError, WeightsError
from edgeq.frontends import timm as of_timm
from edgeq.frontends.sources import Source, load

SHAPE = (3, 16, 16)
CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.facts = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

    def forward(self, picture, vector):
        return self.image(picture).mean((2, 3)) + self.facts(vector)

def fails():
    raise ValueError("no\\nway")

def number():
    return 3

constant = 3
"""


def prepared(name: str, size: str = "16,16") -> str:
    """The note about a network that does not say how its images were prepared."""
    return (
        f"{name} does not say how its images were prepared; assumed pixels in 0..1: --resize {size} --mean 0.0,0.0,0.0 "
        "--std 1.0,1.0,1.0 --interpolation bilinear --channel-order rgb"
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module in the current folder, another one for each test."""
    name = f"mine_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


def again(source: Source) -> Source:
    """Load what a record would say of a source, and check that it says it once more."""
    body = json.loads(json.dumps(source.to_dict()))
    found = Source.from_dict(body)
    assert found.to_dict() == source.to_dict()
    assert found.notes == ()
    return found


def close(source: Source, module: nn.Module, shape: tuple[int, ...] = SHAPE) -> None:
    x = torch.from_numpy(images(3, 1, shape))
    with torch.inference_mode():
        torch.testing.assert_close(source.network(x), module(x), rtol=1e-4, atol=1e-5)


# --- a function of the user's ---------------------------------------------------------------------------------------


def test_a_function(place: str) -> None:
    model = f"{place}:build"
    source = load(model, input_shapes=SHAPE)
    assert (source.model, source.weights, source.classes, source.input_shapes) == (model, "own", 3, SHAPE)
    assert source.preprocess == Preprocess((16, 16), (16, 16), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert source.assumed == (prepared(model),)
    assert str(Path.cwd()) not in sys.path
    close(source, sys.modules[place].build())
    again(source)


def test_a_function_with_weights_of_a_file(place: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    source = load(f"{place}:build", input_shapes=SHAPE)
    module = sys.modules[place].build()
    state = {name: value / 2 for name, value in module.state_dict().items()}
    save_file(state, path)
    module.load_state_dict(state)
    halved = load(f"{place}:build", str(path), input_shapes=SHAPE)
    assert halved.weights == str(path)
    assert halved.sha256 != source.sha256
    close(halved, module)
    again(halved)
    save_file(state | {"4.weight": torch.ones(2, 4), "4.bias": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match=r"not weights of .*:build: 4.weight is \[2, 4\], expected \[3, 4\]$"):
        load(f"{place}:build", str(path), input_shapes=SHAPE)


def test_several_inputs_by_name(place: str) -> None:
    shapes = {"picture": SHAPE, "vector": (5,)}
    source = load(f"{place}:Two", input_shapes=shapes)
    assert [(one.name, one.shape) for one in source.network.graph.inputs] == [*shapes.items()]
    assert (source.preprocess, source.notes) == (None, ())
    assert again(source).preprocess is None
    with pytest.raises(UnsupportedError, match="expected a preprocessing that makes what it takes, several inputs"):
        load(f"{place}:Two", preprocess={"mean": (0.5, 0.5, 0.5)}, input_shapes=shapes)


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        ("build", {"input_shapes": None}, "{}: expected the shape of its input, which no module says; add "
         "--input-shape 1x3xROWSxCOLUMNS (input_shapes in Python)"),
        ("fails", {}, "{}: the function raised ValueError: no way (PLACE.py, line "),
        ("number", {}, "{}: expected a function that returns an nn.Module, found int"),
        ("constant", {}, "{}: expected a function constant in PLACE, found none"),
        ("build", {"weights": "imagenet"}, "{}: expected a file for --weights, or none, found imagenet"),
        ("build", {"weights_key": "ema"}, "expected a file for the weights key 'ema', found the network's own"),
        ("build", {"transform_input": True}, "expected a network of torchvision for transform_input, found {}"),
        ("build", {"preprocess": {"crop": 8}}, "{}: expected a preprocessing that makes what it takes, 3 x 16 x 16, "
         "found resize 16,16, crop 8, mean 0.0,0.0,0.0, std 1.0,1.0,1.0, interpolation bilinear, channel order rgb"),
    ],
)  # fmt: skip
def test_functions_that_do_not_fit(function: str, options: dict[str, Any], expected: str, place: str) -> None:
    model = f"{place}:{function}"
    with pytest.raises(UnsupportedError) as error:
        load(model, **{"input_shapes": SHAPE, **options})
    assert str(error.value).startswith(expected.replace("{}", model).replace("PLACE", place))


def test_a_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedError) as error:
        load("nowhere_at_all:build", input_shapes=SHAPE)
    assert str(error.value).startswith(
        "nowhere_at_all:build: cannot import nowhere_at_all: ModuleNotFoundError: No module named 'nowhere_at_all'"
    )


# --- ONNX files -----------------------------------------------------------------------------------------------------


def onnx_file(path: Path, kind: int = TensorProto.FLOAT, size: int | str = 8, seed: int = 0) -> Path:
    """A convolution and a mean over its map."""
    torch.manual_seed(seed)
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 3, 3), torch.randn(108).tolist())
    nodes = [helper.make_node("Conv", ["x" if kind == TensorProto.FLOAT else "f", "w"], ["y"], name="conv")]
    if kind != TensorProto.FLOAT:
        nodes.insert(0, helper.make_node("Cast", ["pixels"], ["f"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("GlobalAveragePool", ["y"], ["z"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["z"], ["scores"], name="flat"))
    taken = helper.make_tensor_value_info("x" if kind == TensorProto.FLOAT else "pixels", kind, ["n", 3, size, size])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [taken], [made], [weight]), opset_imports=[helper.make_opsetid("", 13)]
    )
    onnx.save(model, path)
    return path


def test_an_onnx_file(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx")
    source = load(str(path))
    assert (source.model, source.weights, source.reference) == (str(path), str(path), path)
    assert source.network.graph.image.name == "x"
    assert source.network.graph.outputs[0].name == "scores"
    assert source.ends is not None
    assert source.classes == 4
    assert source.assumed[-1] == prepared(str(path), "8,8")
    again(source)
    onnx_file(path, seed=1)
    with pytest.raises(ArtifactError, match=r"net.onnx: the weights have changed since calibration \(sha256"):
        Source.from_dict(source.to_dict())


def test_an_onnx_file_of_pixels_gets_pixels(tmp_path: Path) -> None:
    """Whether it takes bytes is known, so nothing is assumed about the range."""
    source = load(str(onnx_file(tmp_path / "net.onnx", TensorProto.UINT8)))
    assert source.preprocess is not None
    assert source.preprocess.std == (1 / 255, 1 / 255, 1 / 255)
    assert "--std" not in source.assumed[-1]


def test_open_sizes_of_an_onnx_file(tmp_path: Path) -> None:
    path = str(onnx_file(tmp_path / "net.onnx", size="s"))
    with pytest.raises(UnsupportedError, match=r"net.onnx: input x is .*--input-shape"):
        load(path)
    assert load(path, input_shapes=(3, 12, 20)).network.graph.image.shape == (3, 12, 20)
    source = load(path, input_shapes={"x": (3, 12, 20)}, tasks={"scores": "regression"})
    assert (source.classes, source.network.graph.outputs[0].task) == (None, "regression")
    assert again(source).input_shapes == {"x": (3, 12, 20)}


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_a_file_has_its_weights_inside(name: str) -> None:
    for options, expected in (
        ({"weights": "imagenet"}, f"{name} has its weights inside, found --weights imagenet beside it; leave that out"),
        ({"weights_key": "ema"}, f"expected a file of weights for the weights key 'ema', found {name}"),
        ({"transform_input": True}, f"expected a network of torchvision for transform_input, found {name}"),
    ):
        with pytest.raises(UnsupportedError) as error:
            load(name, **options)
        assert str(error.value) == expected


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("net.onnx", "net.pt2"):
        with pytest.raises(EdgeqError) as error:
            load(str(tmp_path / name))
        assert str(error.value) == f"{tmp_path / name}: no such file"


# --- timm -----------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).mean((2, 3)))
        return logits


CONFIG = {
    "input_size": (3, 24, 24), "crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic",
    "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
}  # fmt: skip


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In place of timm, with one network whose data config the test may change."""
    config = dict(CONFIG)

    def create_model(name: str, pretrained: bool, num_classes: int = 5) -> nn.Module:
        if pretrained:
            raise OSError("no network\nhere")
        if name.endswith(".bad"):
            raise RuntimeError("Invalid pretrained tag (bad) for small.")
        return Small(num_classes)

    library: Any = types.ModuleType("timm")
    library.create_model, library.is_model = create_model, lambda name: name.split(".")[0] == "small"
    library.list_models = lambda pattern="*": ["small"] * (pattern == "*")
    library.data = types.SimpleNamespace(resolve_model_data_config=lambda module, verbose: config)
    monkeypatch.setitem(sys.modules, "timm", library)
    return config


def test_timm(fake_timm: dict[str, Any], tmp_path: Path) -> None:
    module, path = Small(7), tmp_path / "w.safetensors"
    save_file(module.state_dict(), path)
    source = load("timm:small.tag", str(path))
    assert (source.model, source.classes) == ("timm:small.tag", 7)
    assert source.preprocess == Preprocess(26, (24, 24), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    assert source.assumed == (
        f"{path} does not say how its images were prepared; assumed as for the weights of timm:small.tag: --resize 26 "
        "--crop 24,24 --mean 0.1,0.2,0.3 --std 0.4,0.5,0.6 --interpolation bicubic --channel-order rgb",
    )
    close(source, module, (3, 24, 24))
    again(source)
    fake_timm["crop_mode"] = "squash"
    assert load("timm:small", str(path)).preprocess == Preprocess((26, 26), (24, 24), *source_ends(source), "bicubic")


def source_ends(source: Source) -> tuple[Any, Any]:
    assert source.preprocess is not None
    return source.preprocess.mean, source.preprocess.std


@pytest.mark.parametrize(
    ("model", "weights", "config", "expected"),
    [
        ("timm:small", None, {}, "timm:small has no embedded weights; add --weights imagenet or a file"),
        ("timm:small", "imagenet", {}, "cannot download the weights of timm:small (no network here); connect to the "
         "network, or pass a file with --weights FILE"),
        ("timm:other", "imagenet", {}, "unknown model 'timm:other'; timm has no other, but small and others"),
        ("timm:small.bad", "w.safetensors", {},
         "unknown model timm:small.bad: Invalid pretrained tag (bad) for small."),
        ("timm:small", "w.safetensors", {"crop_mode": "border"},
         "timm:small: expected images of 3 channels whose centre is cropped, found 3 channels and crop mode border; "
         "pass a Preprocess to edgeq.load"),
    ],
)  # fmt: skip
def test_networks_of_timm_that_do_not_fit(
    model: str, weights: str | None, config: dict[str, Any], expected: str, fake_timm: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save_file(Small(5).state_dict(), "w.safetensors")
    fake_timm |= config
    with pytest.raises(EdgeqError) as error:
        load(model, weights)
    assert str(error.value) == expected


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnsupportedError, match=r"^networks of timm need timm, .*; pip install 'edgeq\[timm\]'$"):
        load("timm:resnet18", "imagenet")


def test_preprocessing_is_that_of_timm_itself() -> None:
    timm = pytest.importorskip("timm")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 402, 3), dtype=np.uint8))
    for name in ("mobilenetv3_small_050.lamb_in1k", "mobilenetv4_conv_small.e2400_r224_in1k"):
        module = timm.create_model(name)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module))
        np.testing.assert_array_equal(of_timm._preprocess(timm, name, module)(image), transform(image).numpy())
