"""An export in the place of an ONNX file takes the sizes that the file takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import Function
from torch import Tensor, nn

from edgeq.exporters.onnx.place import Place
from edgeq.exporters.onnx.placed import Placed, placed
from edgeq.frontends.onnx.ends import Ends
from edgeq.frontends.onnx.load import load
from edgeq.frontends.onnx.sizes import names_of_sizes, other_shapes
from edgeq.ir.network import Network

AXES = {0: "n", 2: "rows", 3: "columns"}


def saved(path: Path, function: object, names: dict[int, str]) -> Path:
    torch.manual_seed(0)
    module = Function(function, conv=nn.Conv2d(3, 8, 3, padding=1), down=nn.Conv2d(8, 4, 3, 2, 1))  # type: ignore[arg-type]
    torch.onnx.export(
        module.eval(), (torch.randn(1, 3, 32, 32),), str(path), input_names=["x"], output_names=["y"],
        dynamic_axes={"x": names, "y": {0: "n"}}, dynamo=False,
    )  # fmt: skip
    return path


def placed_of(path: Path) -> Placed:
    names = names_of_sizes(path)
    imported = load(path, {"x": (3, 32, 32)})

    def others() -> Iterator[tuple[Network, Ends]]:
        for shapes in other_shapes(names, {"x": (3, 32, 32)}):
            other = load(path, shapes)
            yield other.network, other.ends

    return placed(imported.network, Place(imported.ends, others(), names))


def dims(model: onnx.ModelProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]


def same(path: Path, made: Placed, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    runs = [onnxruntime.InferenceSession(m).run(None, {"x": x})[0] for m in (str(path), made.model.SerializeToString())]
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_all_open_sizes_stay_open(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", lambda m, x: m.down(m.conv(x).relu()), AXES)
    made = placed_of(path)
    assert (dims(made.model), made.fixed) == (["n", 3, "rows", "columns"], None)
    same(path, made, (2, 3, 17, 45))


def by_rows(m: nn.Module, x: Tensor) -> Tensor:
    """Positions of 32 rows are added: no other number of them works."""
    y: Tensor = m.down(m.conv(x) + torch.linspace(0, 1, 32)[:, None])  # type: ignore[operator]
    return y


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_ties_one_dimension_leaves_the_other_open(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", by_rows, AXES)
    names = names_of_sizes(path)
    shapes = list(other_shapes(names, {"x": (3, 32, 32)}))
    assert shapes == [{"x": (3, 64, 96)}, {"x": (3, 32, 64)}, {"x": (3, 64, 32)}]
    imported, other = load(path, {"x": (3, 32, 32)}), load(path, shapes[1])
    made = placed(imported.network, Place(imported.ends, [(other.network, other.ends)], names))
    assert (dims(made.model), made.fixed) == (["n", 3, 32, "columns"], None)
    same(path, made, (1, 3, 32, 45))


def with_columns(m: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = m.conv(x) + torch.arange(x.shape[3])  # type: ignore[operator]
    return y


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_for_one_size_says_why(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", with_columns, {3: "columns"})
    made = placed_of(path)
    assert dims(made.model) == [1, 3, 32, 32]
    assert made.fixed is not None
    assert made.fixed.endswith("depends on the size of the image")
    same(path, made, (1, 3, 32, 32))


def test_other_sizes_of_odd_ones_are_multiples(tmp_path: Path) -> None:
    assert list(other_shapes({("x", 2): "", ("x", 0): "n", ("y", 1): "k"}, {"x": (1, 30)})) == [{"x": (1, 60)}]
    assert list(other_shapes({("x", 0): "n"}, {"x": (3, 32, 32)})) == []
