"""Programs of torch.export.save, and those that would run code when they are loaded."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import images
from torch import Tensor, nn
from torch.export import Dim

from edgeq.errors import UnsupportedError
from edgeq.frontends.sources import Source, load

SHAPE = (3, 16, 16)
PROGRAM = "models/model.json"
NONE: Mapping[str, bytes] = {}
Body = Any


class Net(nn.Module):
    """A batch norm, a buffer, a constant, and two outputs."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        x = self.stem(picture) * self.scale * torch.tensor([1.5])
        x = x.mean((2, 3)).reshape(picture.shape[0], -1)
        return {"scores": self.head(x), "features": x}


def saved(path: Path, dims: Any, shape: tuple[int, ...] = SHAPE, module: nn.Module | None = None) -> Path:
    torch.manual_seed(0)
    module = Net() if module is None else module
    program = torch.export.export(module.eval(), (torch.randn(2, *shape),), dynamic_shapes={"picture": dims})
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("programs") / "net.pt2", {0: Dim("batch")})


def test_a_program(file: Path) -> None:
    source = load(str(file))
    torch.manual_seed(0)
    module = Net().eval()
    x = torch.from_numpy(images(3, 1, SHAPE))
    with torch.inference_mode():
        for found, expected in zip(source.network(x), module(x).values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert [one.name for one in source.network.graph.outputs] == ["scores", "features"]
    assert [node.name for node in source.network.graph.layers] == ["stem.0", "conv2d:2", "head"]
    assert (source.weights, source.classes) == (str(file), None)
    assert Source.from_dict(json.loads(json.dumps(source.to_dict()))).to_dict() == source.to_dict()


def test_sizes_that_are_open(tmp_path: Path) -> None:
    dims = {0: Dim("batch"), 2: Dim("rows", min=8, max=64), 3: Dim("columns", min=8, max=64)}
    path = saved(tmp_path / "open.pt2", dims)
    with pytest.raises(UnsupportedError) as error:
        load(str(path))
    assert str(error.value) == f"{path}: input picture is nx3x?x?; fix what is open with --input-shape"
    assert load(str(path), input_shapes=(3, 20, 12)).network.graph.image.shape == (3, 20, 12)
    with pytest.raises(UnsupportedError) as error:
        load(str(path), input_shapes={"picture": (4, 20, 12)})
    assert str(error.value) == (f"{path}: input picture is nx3x?x?, which an input shape of 1x4x20x12 contradicts")
    with pytest.raises(UnsupportedError, match=r"open.pt2: no input image; expected one of picture$"):
        load(str(path), input_shapes={"image": (3, 20, 12)})


def test_a_program_for_one_number_of_images(tmp_path: Path) -> None:
    path = saved(tmp_path / "two.pt2", None)
    with pytest.raises(UnsupportedError) as error:
        load(str(path))
    assert str(error.value) == (
        f"{path}: the program is for 2 images only; export it for any number, with dynamic_shapes={{'picture': "
        "{0: torch.export.Dim('batch')}} in torch.export.export"
    )


# --- files that would run code --------------------------------------------------------------------------------------


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


def changed(file: Path, change: Callable[[Body], Any], entry: str = PROGRAM, more: Mapping[str, bytes] = NONE) -> Path:
    """A copy in the current folder, with one of its JSON entries changed and others added or replaced."""
    path = Path("changed.pt2")
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(path, "w") as made:
        for name in archive.namelist():
            inner, content = name.partition("/")[2], archive.read(name)
            if inner == entry:
                body = json.loads(content)
                change(body)
                content = json.dumps(body).encode()
            made.writestr(name, more.get(inner, content))
        for name in more.keys() - {name.partition("/")[2] for name in archive.namelist()}:
            made.writestr(f"net/{name}", more[name])
    return path


def nodes(body: Body) -> Body:
    return body["graph_module"]["graph"]["nodes"]


def rename(body: Body, name: str) -> None:
    """The value of the first node, everywhere."""
    old = nodes(body)[1]["name"]
    body["graph_module"]["graph"] = json.loads(
        json.dumps(body["graph_module"]["graph"]).replace(f'"{old}"', json.dumps(name))
    )


CODE = "__import__('pathlib').Path('evil').touch()"
HOSTILE: dict[str, Callable[[Body], Any]] = {
    "a function of another module": lambda body: nodes(body)[1].update(target="torch.os.system"),
    "a function of torch that runs code": lambda body: nodes(body)[1].update(target="torch.load"),
    "a getter of anything": lambda body: nodes(body)[1].update(target="_operator.attrgetter"),
    "a function that opens a file": lambda body: nodes(body)[1].update(target="torch.ops.aten.from_file.default"),
    "a name that is code": lambda body: rename(body, f"x = {CODE}\n    y"),
    "an attribute of a module as a name": lambda body: rename(body, "torch.load"),
    "an expression that is code": lambda body: body["graph_module"]["graph"]["sym_int_values"]["sym_size_int_1"][
        "as_expr"
    ].update(expr_str=CODE),
    "a parameter whose name is code": lambda body: body["graph_module"]["signature"]["input_specs"][0][
        "parameter"
    ].update(parameter_name=f'a"+{CODE}+"'),
    "a structure that imports": lambda body: body["graph_module"]["module_call_graph"][0]["signature"].update(
        out_spec='[1, {"type": "collections.defaultdict", "context": "[]", "children_spec": []}]'
    ),
    "an argument that is a graph": lambda body: nodes(body)[1]["inputs"][0].update(arg={"as_graph": {"name": "g"}}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_run_code_is_refused(what: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = changed(file, HOSTILE[what])
    with pytest.raises(UnsupportedError, match=r"^changed.pt2: expected ") as error:
        load(str(path))
    assert "\n" not in str(error.value)
    assert "found something else" not in str(error.value)
    assert not Path("evil").exists()


def test_guards_and_samples_are_not_read(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = {"data/sample_inputs/model.pt": pickle.dumps(Evil()), "data/constants/opaque_obj_0": pickle.dumps(Evil())}
    path = changed(file, lambda body: body.update(guards_code=[CODE]), more=evil)
    assert load(str(path)).sha256 == load(str(file)).sha256
    assert not Path("evil").exists()


def test_pickled_weights_are_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    torch.save(Evil(), content)
    entry = "data/weights/model_weights_config.json"
    more = {"data/weights/weight_0": content.getvalue()}
    path = changed(file, lambda body: body["config"]["stem.0.weight"].update(use_pickle=True), entry, more)
    with pytest.raises(UnsupportedError, match=r"^changed.pt2: stem.0.weight is pickled, which edgeq does not"):
        load(str(path))
    assert not Path("evil").exists()


def test_a_weight_larger_than_its_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [{"as_int": 2**40}]
    path = changed(
        file, lambda body: body["config"]["head.bias"]["tensor_meta"].update(sizes=sizes, strides=[{"as_int": 0}]),
        "data/weights/model_weights_config.json",
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"^changed.pt2: head.bias is larger than the file$"):
        load(str(path))


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(UnsupportedError) as error:
        load(str(path))
    assert str(error.value) == (
        f"{path}: expected a program of torch.export.save, found something else (File is not a zip file); save it with "
        "torch.export.save of torch 2.9 or newer"
    )
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(UnsupportedError) as error:
        load(str(path))
    assert str(error.value) == (
        f"{path}: expected a program of torch.export.save with models/model.json, found none; save it with "
        "torch.export.save of torch 2.9 or newer"
    )
