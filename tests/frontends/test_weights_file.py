"""What is read of files of weights: every state dict, whatever is beside it; and that nothing in them is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import os
import pathlib
import pickle
import sys
import types
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeq.errors import WeightsError
from edgeq.frontends.weights_file import read_state_dicts

STATE = {"conv.weight": torch.arange(8.0).reshape(2, 4), "conv.bias": torch.ones(2)}


class Options(dict[str, Any]):
    """Like the dicts with attributes that configurations come in."""


class Names(list[str]):
    """A list of another class."""


class Slots:
    __slots__ = ("rate", "tensor")

    def __init__(self) -> None:
        self.rate, self.tensor = 0.1, torch.ones(2)


class Glutton:
    """Sets aside a terabyte when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int]]:
        return bytearray, (2**40,)


class Thief:
    """Makes a folder when it is unpickled, by a function of another module than `os` if need be."""

    def __init__(self, folder: Path, by_os: bool = True) -> None:
        self.folder, self.by_os = folder, by_os

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        path = str(self.folder / "made")
        return (os.mkdir, (path,)) if self.by_os else (exec, (f"import os; os.mkdir({path!r})",))


def stepped() -> torch.optim.Optimizer:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer


def factory() -> collections.defaultdict[str, dict[str, Any]]:
    made: collections.defaultdict[str, dict[str, Any]] = collections.defaultdict(dict)
    made["weight"]["momentum"] = torch.ones(2)
    return made


