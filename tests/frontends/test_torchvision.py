from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from nets import images, randomized
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from edgeq.data.preprocess import IMAGENET, Preprocess
from edgeq.errors import ArtifactError, UnsupportedError, WeightsError
from edgeq.frontends import presets
from edgeq.frontends.loaded import digest
from edgeq.frontends.sources import Source, load
from edgeq.frontends.torch_export.trace import trace

SMALL = "squeezenet1_1"
SMALLEST = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def small(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = models.get_model(SMALL, weights=None, num_classes=classes)
    return module.eval()


def file_of(path: Path, **changed: Tensor | None) -> Path:
    """Weights of `small` in a file, some changed or, where None, left out."""
    state = {**small().state_dict(), **{name.replace("__", "."): value for name, value in changed.items()}}
    save_file({name: value for name, value in state.items() if value is not None}, path)
    return path


LAYERS = {
    "mobilenet_v2": 53, "squeezenet1_1": 26, "resnet18": 21, "mobilenet_v3_small": 54, "resnext50_32x4d": 54,
    "efficientnet_b0": 82, "mnasnet1_0": 53, "regnet_y_400mf": 86, "shufflenet_v2_x0_5": 57, "convnext_tiny": 59,
    "densenet121": 120 + 1 + 62,  # batch norms behind concatenations are layers, too
    "googlenet": 58 + 3,  # and what normalizes each channel of the image
}  # fmt: skip


@pytest.mark.parametrize(("name", "layers"), LAYERS.items())
def test_torchvision_networks_are_traced_exactly(name: str, layers: int) -> None:
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    module = randomized(models.get_model(name, weights=None, num_classes=10, **options))
    shape = (3, 64, 64)
    network = trace(module, shape)
    x = torch.from_numpy(images(2, 1, shape))
    with torch.inference_mode():
        expected, found = module(x), network(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert len(network.graph.layers) == layers
    assert {node.op for node in network.graph.layers} == {"conv2d"}
    assert network.graph.nodes[-1].op == "flatten"


def test_weights_of_a_network_that_asks_for_a_version(tmp_path: Path) -> None:
    """MNASNets have a stem of another width in old files, which those of `torch.save` alone would tell."""
    save_file(models.get_model("mnasnet0_5", weights=None, num_classes=3).state_dict(), tmp_path / "m.safetensors")
    assert load("mnasnet0_5", str(tmp_path / "m.safetensors")).classes == 3


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_from_a_file(suffix: str, tmp_path: Path) -> None:
    module, path = small(), tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(module.state_dict(), path)
    else:
        save_file(module.state_dict(), path)
    source = load(SMALL, str(path))
    assert (source.model, source.weights, source.classes) == (SMALL, str(path), 4)
    assert source.sha256 == digest(module.state_dict())
    x = torch.from_numpy(images(1, 1, source.network.graph.image.shape))
    with torch.inference_mode():
        torch.testing.assert_close(source.network(x), module(x), rtol=1e-4, atol=1e-5)


def test_preprocessing_of_a_file(tmp_path: Path) -> None:
    """That of torchvision's weights of the architecture, or the caller's, whose crop is what the network takes."""
    path = str(file_of(tmp_path / "w.safetensors"))
    assert load(SMALL, path).preprocess == IMAGENET
    own = Preprocess(96, (64, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "bgr")
    source = load(SMALL, path, preprocess=own)
    assert (source.preprocess, source.network.graph.image.shape) == (own, (3, 64, 96))
    again = Source.from_dict(json.loads(json.dumps(source.to_dict())))
    assert (again.preprocess, again.network.graph.image.shape) == (own, (3, 64, 96))


def test_preprocessing_of_weights_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights like theirs in place of the download; MNASNet's of this width see more of the image than most."""
    name = "mnasnet0_75"
    path = tmp_path / "hub/checkpoints" / models.MNASNet0_75_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(models.get_model(name, weights=None).state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = load(name, "imagenet")
    assert source.preprocess is not None
    assert (source.preprocess.resize, source.preprocess.crop, source.classes) == (232, 224, 1000)


def test_what_was_taken_of_a_checkpoint_is_noted_and_found_again(tmp_path: Path) -> None:
    other = {name: value / 2 for name, value in small().state_dict().items()}
    content = {"model": small().state_dict(), "model_ema": {f"module.{k}": v for k, v in other.items()}, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    source = load(SMALL, str(tmp_path / "w.pth"), IMAGENET)
    assert source.notes == (f"{tmp_path / 'w.pth'}: took model, not model_ema (--weights-key chooses)",)
    assert source.sha256 == digest(small().state_dict())
    chosen = load(SMALL, str(tmp_path / "w.pth"), IMAGENET, weights_key="model_ema")
    assert (chosen.sha256, chosen.to_dict()["weights_key"]) == (digest(other), "model_ema")
    torch.save({"best": content, "ema_2": other}, tmp_path / "w.pth")
    again = Source.from_dict(chosen.to_dict() | {"weights_key": "best.model_ema"})
    assert again.to_dict() == chosen.to_dict() | {"weights_key": "best.model_ema"}


def test_names_in_a_file_stay_on_one_line_of_a_note(tmp_path: Path) -> None:
    save_file({**small().state_dict(), "a\n\x1b[31mb": torch.ones(1)}, tmp_path / "w.safetensors")
    (note,) = load(SMALL, str(tmp_path / "w.safetensors"), IMAGENET).notes
    assert note.endswith(f"left out what is not of {SMALL}: a  [31mb")


def test_a_key_is_for_files() -> None:
    with pytest.raises(UnsupportedError, match=r"^expected a file for the weights key 'ema', found embedded weights$"):
        load(weights_key="ema")


# --- what no state dict says ----------------------------------------------------------------------------------------


def googlenet(transform_input: bool, aux_logits: bool = True) -> nn.Module:
    options = {"transform_input": transform_input, "aux_logits": aux_logits, "init_weights": False}
    module: nn.Module = randomized(models.get_model("googlenet", weights=None, num_classes=10, **options))
    return module


@pytest.mark.parametrize("transform_input", [True, False])
def test_the_switch_of_a_googlenet_is_asked_for(transform_input: bool, tmp_path: Path) -> None:
    """It is in no state dict, and the auxiliary heads may be in one or not."""
    module, path = googlenet(transform_input, aux_logits=transform_input), str(tmp_path / "w.pth")
    torch.save(module.state_dict(), path)
    with pytest.raises(WeightsError, match=r"^.*w.pth: weights of googlenet do not say .*; add --transform-input yes "):
        load("googlenet", path)
    source = load("googlenet", path, IMAGENET, transform_input=transform_input)
    x = torch.from_numpy(images(2, 1, (3, 224, 224)))
    with torch.inference_mode():
        expected, found = module(x), source.network(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert source.to_dict()["transform_input"] is transform_input
    unused = "aux1.conv.conv.weight, aux1.conv.bn.weight, aux1.conv.bn.bias and 17 more"
    assert source.notes == ((f"{path}: left out what only training uses: {unused}",) if transform_input else ())


def test_a_file_that_torchvision_publishes_needs_no_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "renamed.pth"
    torch.save(googlenet(True).state_dict(), path)
    monkeypatch.setattr("edgeq.frontends.torch_export.trace.trace", lambda module, *_, **__: trace(SMALLEST, (3, 8, 8)))
    digits = Path(models.GoogLeNet_Weights.IMAGENET1K_V1.url).stem.rpartition("-")[2]
    with monkeypatch.context() as published:
        published.setattr(presets, "sha256", lambda path: digits + "0" * 56)
        assert load("googlenet", str(path)).transform_input is True
        with pytest.raises(UnsupportedError, match=r"torchvision's weights of googlenet are for transform_input, foun"):
            load("googlenet", str(path), transform_input=False)
    with pytest.raises(WeightsError, match="add --transform-input yes"):
        load("googlenet", str(path))


def test_the_switch_is_of_two_networks() -> None:
    with pytest.raises(UnsupportedError, match=r"^expected googlenet or inception_v3 for transform_input, found mobil"):
        load(transform_input=True)


def test_source_is_found_again_unless_its_weights_changed(tmp_path: Path) -> None:
    path = file_of(tmp_path / "w.safetensors")
    body = load(SMALL, str(path)).to_dict()
    assert Source.from_dict(body).sha256 == body["sha256"]
    file_of(path, classifier__1__bias=torch.ones(4))
    with pytest.raises(
        ArtifactError, match=r"w.safetensors: the weights have changed since calibration \(sha256 \w{12} "
    ):
        Source.from_dict(body)
    with pytest.raises(ArtifactError, match=r"^the record does not name its network's weights; calibrate again$"):
        Source.from_dict({"model": SMALL})
    with pytest.raises(ArtifactError, match=r"^the record is of a network that was passed to the API; pass it again"):
        Source.from_dict({})


def test_digest() -> None:
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    found = digest(state)
    content = b"a torch.float32 [2]\n" + struct.pack("<2f", 1, 2) + b"b torch.int64 []\n" + struct.pack("<q", 3)
    assert found == hashlib.sha256(content).hexdigest()
    assert digest(dict(reversed(state.items()))) == found
    for other in (
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.5]), "b": torch.tensor(3)},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3, dtype=torch.int32)},
    ):
        assert digest(other) != found


def test_unknown_model() -> None:
    """The line names every way in."""
    with pytest.raises(UnsupportedError) as error:
        load("resnet19", preprocess=IMAGENET)
    assert str(error.value) == (
        "unknown model 'resnet19'; expected a file that ends in .onnx or .pt2, timm:NAME, package.module:function, or "
        "a network of torchvision, such as resnet18, resnet152, resnet101"
    )


def test_embedded_weights_are_of_one_model() -> None:
    with pytest.raises(
        WeightsError, match=r"^the embedded weights are of mobilenet_v2, found --model resnet18; add --wei"
    ):
        load("resnet18")


def test_embedded_default() -> None:
    source = load()
    assert (source.model, source.weights, source.network.graph.image.shape) == ("mobilenet_v2", "embedded", (3, 96, 96))
    assert len(source.network.graph.layers) == 53


def test_imagenet_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(
        WeightsError, match=r"^cannot download the ImageNet weights of squeezenet1_1 .*; connect to the "
    ):
        load(SMALL, "imagenet")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
