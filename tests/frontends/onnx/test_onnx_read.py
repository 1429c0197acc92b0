"""Files that are no float network that edgeq can read: one line, which says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto
from onnx_models import FLOAT, IMAGE, WEIGHT, Value, conv, node, save

from edgeq.errors import ArtifactError, EdgeqError, UnsupportedError, WeightsError
from edgeq.frontends.onnx.load import load

OUTPUT: Value = ("c", FLOAT, None)
OPEN: Value = ("x", FLOAT, ["n", 3, "h", "w"])


def path_of(
    tmp_path: Path,
    nodes: Sequence[NodeProto] = (conv(),),
    constants: Mapping[str, NDArray[Any]] | None = None,
    inputs: Sequence[Value] = (IMAGE,),
    opset: int = 17,
) -> Path:
    return save(tmp_path / "net.onnx", nodes, [OUTPUT], constants or {}, inputs, opset)


def refused(path: Path, error: type[EdgeqError], text: str, **options: Any) -> None:
    with pytest.raises(error) as found:
        load(path, **options)
    assert str(found.value) == f"{path}: {text}"


@pytest.mark.parametrize("opset", [8, 23])
def test_other_opsets(tmp_path: Path, opset: int) -> None:
    refused(
        path_of(tmp_path, opset=opset), UnsupportedError,
        f"expected operators of opset 9 to 22, found {opset}; export it with such a one, or convert it with "
        "onnx.version_converter",
    )  # fmt: skip


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("no network")
    with pytest.raises(ArtifactError, match="expected an ONNX file, found something unreadable"):
        load(tmp_path / "net.onnx")


@pytest.mark.parametrize("op", ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"])
def test_a_quantized_file(tmp_path: Path, op: str) -> None:
    nodes = [conv(), node(op, ["c"], ["q"], name="q_1")]
    refused(
        path_of(tmp_path, nodes), UnsupportedError,
        f"it is already quantized, as node q_1 is a {op}; expected the float file that it was made of",
    )  # fmt: skip


def test_custom_operators(tmp_path: Path) -> None:
    path = path_of(tmp_path, [conv("x", "d"), node("FusedConv", ["d", "w"], ["c"], name="f", domain="com.microsoft")])
    model = onnx.load(path)
    model.opset_import.add(domain="com.microsoft", version=1)
    onnx.save(model, path)
    refused(
        path, UnsupportedError,
        "node f is a FusedConv of com.microsoft; expected ONNX's own operators: export the network without custom "
        "operators and without a runtime's optimizations",
    )  # fmt: skip


def test_an_unused_import_of_other_operators_is_fine(tmp_path: Path) -> None:
    path = path_of(tmp_path)
    model = onnx.load(path)
    model.opset_import.add(domain="com.microsoft", version=1)
    onnx.save(model, path)
    assert load(path).network.graph.layers[0].name == "conv_c"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = path_of(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"Conv", b"Con\xff"))
    refused(path, ArtifactError, "expected names in UTF-8, found one that is not")


def test_no_layers(tmp_path: Path) -> None:
    text = "expected a convolution or a product with constant weights, found none"
    refused(path_of(tmp_path, [node("Relu", ["x"], ["c"])]), UnsupportedError, text)


def test_an_operator_that_layers_depend_on(tmp_path: Path) -> None:
    path = path_of(tmp_path, [node("Hardmax", ["x"], ["h"], name="hard"), conv("h")])
    text = (
        "node hard: Hardmax is not known to edgeq; expected operators of one flow, or such ones behind the last layer"
    )
    refused(path, UnsupportedError, text)


def test_what_mixes_images_before_layers(tmp_path: Path) -> None:
    path = path_of(
        tmp_path, [node("ReduceMean", ["x"], ["m"], name="m", keepdims=1), node("Sub", ["x", "m"], ["s"]), conv("s")]
    )
    with pytest.raises(
        UnsupportedError, match=r"node m: ReduceMean makes \[1, 1, 1, 1\] of one image and .* for each image by it"
    ):
        load(path)


def test_weights_that_are_nan(tmp_path: Path) -> None:
    path = path_of(tmp_path, constants={"w": np.full_like(WEIGHT, np.nan)})
    refused(path, WeightsError, "weights w: found NaN or infinite values; use weights that are finite")


def test_sizes_that_stay_open(tmp_path: Path) -> None:
    refused(
        path_of(tmp_path, inputs=[OPEN]), UnsupportedError,
        "input x is [n, 3, h, w], whose dimension 2 is open; give its size, as in --input-shape 1x3x224x224, or "
        "input_shapes={'x': (3, 224, 224)}",
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 8), (3, 8, 8, 8)])
def test_sizes_that_contradict_the_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    text = f"input x is [n, 3, h, w]; expected sizes that fit it, found {'x'.join(map(str, (1, *shape)))}"
    refused(path_of(tmp_path, inputs=[OPEN]), UnsupportedError, text, input_shapes={"x": shape})


def test_other_names_and_batches(tmp_path: Path) -> None:
    refused(path_of(tmp_path), UnsupportedError, "no input image; expected one of x", input_shapes={"image": (3, 8, 8)})
    refused(
        path_of(tmp_path, inputs=[("x", FLOAT, [8, 3, 8, 8])]), UnsupportedError,
        "input x is [8, 3, 8, 8]; expected the batch first, of 1 or of any size: export it so",
    )  # fmt: skip


def test_missing_external_data(tmp_path: Path) -> None:
    path = path_of(tmp_path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    refused(path, ArtifactError, "expected the file w.bin beside it, which holds w, found none; put it there")


def test_constants_that_would_fill_memory(tmp_path: Path) -> None:
    nodes = [
        conv("x", "d"),
        node("ConstantOfShape", ["huge"], ["k"], name="k"),
        node("ReduceMax", ["k"], ["m"]),
        node("Add", ["x", "m"], ["a"]),
        conv("a"),
    ]
    path = path_of(tmp_path, nodes, {"huge": np.array([2**20, 2**20])})
    with pytest.raises(EdgeqError, match=r"expected (values of )?at most 67108864 numbers"):
        load(path)
