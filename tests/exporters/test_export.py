from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import Quantized, float_network, images, quantized, worked
from numpy.typing import NDArray

from edgeq.artifacts.files import sha256
from edgeq.artifacts.manifest import VERSION as MANIFEST_VERSION
from edgeq.artifacts.manifest import Manifest
from edgeq.calibration.calibrate import calibrate
from edgeq.errors import ArtifactError, DataError, OutputError, ParityError
from edgeq.exporters.export import export
from edgeq.ir.batches import Images
from edgeq.numerics.weights import QuantLayer
from edgeq.packed.file import load_packed
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.quantization.quantize import quantize
from edgeq.quantization.tune import tune
from edgeq.runtimes.onnxruntime import onnx_runner

parity_module = import_module("edgeq.exporters.parity")


def write(found: Quantized, path: Path, **options: Any) -> Manifest:
    return export(found.packed, path, found.record, found.plan, [images(8, 5)], **options)


@pytest.mark.parametrize("name", ["residual", "flat"])
def test_files_and_manifest(name: str, tmp_path: Path) -> None:
    found, path = quantized(name, "adaptive"), tmp_path / "net.onnx"
    manifest = write(found, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.onnx", "net.safetensors"]
    stored = json.loads((tmp_path / "net.json").read_text())
    assert stored == {"format": "edgeq-manifest", "version": MANIFEST_VERSION, **json.loads(json.dumps(manifest))}
    assert (stored["file"], stored["bytes"], stored["sha256"]) == ("net.onnx", path.stat().st_size, sha256(path))
    assert (stored["scheme"], stored["act_bits"], stored["opset"]) == ("adaptive", 8, 17)
    assert [(layer["name"], layer["bits"]) for layer in stored["layers"]] == list(found.plan.bits.items())
    assert stored["bitops"] == sum(layer["macs"] * layer["bits"] * 8 for layer in stored["layers"])


@pytest.mark.parametrize("name", ["residual", "ragged"])
def test_bytes_of_the_layers_are_those_in_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    manifest = write(quantized(name, "2bit"), path)
    stored = {tensor.name: len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer}
    for layer in manifest["layers"]:
        parts = [stored[f"{layer['name']}.{part}"] for part in ("packed", "scale", "bias")]
        assert sum(parts) == layer["bytes"]


def test_pytorch_state_beside_it_is_the_same_network(tmp_path: Path) -> None:
    found = quantized("fire", "4bit")
    write(found, tmp_path / "net.onnx")
    x = torch.from_numpy(images(4, 3))
    assert torch.equal(load_packed(tmp_path / "net.safetensors")(x), found.packed(x))


def read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy that may not be written to, as memory-mapped images are."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Torch gives its warnings again and again, not once."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("every_warning")
def test_arrays_that_may_not_be_written_to(tmp_path: Path) -> None:
    network, path = float_network("residual"), tmp_path / "net.onnx"
    batches = [read_only(images(8, seed)) for seed in (1, 2)]
    record = calibrate(network, batches)
    widths = plan(record, "4bit")
    layers = quantize(network, record, widths, batches)
    for change in (lambda found: found, lambda found: tune(network, record, worked(widths, steps=1), found, batches)):
        layers = {
            name: QuantLayer(replace(layer.weight, scale=read_only(layer.weight.scale)), read_only(layer.bias))
            for name, layer in change(layers).items()
        }
    export(pack(network, layers, record, widths), path, record, widths, batches)
    assert onnx_runner(path)(batches[0]).shape == (8, 6)
    assert not batches[0].flags.writeable


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    write(quantized("residual", "adaptive"), tmp_path / "a.onnx")
    write(quantized.__wrapped__("residual", "adaptive"), tmp_path / "b.onnx")  # all stages run again
    for suffix in (".onnx", ".safetensors"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def shifted_runner(*arguments: object, **options: object) -> Callable[[Images], list[NDArray[np.float32]]]:
    """A runtime whose results are off by a lot."""
    return lambda images: [np.full((len(images), 6), 100, np.float32)]


@pytest.mark.parametrize("older", [False, True], ids=["first export", "older export there"])
def test_parity_error_leaves_what_was_there(older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, path = quantized("residual", "4bit"), tmp_path / "net.onnx"
    if older:
        write(quantized("residual", "8bit"), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(parity_module, "runner", shifted_runner)
    with pytest.raises(
        ParityError,
        match=r"^ONNX Runtime and PyTorch disagree at output logits: expected an error .* found \d+%; no file",
    ):
        write(found, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_peoples_files_are_kept_unless_forced(tmp_path: Path) -> None:
    other = tmp_path / "net.json"
    other.write_text("{}")
    with pytest.raises(OutputError, match=r"net.json: exists and was not written by edgeq; name another .* --force$"):
        write(quantized("residual", "4bit"), tmp_path / "net.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["net.json"]
    assert write(quantized("residual", "4bit"), tmp_path / "net.onnx", force=True)["scheme"] == "4bit"
    write(quantized("residual", "2bit"), tmp_path / "net.onnx")
    assert json.loads(other.read_text())["scheme"] == "2bit"


def test_no_images(tmp_path: Path) -> None:
    found = quantized("residual", "4bit")
    with pytest.raises(DataError, match=r"^no images to compare the exported file on; expected at least one$"):
        export(found.packed, tmp_path / "net.onnx", found.record, found.plan, [])
    assert not list(tmp_path.iterdir())


def test_a_network_of_another_plan_is_refused(tmp_path: Path) -> None:
    """Its manifest would tell lies."""
    found = quantized("residual", "4bit")
    for scheme, bits in (("8bit", 8), ("fp32", 32)):
        other = plan(found.record, scheme)
        with pytest.raises(ArtifactError, match=rf"^layer .*: expected {bits} bits, as the plan says, found 4; export"):
            export(found.packed, tmp_path / "net.onnx", found.record, other, [images(8, 5)])
    assert not list(tmp_path.iterdir())
