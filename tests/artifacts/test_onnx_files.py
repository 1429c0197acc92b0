"""Models of several files: what they are made of, how large they are, and that nothing else is read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.artifacts.files import sha256
from edgeq.artifacts.onnx_files import digest, model_files, size
from edgeq.commands.inspect import inspect
from edgeq.errors import ArtifactError
from edgeq.evaluation.latency import bench, from_path
from edgeq.runtimes.onnxruntime import onnx_runner

WEIGHT = np.arange(48, dtype=np.float32).reshape(3, 16)


def whole(path: Path) -> Path:
    """A linear layer without bias, in one file."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def split(path: Path, location: str = "net.data") -> Path:
    """The same, with the weights in another file, as exporters write it; that file is not made here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(whole(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


def pair(path: Path, location: str = "net.data") -> Path:
    """Both files."""
    split(path, location)
    (path.parent / location).parent.mkdir(exist_ok=True)
    (path.parent / location).write_bytes(WEIGHT.tobytes())
    return path


def test_one_file(tmp_path: Path) -> None:
    path = whole(tmp_path / "net.onnx")
    assert model_files(path) == [path]
    assert (size([path]), digest([path])) == (path.stat().st_size, sha256(path))


@pytest.mark.parametrize("location", ["net.data", "parts/net.data", "./net.data"])
def test_two_files(location: str, tmp_path: Path) -> None:
    path, data = pair(tmp_path / "net.onnx", location), tmp_path / location
    assert model_files(path) == [path, data]
    assert size(model_files(path)) == path.stat().st_size + WEIGHT.nbytes
    lines = f"{sha256(path)} net.onnx\n{sha256(data)} net.data\n"
    assert digest(model_files(path)) == hashlib.sha256(lines.encode()).hexdigest()


def test_a_change_of_either_file_changes_the_digest(tmp_path: Path) -> None:
    path = pair(tmp_path / "net.onnx")
    before = digest(model_files(path))
    (tmp_path / "net.data").write_bytes((WEIGHT + 1).tobytes())
    assert digest(model_files(path)) != before


def test_a_file_counts_once_whatever_refers_to_it(tmp_path: Path) -> None:
    """Initializers, constants of nodes, and those of graphs within nodes."""

    def outside(name: str, location: str) -> onnx.TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        (tmp_path / location).write_bytes(bytes(4))
        return tensor

    constant = helper.make_node("Constant", [], ["b"], value=outside("b", "b.data"))
    branch = helper.make_graph([constant], "branch", [], [])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=outside("c", "a.data")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [outside("a", "a.data"), outside("same", "a.data")])
    path = tmp_path / "net.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert sorted(found.name for found in model_files(path)) == ["a.data", "b.data", "net.onnx"]


def test_all_that_give_a_size_count_both_files(tmp_path: Path) -> None:
    path = pair(tmp_path / "net.onnx")
    expected = path.stat().st_size + WEIGHT.nbytes
    (row,) = bench([path], runs=1, warmup=0).rows
    assert row.bytes == expected
    kind, body = inspect(path)
    assert (kind, body["bytes"], body["tensors"][0]["bytes"]) == ("onnx", expected, WEIGHT.nbytes)


def test_it_runs(tmp_path: Path) -> None:
    x = np.ones((2, 3, 1, 1), np.float32)
    np.testing.assert_array_equal(onnx_runner(pair(tmp_path / "net.onnx"))(x), x.reshape(2, 3) @ WEIGHT)


def test_a_cache_of_links_is_followed(tmp_path: Path) -> None:
    """As hubs keep downloads: both names are links into one folder of files that are named by their digests."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for name in ("net.onnx", "net.data"):
        pair(tmp_path / "net.onnx").parent.joinpath(name).rename(tmp_path / "blobs" / f"sha-of-{name}")
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/sha-of-{name}")
    path = tmp_path / "snapshot" / "net.onnx"
    assert size(model_files(path)) == path.stat().st_size + WEIGHT.nbytes
    onnx_runner(path)


@pytest.mark.parametrize("reader", [from_path, onnx_runner, inspect, model_files], ids=lambda reader: reader.__name__)
@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("net.data", "expected the file net.data beside it, which holds w, found none; put it there"),
        ("sub", "expected the file sub beside it, which holds w, found none; put it there"),
        (
            "../secret",
            "expected its tensors in files of its folder, found w in '../secret'; nothing outside of the fol",
        ),
        ("sub/../../secret", "expected its tensors in files of its folder, found w in 'sub/../../secret'; nothing ou"),
        ("/etc/passwd", "expected its tensors in files of its folder, found w in '/etc/passwd'; nothing outside of"),
        (
            "link",
            "expected its tensors in files of its folder, found w in 'link'; nothing outside of the folder is rea",
        ),
        ("", "expected its tensors in files of its folder, found w in ''; nothing outside of the folder is read"),
        ("a\0b", "w: cannot be read from 'a\\x00b': "),
        ("x" * 300, "w: cannot be read from 'xxx"),
    ],
    ids=["missing", "a folder", "up", "down and up", "absolute", "a link out", "no name", "zero byte", "too long"],
)
def test_files_that_are_not_there_or_not_its_own(location: str, message: str, reader: object, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    path = split(tmp_path / "net" / "net.onnx", location)
    (tmp_path / "net" / "sub").mkdir()
    (tmp_path / "net" / "link").symlink_to("../secret")
    assert callable(reader)
    with pytest.raises(ArtifactError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
        reader(path)
    assert "\n" not in str(caught.value)