BESIDE: dict[str, Callable[[], Any]] = {
    "arguments": lambda: argparse.Namespace(lr=0.1, milestones=[3, 6], extra={"a": 1}),
    "options": lambda: Options(lr=0.1, inner=Options(momentum=0.9)),
    "names": lambda: Names(["a", "b"]),
    "slots": Slots,
    "a path": lambda: pathlib.PurePosixPath("/data/imagenet"),
    "a time": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "a number of NumPy": lambda: np.float64(71.5),
    "an array of NumPy": lambda: np.ones((2, 3)),
    "random states": lambda: {"numpy": np.random.default_rng(0).bit_generator.state, "torch": torch.get_rng_state()},
    "a partial": lambda: functools.partial(print, 1),
    "a dict with a factory": factory,
    "a namespace": lambda: types.SimpleNamespace(lr=0.1),
    "a range": lambda: range(3),
    "a class": lambda: int,
    "a queue": lambda: collections.deque([1.0], 20),
    "an identifier": lambda: uuid.UUID(int=1),
    "the state of an optimizer": lambda: stepped().state_dict(),
    "an optimizer": stepped,
    "a device": lambda: torch.device("cuda:1"),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("case", BESIDE)
def test_whatever_is_beside_the_weights(case: str, new: bool, tmp_path: Path) -> None:
    content = {"state_dict": STATE, "epoch": 3, "beside": BESIDE[case]()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    found = read_state_dicts(tmp_path / "w.pth")
    assert list(found) == ["state_dict"]
    torch.testing.assert_close(found["state_dict"], STATE, rtol=0, atol=0)


def test_classes_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("trainer")
    kind = type("Config", (), {"__module__": "trainer"})
    vars(module)["Config"] = kind
    with monkeypatch.context() as installed:
        installed.setitem(sys.modules, "trainer", module)
        torch.save({"model": STATE, "config": kind()}, tmp_path / "w.pth")
    assert list(read_state_dicts(tmp_path / "w.pth")) == ["model"]


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": STATE, "beside": Thief(tmp_path, by_os=False)}, tmp_path / "w.pth")
    assert list(read_state_dicts(tmp_path / "w.pth")) == ["model"]
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_state_dicts_have_the_keys_that_lead_to_them(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": {"b": STATE, "epoch": 1, 5: STATE}, "ema": dict(STATE), "best": torch.ones(())}
    content["scalars"], content["itself"] = {"loss": torch.ones(3)}, content
    torch.save(content, tmp_path / "w.pth")
    found = read_state_dicts(tmp_path / "w.pth")
    assert {key: list(tensors) for key, tensors in found.items()} == {"a.b": list(STATE), "ema": list(STATE)}
    torch.save(STATE, tmp_path / "w.pth")
    assert list(read_state_dicts(tmp_path / "w.pth")) == [""]


@pytest.mark.parametrize("name", ["w.safetensors", "W.SAFETENSORS", "w.bin", "w.pth", "w"])
def test_formats_are_told_from_the_content(name: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / name)
    torch.testing.assert_close(read_state_dicts(tmp_path / name), {"": STATE})
    torch.save(STATE, tmp_path / name)
    torch.testing.assert_close(read_state_dicts(tmp_path / name), {"": STATE})


def compressed(path: Path) -> None:
    """A state dict whose values, a million zeros, take some kB."""
    torch.save({"w": torch.zeros(1000, 1000)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def many_classes(path: Path) -> None:
    """A state dict beside which 101 classes are named."""
    torch.save({"w": torch.zeros(2, 2)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            named = b"".join(b"cmodule\nClass%d\n" % i for i in range(101))
            archive.writestr(name, content[:2] + named + content[2:] if name.endswith("data.pkl") else content)


def scripted(path: Path) -> None:
    """The entry that tells a TorchScript archive, as its code does not matter."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/constants.pkl", bytes(100))


def two_pickles(path: Path) -> None:
    """Which of them is read depends on the reader."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"")


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:-end])


def half_a_safetensors(path: Path) -> None:
    save_file(STATE, path)
    cut(path, 8)


def half_an_archive(path: Path) -> None:
    torch.save(STATE, path)
    cut(path, 80)


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))


SAVE = r"; save its weights with torch.save\(model.state_dict\(\), FILE\)$"
NEITHER = "expected a safetensors file or a state dict saved by torch.save, found something else"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda path: None, "no such file; expected embedded, imagenet, or a safetensors or PyTorch state dict"),
    "folder": (lambda path: path.mkdir(), "found a folder; expected embedded, imagenet, or"),
    "text": (lambda path: path.write_text("weights"), rf"{NEITHER} \(neither, by its first bytes\){SAVE}"),
    "empty": (lambda path: path.touch(), rf"{NEITHER} \(cannot mmap an empty file\){SAVE}"),
    "half a safetensors": (
        half_a_safetensors,
        rf"{NEITHER} \(.*incomplete metadata.*\){SAVE}",
    ),
    "half an archive": (
        half_an_archive,
        rf"{NEITHER} \(File is not a zip file\){SAVE}",
    ),
    "an archive of something else": (
        arrays,
        rf"{NEITHER} \(an archive with 0 entries data.pkl, expected one\){SAVE}",
    ),
    "two pickles": (two_pickles, rf"{NEITHER} \(an archive with 2 entries data.pkl, expected one\){SAVE}"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), rf"{NEITHER} \(neither, by its first"),
    "another protocol": (
        lambda path: torch.save(STATE, path, pickle_protocol=4),
        rf"{NEITHER} \(pickled by protocol 4, expected 2, which torch.save takes itself\){SAVE}",
    ),
    "whole module": (
        lambda path: torch.save(nn.Linear(2, 2), path),
        f"expected a state dict of tensors, found an object of torch.nn.modules.linear.Linear, .* runs code{SAVE}",
    ),
    "whole module in a checkpoint": (
        lambda path: torch.save({"epoch": 3, "model": nn.Linear(2, 2), "best": torch.ones(())}, path),
        f"expected a state dict of tensors, found an object of torch.nn.modules.linear.Linear, .*{SAVE}",
    ),
    "whole module of before 1.6": (
        lambda path: torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=False),
        rf"{NEITHER} \(a pickle of more than tensors\){SAVE}",
    ),
    "code": (lambda path: torch.save(Thief(path.parent), path), rf"{NEITHER} \(.* refers to posix.mkdir\){SAVE}"),
    "memory": (
        lambda path: torch.save({"w": torch.ones(1, 1), "beside": Glutton()}, path),
        rf"{NEITHER} \(a pickle that refers to builtins.bytearray\){SAVE}",
    ),
    "many classes": (many_classes, rf"{NEITHER} \(a pickle that refers to 10\d classes\){SAVE}"),
    "a TorchScript archive": (scripted, rf"{NEITHER} \(a TorchScript archive, .* torch.jit.load\(FILE\)\){SAVE}"),
    "a compressed archive": (compressed, rf"{NEITHER} \(an archive that is compressed\){SAVE}"),
    "one value at every place": (
        lambda path: torch.save({"w": torch.ones(1, 1).expand(2**40, 512)}, path),
        f"expected plain tensors, found that w is quantized, or has no place for each value{SAVE}",
    ),
    "a sparse tensor": (
        lambda path: torch.save({"w": torch.eye(3).to_sparse()}, path),
        rf"{NEITHER} \(a pickle that refers to torch._utils._rebuild_sparse_tensor\){SAVE}",
    ),
    "names that are numbers": (
        lambda path: torch.save({1: torch.ones(1, 1)}, path),
        f"expected a state dict of tensors, found dict{SAVE}",
    ),
    "nothing": (lambda path: torch.save({}, path), f"expected a state dict of tensors, found an empty dict{SAVE}"),
    "list": (lambda path: torch.save([1, 2], path), f"expected a state dict of tensors, found list{SAVE}"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_something_else(case: str, tmp_path: Path) -> None:
    write, message = FILES[case]
    write(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=f"w.pt: {message}") as caught:
        read_state_dicts(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"w.pt"}
