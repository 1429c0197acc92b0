from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from nets import images, randomized
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from edgeq.errors import ArtifactError, UnsupportedError, WeightsError
from edgeq.models import Source, digest, load
from edgeq.preprocess import IMAGENET, Preprocess
from edgeq.trace import trace

SMALL = "squeezenet1_1"


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
    assert (source.model, source.weights, source.classes, source.keep_float) == (SMALL, str(path), 4, False)
    assert source.sha256 == digest(module.state_dict())
    x = torch.from_numpy(images(1, 1, source.preprocess.shape))
    with torch.inference_mode():
        torch.testing.assert_close(source.network(x), module(x), rtol=1e-4, atol=1e-5)


def test_preprocessing_of_a_file(tmp_path: Path) -> None:
    """That of torchvision's weights of the architecture, or the caller's, whose crop is what the network takes."""
    path = str(file_of(tmp_path / "w.safetensors"))
    assert load(SMALL, path).preprocess == IMAGENET
    own = Preprocess(96, (64, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "bgr")
    source = load(SMALL, path, preprocess=own)
    assert (source.preprocess, source.network.graph.input_shape) == (own, (3, 64, 96))
    again = Source.from_dict(json.loads(json.dumps(source.to_dict())))
    assert (again.preprocess, again.network.graph.input_shape) == (own, (3, 64, 96))


def test_preprocessing_of_weights_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights like theirs in place of the download; MNASNet's of this width see more of the image than most."""
    name = "mnasnet0_75"
    path = tmp_path / "hub/checkpoints" / models.MNASNet0_75_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(models.get_model(name, weights=None).state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = load(name, "imagenet")
    assert (source.preprocess.resize, source.preprocess.crop, source.classes) == (232, 224, 1000)


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
    with pytest.raises(UnsupportedError, match=r"^unknown model 'lenet'; expected one of torchvision's, such as "):
        load("lenet")
    with pytest.raises(UnsupportedError, match=r"^unknown model 'lenet'"):
        load("lenet", preprocess=IMAGENET)


def test_embedded_weights_are_of_one_model() -> None:
    with pytest.raises(
        WeightsError, match=r"^the embedded weights are of mobilenet_v2, found --model resnet18; add --wei"
    ):
        load("resnet18")


def test_embedded_default() -> None:
    source = load()
    assert (source.model, source.weights, source.network.graph.input_shape) == ("mobilenet_v2", "embedded", (3, 96, 96))
    assert len(source.network.graph.layers) == 53


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"features__0__bias": None}, "these are not weights of squeezenet1_1: features.0.bias is missing$"),
    "unexpected": ({"more": torch.zeros(1)}, "these are not weights of squeezenet1_1: more is unexpected$"),
    "shape": (
        {"features__0__weight": torch.zeros(64, 3, 5, 5)},
        r"features.0.weight is \[64, 3, 5, 5\], expected \[64, 3, 3, 3\]$",
    ),
    "many": ({f"m{i}": torch.zeros(1) for i in range(5)}, "m2 is unexpected and 2 more$"),
    "no classifier": (
        {"classifier__1__weight": None},
        "expected weights of squeezenet1_1, found none named classifier",
    ),
    "no classes": (
        {"classifier__1__weight": torch.zeros(0, 512, 1, 1)},
        r"classifier.1.weight is \[0, 512, 1, 1\], expected \[classes, 512, 1, 1\]$",
    ),
    "more classes than values": (
        {"classifier__1__weight": torch.zeros(2**40, 0)},
        r"classifier.1.weight is \[1099511627776, 0\], expected \[classes, 512, 1, 1\]$",
    ),
    "integers": (
        {"features__0__bias": torch.zeros(64, dtype=torch.int32)},
        "features.0.bias is of torch.int32; use weights that are floating-point numbers$",
    ),
    "beyond float32": (
        {"features__0__bias": torch.full((64,), 1e300, dtype=torch.float64)},
        "features.0.bias holds NaN or infinite values; use",
    ),
    "NaN": (
        {"features__0__bias": torch.full((64,), float("nan"))},
        "features.0.bias holds NaN or infinite values; use",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_do_not_fit(case: str, tmp_path: Path) -> None:
    changed, message = WRONG[case]
    with pytest.raises(WeightsError, match=f"w.safetensors: .*{message}"):
        load(SMALL, str(file_of(tmp_path / "w.safetensors", **changed)))


LAST = "classifier.1.weight"


class Thief:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder / "made"),)


def compressed(path: Path) -> None:
    """A state dict whose values, a million zeros, take some kB."""
    torch.save({LAST: torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "none": ("w.pt", lambda path: None, "no such file; expected embedded, imagenet, or a safetensors or PyTorch state"),
    "folder": ("w.pt", lambda path: path.mkdir(), "no such file; expected embedded, imagenet, or"),
    "text": ("w.pt", lambda path: path.write_text("weights"), "expected a safetensors file or a state dict saved by"),
    "empty": ("w.pt", lambda path: path.touch(), "expected a safetensors file or a state dict saved by torch.save"),
    "no tensors": ("w.safetensors", lambda path: path.write_text("w"), "expected a safetensors file or a state dict"),
    "whole module": ("w.pt", lambda path: torch.save(small(), path), "expected a safetensors file or a state dict"),
    "a global": (
        "w.pt",
        lambda path: path.write_bytes(pickle.dumps(Thief(path.parent))),
        "expected a safetensors file",
    ),
    "a compressed archive": ("w.pt", compressed, r"expected .* something else \(an archive that is compressed\)$"),
    "one value at every place": (
        "w.pt",
        lambda path: torch.save({LAST: torch.ones(1, 1, 1, 1).expand(2**40, 512, 1, 1)}, path),
        "expected a state dict of tensors, found dict; save model",
    ),
    "names that are numbers": (
        "w.pt",
        lambda path: torch.save({1: torch.ones(1)}, path),
        "expected a state dict of tensors, found dict; save",
    ),
    "list": ("w.pt", lambda path: torch.save([1, 2], path), "expected a state dict of tensors, found list; save model"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_something_else(case: str, tmp_path: Path) -> None:
    name, write, message = FILES[case]
    write(tmp_path / name)
    with pytest.raises(WeightsError, match=f"{name}: {message}") as caught:
        load(SMALL, str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {name}


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
