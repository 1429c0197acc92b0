"""ONNX files as networks, and what stands around them: names, batch, tails, parity with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from onnx_models import FLOAT, HALF, IMAGE, INT64, UINT8, WEIGHT, Value, conv, node, save

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.exporters.import_parity import import_parity
from edgeq.exporters.onnx.drop_in import with_ends
from edgeq.exporters.onnx.model import to_onnx
from edgeq.frontends.onnx.load import Imported, load

Constants = Mapping[str, NDArray[Any]]
CLASSES = np.random.default_rng(1).normal(0, 0.3, (5, 4)).astype(np.float32)


def loaded(
    tmp_path: Path,
    nodes: Sequence[NodeProto],
    outputs: Sequence[Value],
    constants: Constants | None = None,
    **options: Any,
) -> Imported:
    """Load a file; what comes of it computes what the file computes, for one image, and in the network for three."""
    path = save(tmp_path / "net.onnx", nodes, outputs, constants or {}, **options)
    imported = load(path)
    parity = import_parity(path, imported.network, imported.ends)
    assert list(parity) == [name for name, *_ in outputs]
    assert min(parity.values()) > 100
    images = [torch.randn(3, *one.shape) for one in imported.network.graph.inputs]
    with torch.no_grad():
        whole = imported.network(*images)
        single = [imported.network(*(x[i : i + 1] for x in images)) for i in range(3)]
    for place, value in enumerate(whole if isinstance(whole, tuple) else [whole]):
        alone = [one[place] if isinstance(one, tuple) else one for one in single]
        torch.testing.assert_close(value, torch.cat(alone), rtol=1e-4, atol=1e-5)
    return imported


def ops(imported: Imported) -> list[str]:
    return [str(n.attrs.get("operator", n.op)) for n in imported.network.graph.nodes]


def tail(imported: Imported) -> list[str]:
    return [n.op_type for n in imported.ends.tail]


def described(values: Sequence[onnx.ValueInfoProto]) -> list[Value]:
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim])
        for v in values
    ]


def batch_norm(source: str, made: str) -> tuple[NodeProto, dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(2)
    names = ("gamma", "beta", "mean", "var")
    values = {name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in names}
    return node("BatchNormalization", [source, *names], [made], name="bn"), values


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 22])
def test_layers_are_named_as_in_the_file_and_batch_norms_are_folded(tmp_path: Path, opset: int) -> None:
    norm, values = batch_norm("c", "d")
    nodes = [
        conv(),
        norm,
        node("Relu", ["d"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
    ]
    nodes.append(node("Gemm", ["f", "classes", "bias"], ["scores"], name="head/Gemm.1", transB=1, alpha=0.5, beta=2.0))
    constants = values | {"classes": CLASSES, "bias": np.arange(5, dtype=np.float32)}
    imported = loaded(tmp_path, nodes, [("scores", FLOAT, ["n", 5])], constants, opset=opset)
    assert ops(imported) == ["conv2d", "relu", "global_avg_pool", "conv2d", "flatten"]
    assert [n.name for n in imported.network.graph.layers] == ["conv_c", "head/Gemm.1"]
    graph = imported.network.graph
    assert [(one.name, one.shape) for one in graph.inputs] == [("x", (3, 8, 8))]
    assert [(one.name, one.task) for one in graph.outputs] == [("scores", "classification")]
    assert tail(imported) == [n.op_type for n in imported.ends.head] == []
    assert imported.notes == ()


def test_a_bias_that_is_added_is_the_layers(tmp_path: Path) -> None:
    bias = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
    imported = loaded(tmp_path, [conv(), node("Add", ["c", "b"], ["y"])], [("y", FLOAT, ["n", 4, 8, 8])], {"b": bias})
    assert ops(imported) == ["conv2d"]
    assert imported.network.weight_and_bias("conv_c")[1].tolist() == [0, 1, 2, 3]


def numbers(**values: float) -> dict[str, NDArray[Any]]:
    return {name: np.array([value], np.float32) for name, value in values.items()}


def hard_swish(op: str) -> list[NodeProto]:
    clipped = [node("Add", ["c", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["k"])]
    last = {
        "Div": [node("Mul", ["c", "k"], ["m"]), node("Div", ["m", "six"], ["y"])],
        "Mul": [node("Mul", ["k", "sixth"], ["m"]), node("Mul", ["m", "c"], ["y"])],
    }
    return clipped + last[op]


@pytest.mark.parametrize("op", ["Div", "Mul"])
def test_a_hard_swish_that_is_written_out(tmp_path: Path, op: str) -> None:
    constants = numbers(three=3, six=6, sixth=1 / 6) | {"zero": np.array(0, np.float32)}
    constants["six"] = constants["six"].reshape(())
    imported = loaded(tmp_path, [conv(), *hard_swish(op)], [("y", FLOAT, ["n", 4, 8, 8])], constants)
    assert ops(imported) == ["conv2d", "hardswish"]


def test_a_gelu_that_is_written_out(tmp_path: Path) -> None:
    nodes = [conv(), node("Div", ["c", "root"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["f"])]
    nodes += [node("Mul", ["c", "f"], ["g"]), node("Mul", ["g", "half"], ["y"])]
    imported = loaded(tmp_path, nodes, [("y", FLOAT, ["n", 4, 8, 8])], numbers(root=2**0.5, one=1, half=0.5))
    assert ops(imported) == ["conv2d", "gelu"]


@pytest.mark.parametrize("opset", [13, 18])
def test_a_layer_norm_that_is_written_out(tmp_path: Path, opset: int) -> None:
    axes: dict[str, Any] = {"axes": [-1]} if opset < 18 else {}
    more = [] if opset < 18 else ["axes"]
    nodes = [
        conv(),
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["t", *more], ["m"], **axes),
    ]
    nodes += [
        node("Sub", ["t", "m"], ["s"]),
        node("Pow", ["s", "two"], ["p"]),
        node("ReduceMean", ["p", *more], ["v"], **axes),
    ]
    nodes += [node("Add", ["v", "eps"], ["e"]), node("Sqrt", ["e"], ["r"]), node("Div", ["s", "r"], ["d"])]
    nodes += [
        node("Mul", ["d", "gamma"], ["g"]),
        node("Add", ["g", "beta"], ["h"]),
        node("Transpose", ["h"], ["y"], perm=[0, 3, 1, 2]),
    ]
    constants = numbers(two=2, eps=1e-5) | {"gamma": CLASSES[0], "beta": CLASSES[1], "axes": np.array([-1])}
    imported = loaded(tmp_path, nodes, [("y", FLOAT, ["n", 4, 8, 8])], constants, opset=opset)
    assert ops(imported) == ["conv2d", "layer_norm"]


def reshape(source: str, made: str, sizes: str) -> NodeProto:
    return node("Reshape", [source, sizes], [made], name=f"reshape_{made}")


def test_a_batch_of_one_in_the_targets_of_reshapes(tmp_path: Path) -> None:
    """First `[1, 4, 64]`, then rows `[64, 4]` for a product, and back."""
    nodes = [
        conv(),
        reshape("c", "a", "first"),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        reshape("t", "r", "rows"),
    ]
    nodes += [node("Gemm", ["r", "classes"], ["g"], name="gemm", transB=1), reshape("g", "y", "last")]
    constants = {
        "first": np.array([1, 4, 64]),
        "rows": np.array([64, 4]),
        "last": np.array([1, 64, 5]),
        "classes": CLASSES,
    }
    one: Value = ("x", FLOAT, [1, 3, 8, 8])
    imported = loaded(tmp_path, nodes, [("y", FLOAT, [1, 64, 5])], constants, inputs=[one])
    assert imported.network.graph.shapes()[imported.network.graph.outputs[0].value] == (64, 5)


def lstm(directions: int) -> dict[str, NDArray[Any]]:
    rng, hidden = np.random.default_rng(3), 6 * directions
    shapes = {"wi": (directions, 24, 32), "wr": (directions, 24, 6), "bi": (directions, 48), "head": (hidden, 5)}
    sizes = {"steps": np.array([8, 1, 32]), "flat": np.array([8, hidden]), "out": np.array([8, 1, 5])}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()} | sizes


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sequences_with_the_time_first(tmp_path: Path, direction: str) -> None:
    """As text recognition has them: an LSTM, rows of all times and images, and outputs `[time, n, classes]`."""
    nodes = [conv(), node("Transpose", ["c"], ["t"], perm=[3, 0, 1, 2]), reshape("t", "s", "steps")]
    nodes += [node("LSTM", ["s", "wi", "wr", "bi"], ["h"], name="lstm", hidden_size=6, direction=direction)]
    nodes += [node("Transpose", ["h"], ["u"], perm=[0, 2, 1, 3]), reshape("u", "rows", "flat")]
    nodes += [node("MatMul", ["rows", "head"], ["m"], name="head"), reshape("m", "y", "out")]
    constants = lstm(1 + (direction == "bidirectional"))
    one: Value = ("x", FLOAT, [1, 3, 8, 8])
    imported = loaded(tmp_path, nodes, [("y", FLOAT, [8, 1, 5])], constants, inputs=[one])
    assert "lstm.input" in ops(imported)
    assert tail(imported) == ["Transpose"]


def test_float16_and_pixels_with_the_channels_last(tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], ["f"], to=HALF), node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]), conv("t")]
    taken: Value = ("x", UINT8, ["n", 8, 8, 3])
    made: Value = ("c", HALF, ["n", 4, 8, 8])
    path = save(tmp_path / "net.onnx", nodes, [made], {"w": WEIGHT.astype(np.float16)}, [taken])
    imported = load(path)
    assert import_parity(path, imported.network, imported.ends)["c"] > 55  # what float16 allows
    assert [n.op_type for n in imported.ends.head] == tail(imported) == ["Cast"]
    drop_in = with_ends(to_onnx(imported.network), imported.ends)
    assert described(drop_in.graph.input) == [taken]
    assert described(drop_in.graph.output) == [made]
    assert imported.notes == ("inputs are converted to float first: x",)


def boxes() -> list[NodeProto]:
    """The values of a map as boxes, the highest ones of which are kept."""
    nodes = [conv(), reshape("c", "b", "boxes"), node("Transpose", ["b"], ["t"], perm=[0, 2, 1])]
    nodes += [node("ReduceMax", ["b"], ["s"], axes=[1]), node("NonMaxSuppression", ["t", "s", "most", "iou"], ["kept"])]
    return nodes


AGAIN = helper.make_graph(
    [node("Identity", ["c"], ["o"])], "then", [], [helper.make_tensor_value_info("o", FLOAT, None)]
)
OTHER = helper.make_graph([node("Neg", ["c"], ["p"])], "else", [], [helper.make_tensor_value_info("p", FLOAT, None)])
FIRST = {"i": np.array([0])}
TAILS: dict[str, tuple[list[NodeProto], list[Value], Constants, list[str]]] = {
    "positions": (
        [conv(), node("ArgMax", ["c"], ["y"], axis=1)], [("y", INT64, [1, 1, 8, 8])], {}, ["Identity", "ArgMax"],
    ),
    "no batch": (
        [conv(), node("Squeeze", ["c", "i"], ["y"])], [("y", FLOAT, [4, 8, 8])], FIRST, ["Identity", "Squeeze"],
    ),
    "merged batch": (
        [conv(), reshape("c", "y", "i")], [("y", FLOAT, [64, 4])], {"i": np.array([64, 4])}, ["Constant", "Reshape"],
    ),
    "boxes": (
        boxes(), [("kept", INT64, ["k", 3]), ("t", FLOAT, [1, 64, 4])],
        {"boxes": np.array([1, 4, 64]), "most": np.array([5]), "iou": np.array([0.5], np.float32)},
        ["Identity", "Identity", "NonMaxSuppression"],
    ),
    "control flow": (
        [conv(), node("ReduceMean", ["c"], ["m"], keepdims=0), node("Greater", ["m", "z"], ["g"]),
         node("If", ["g"], ["y"], then_branch=AGAIN, else_branch=OTHER)],
        [("y", FLOAT, [1, 4, 8, 8])], {"z": np.array(0, np.float32)}, ["Identity", "ReduceMean", "Greater", "If"],
    ),
    "names of the export": (
        [conv("x", "5"), node("Relu", ["5"], ["0"]), node("Squeeze", ["0", "i"], ["1"])],
        [("0", FLOAT, [1, 4, 8, 8]), ("1", FLOAT, [4, 8, 8])], FIRST, ["Identity", "Squeeze"],
    ),
    "inputs that are left out": (
        [conv(), node("Clip", ["c", "", "top"], ["d"]), node("Squeeze", ["d", "i"], ["s"]),
         node("Clip", ["s", "", "top"], ["y"])],
        [("y", FLOAT, [4, 8, 8])], {"i": np.array([0]), "top": np.array(1, np.float32)},
        ["Identity", "Squeeze", "Clip"],
    ),
    "over the batch": (
        [conv(), node("Softmax", ["c"], ["y"], axis=0)], [("y", FLOAT, [1, 4, 8, 8])], {}, ["Identity", "Softmax"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_what_stands_behind_the_layers_stays_as_it_is(tmp_path: Path, name: str) -> None:
    nodes, outputs, constants, wanted = TAILS[name]
    imported = loaded(tmp_path, nodes, outputs, constants, inputs=[("x", FLOAT, [1, 3, 8, 8])])
    assert tail(imported) == wanted
    drop_in = with_ends(to_onnx(imported.network), imported.ends)
    assert described(drop_in.graph.input) == [("x", FLOAT, [1, 3, 8, 8])]
    assert [d[:2] for d in described(drop_in.graph.output)] == [d[:2] for d in outputs]


@pytest.mark.parametrize("opset", [11, 20])
def test_a_tail_is_converted_to_the_operators_of_the_export(tmp_path: Path, opset: int) -> None:
    squeeze = node("Squeeze", ["c"], ["y"], axes=[0]) if opset < 13 else node("Squeeze", ["c", "i"], ["y"])
    imported = loaded(tmp_path, [conv(), squeeze], [("y", FLOAT, [4, 8, 8])], {"i": np.array([0])}, opset=opset)
    assert tail(imported) == ["Identity", "Squeeze"]


def test_an_output_that_is_a_constant_and_one_that_is_the_input(tmp_path: Path) -> None:
    nodes = [conv(), node("Identity", ["k"], ["grid"]), node("Identity", ["x"], ["image"])]
    outputs: list[Value] = [("c", FLOAT, ["n", 4, 8, 8]), ("grid", FLOAT, [2]), ("image", FLOAT, ["n", 3, 8, 8])]
    imported = loaded(tmp_path, nodes, outputs, {"k": np.ones(2, np.float32)})
    assert imported.network.graph.outputs[0].name == "c"


def test_several_inputs(tmp_path: Path) -> None:
    nodes = [conv("b", "d"), conv("a", "c"), node("Concat", ["d", "c"], ["y"], axis=1)]
    inputs: list[Value] = [("b", FLOAT, ["n", 3, 8, 8]), ("a", FLOAT, ["n", 3, 8, 8])]
    imported = loaded(tmp_path, nodes, [("y", FLOAT, ["n", 8, 8, 8])], inputs=inputs)
    assert [one.name for one in imported.network.graph.inputs] == ["b", "a"]


def test_open_sizes_are_given(tmp_path: Path) -> None:
    path = save(
        tmp_path / "net.onnx", [conv()], [("c", FLOAT, ["n", 4, "h", "w"])], {}, [("x", FLOAT, ["n", 3, "h", "w"])]
    )
    imported = load(path, {"x": (3, 6, 10)})
    drop_in = with_ends(to_onnx(imported.network), imported.ends)
    assert described(drop_in.graph.input) == [("x", FLOAT, ["n", 3, 6, 10])]
    assert described(drop_in.graph.output) == [("c", FLOAT, ["n", 4, 6, 10])]
    session = onnxruntime.InferenceSession(drop_in.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros((5, 3, 6, 10), np.float32)})[0].shape == (5, 4, 6, 10)


def test_tasks_by_the_names_of_the_file(tmp_path: Path) -> None:
    nodes = [conv(), node("GlobalAveragePool", ["c"], ["p"]), node("Flatten", ["p"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, [("y", FLOAT, ["n", 4])], {})
    assert load(path, tasks={"y": "regression"}).network.graph.outputs[0].task == "regression"
    with pytest.raises(UnsupportedError, match=r"tasks: no output z; expected one of y$"):
        load(path, tasks={"z": "regression"})


def test_parity_tells_of_a_difference(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [conv()], [("c", FLOAT, ["n", 4, 8, 8])], {})
    imported = load(path)
    other = save(tmp_path / "other.onnx", [conv()], [("c", FLOAT, ["n", 4, 8, 8])], {"w": WEIGHT * np.float32(1.01)})
    assert import_parity(path, imported.network, imported.ends)["c"] > 120
    assert 39 < import_parity(other, imported.network, imported.ends)["c"] < 41


def test_weights_in_constant_nodes_and_beside_the_file(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(WEIGHT)
    nodes = [node("Constant", [], ["k"], value=value), node("Conv", ["x", "k"], ["c"], name="first", pads=[1] * 4)]
    imported = loaded(tmp_path, nodes, [("c", FLOAT, ["n", 4, 8, 8])])
    model = onnx.load(tmp_path / "net.onnx")
    onnx.save(
        model,
        tmp_path / "big.onnx",
        save_as_external_data=True,
        location="big.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    again = load(tmp_path / "big.onnx")
    assert again.sha256 != imported.sha256
    assert torch.equal(again.network.weight_and_bias("first")[0], imported.network.weight_and_bias("first")[0])


def test_old_files_list_weights_among_the_inputs(tmp_path: Path) -> None:
    path = save(
        tmp_path / "net.onnx", [conv()], [("c", FLOAT, ["n", 4, 8, 8])], {}, [IMAGE, ("w", FLOAT, [4, 3, 3, 3])]
    )
    imported = load(path)
    assert [one.name for one in imported.network.graph.inputs] == ["x"]
    assert import_parity(path, imported.network, imported.ends)["c"] > 120


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """ONNX wants them sorted, and runtimes sort them."""
    nodes = [node("Relu", ["c"], ["y"]), helper.make_node("Conv", ["x", "w"], ["c"], name="conv")]
    weight = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in (("x", [1, 3, 8, 8]), ("y", None))]
    path = tmp_path / "net.onnx"

    def write() -> None:
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weight])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)

    write()
    assert [one.op for one in load(path).network.graph.nodes] == ["conv2d", "relu"]
    nodes[1].input[0] = "nowhere"
    write()
    with pytest.raises(
        ArtifactError, match=r"net.onnx: node conv reads nowhere, which nothing makes; expected a whole"
    ):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"net.onnx: expected an ONNX file with operators, found none$"):
        load(path)


def test_what_a_file_says_of_itself_is_kept(tmp_path: Path) -> None:
    """Applications read the names of classes from it."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    weight = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in (("x", [1, 3, 8, 8]), ("y", None))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": "cat\ndog"})
    onnx.save(model, path := tmp_path / "net.onnx")
    imported = load(path)
    made = with_ends(to_onnx(imported.network), imported.ends)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    assert session.get_modelmeta().custom_metadata_map == {"names": "cat\ndog"}
