from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from nets import MODULES, SHAPE, float_network, images, laid_out, merged, output_step, quantized, randomized
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from edgeq.calibration.calibrate import calibrate
from edgeq.exporters import parity
from edgeq.exporters.onnx.merged_groups import MergedGroups, with_merged_groups
from edgeq.exporters.onnx.model import to_onnx, translate
from edgeq.exporters.onnx.space_to_depth import SpaceToDepthConv2d, over_pixel_groups
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network
from edgeq.numerics.trellis import sequences
from edgeq.numerics.weights import BitWidth, packed_bytes
from edgeq.packed.file import load_packed, save_packed
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.quantization.quantize import quantize
from edgeq.runtimes.onnxruntime import EXACT, onnx_runner, session_of

SCHEMES = ("8bit", "4bit", "3bit", "2bit", "1.6bit", "adaptive")
PACKED = (("4bit", 4), ("3bit", 3), ("2bit", 2), ("1.6bit", 1.6), ("1bit", 1))
every_network = pytest.mark.parametrize("name", MODULES)


@cache
def model_of(name: str, scheme: str, act_bits: int = 8) -> onnx.ModelProto:
    return to_onnx(quantized(name, scheme, act_bits).packed)


def initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def weight_source(model: onnx.ModelProto, layer: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that make a layer's weight, from the initializer on."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    chain: list[onnx.NodeProto] = []
    name = layer.input[1]
    while name in made_by:
        node = made_by[name]
        chain.insert(0, node)
        name = node.input[1 if node.op_type == "MatMulInteger" or node.input[0].startswith("decoder") else 0]
    return chain


FOR_GROUPS = ["Pad", "Gather", "Transpose", "Reshape"]
"""What lays the weights of a first convolution out for groups of pixels, before DequantizeLinear."""

MERGING = ["Reshape", "Cast", "Mul", "Cast", "Reshape"]
"""What puts zeros between the weights of groups that are one in the file."""


def in_groups(network: Network) -> dict[str, SpaceToDepthConv2d | MergedGroups]:
    """The convolutions that a file lets read groups of pixels, or has in fewer groups, by name."""
    lowered = with_merged_groups(over_pixel_groups(network))
    layers = {node.name: lowered.layer(node.name) for node in lowered.graph.layers}
    return {name: layer for name, layer in layers.items() if isinstance(layer, SpaceToDepthConv2d | MergedGroups)}


def constants_for_groups(network: Network) -> dict[str, int]:
    """The constants of these nodes, and the bytes of each: taps and identities in int32, the others are int64."""
    found: dict[str, int] = {}
    for name, layer in in_groups(network).items():
        if isinstance(layer, SpaceToDepthConv2d):
            found |= {f"{name}.ends": 64, f"{name}.groups": 32, f"{name}.taps": layer.groups.taps.size * 4}
        else:
            found |= {f"{name}.apart": 40, f"{name}.merged": 32, f"own{layer.count}": 4 * layer.count**2}
    return found


def layer_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]


def tensor_bytes(tensor: TensorProto) -> int:
    return numpy_helper.to_array(tensor).nbytes


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize(("scheme", "bits"), PACKED)
@every_network
def test_the_bytes_in_the_file_are_the_packed_bytes(name: str, scheme: str, bits: float, act_bits: int) -> None:
    found, model = quantized(name, scheme, act_bits), model_of(name, scheme, act_bits)
    stored, width = initializers(model), BitWidth(bits)
    for node, layer in zip(found.network.graph.layers, layer_nodes(model), strict=True):
        weight = found.layers[node.name].weight
        first = weight_source(model, layer)[0]
        packed = stored[first.input[1]]
        assert packed.data_type == TensorProto.UINT8
        assert packed.raw_data == weight.data.tobytes()
        assert list(packed.dims) == [*sequences(-(-weight.shape[0] // width.per_byte)), prod(weight.shape[1:])]
    # Nothing else in the file is as large as a weight but the one table.
    limit = 4 * max(layer.weight.shape[0] for layer in found.layers.values())
    large = [t.name for t in stored.values() if len(t.raw_data) > limit and t.data_type != TensorProto.UINT8]
    assert [name for name in large if name not in constants_for_groups(found.packed)] == [f"trellis{bits}"]
    table = numpy_helper.to_array(stored[f"trellis{bits}"])
    assert table.dtype == np.int8
    np.testing.assert_array_equal(table, width.trellis.table)


@pytest.mark.parametrize(("scheme", "bits"), [("8bit", 8), *PACKED])
@every_network
def test_a_layer_takes_its_packed_bytes_and_four_a_channel(name: str, scheme: str, bits: float) -> None:
    """Apart from what says how to decode, a few int64 numbers, and the table and the matrices that layers share."""
    others = ".q.", ".reshape."  # constants of other nodes of the module
    found, stored = quantized(name, scheme), initializers(model_of(name, scheme))
    for layer, quant in found.layers.items():
        own = {key: t for key, t in stored.items() if key.startswith(f"{layer}.")}
        own = {key: t for key, t in own.items() if not any(part in key for part in others)}
        laying = {key: own.pop(key) for key in constants_for_groups(found.packed).keys() & own.keys()}
        assert all(tensor_bytes(t) == constants_for_groups(found.packed)[key] for key, t in laying.items())
        sizes = {key: tensor_bytes(t) for key, t in own.items() if t.data_type != TensorProto.INT64}
        assert sum(sizes.values()) == packed_bytes(quant.weight.shape, BitWidth(bits)) + 4 * quant.weight.shape[0]
        assert sum(map(tensor_bytes, own.values())) - sum(sizes.values()) <= 8 * (4 + 2)


@pytest.mark.parametrize(
    ("scheme", "tables"),
    [("8bit", []), ("4bit", ["trellis4"]), ("3bit", ["trellis3"]), ("1.33bit", ["trellis1.33"])],
)
def test_one_table_for_each_width(scheme: str, tables: list[str]) -> None:
    names = [t.name for t in model_of("residual", scheme).graph.initializer]
    assert [name for name in names if "trellis" in name] == tables


@every_network
def test_8_bit_layers_are_plain_int8(name: str) -> None:
    found, model = quantized(name, "8bit"), model_of(name, "8bit")
    stored = initializers(model)
    for i, (node, layer) in enumerate(zip(found.network.graph.layers, layer_nodes(model), strict=True)):
        source = weight_source(model, layer)
        merging = MERGING if isinstance(in_groups(found.packed).get(node.name), MergedGroups) else []
        assert [n.op_type for n in source] == [*([] if i else FOR_GROUPS), *merging, "DequantizeLinear"]
        assert stored[source[0].input[0]].data_type == TensorProto.INT8
        levels = numpy_helper.to_array(stored[source[0].input[0]])
        np.testing.assert_array_equal(levels, found.layers[node.name].weight.levels())


@pytest.mark.parametrize(("act_bits", "last"), [(8, ["DequantizeLinear"]), (32, ["Cast", "Mul"])])
def test_decode_pattern(act_bits: int, last: list[str]) -> None:
    """Slice only where outputs do not fill the last row of bytes: 9 leave one over, 16 none."""
    ragged, even = model_of("ragged", "4bit", act_bits), model_of("residual", "4bit", act_bits)
    assert [n.op_type for n in weight_source(ragged, layer_nodes(ragged)[1])] == [
        "MatMulInteger", "Gather", "Transpose", "Reshape", "Slice", *last,
    ]  # fmt: skip
    assert [n.op_type for n in weight_source(even, layer_nodes(even)[1])] == [
        "MatMulInteger", "Gather", "Transpose", "Reshape", *last,
    ]  # fmt: skip


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("scheme", SCHEMES)
@every_network
def test_scales_and_biases_take_two_bytes_a_channel(name: str, scheme: str, act_bits: int) -> None:
    stored = initializers(model_of(name, scheme, act_bits))
    for layer, quant in quantized(name, scheme, act_bits).layers.items():
        for key, values in (("scale", quant.weight.scale), ("bias", quant.bias)):
            tensor = stored[f"{layer}.{key}"]
            assert tensor.data_type == TensorProto.FLOAT16
            assert len(tensor.raw_data) == 2 * len(values)
            np.testing.assert_array_equal(numpy_helper.to_array(tensor).reshape(-1), values)


@pytest.mark.parametrize("act_bits", [8, 32])
def test_what_float16_cannot_hold_is_stored_in_float32(act_bits: int, tmp_path: Path) -> None:
    """In one layer a bias that is too large, in another a scale that would be rounded."""
    found = quantized("residual", "4bit", act_bits)
    network = copy.deepcopy(found.packed)
    bias, scale = network.layer("head.0").get_buffer("bias"), network.layer("stem.0").get_buffer("scale")
    bias[0], scale[0] = -70000.0, 0.1
    model = to_onnx(network)
    floats = {n: t for n, t in initializers(model).items() if n.endswith((".bias", ".scale")) and ".q." not in n}
    wide = {name for name, tensor in floats.items() if tensor.data_type == TensorProto.FLOAT}
    assert wide == {"head.0.bias", "stem.0.scale"}
    assert numpy_helper.to_array(floats["head.0.bias"])[0] == -70000
    assert not wide & {name for node in model.graph.node if node.op_type == "Cast" for name in node.input}
    x = images(3, 3)
    step = output_step(found.record)
    run = onnx_runner(saved(model, tmp_path / "m.onnx"), optimize=False)
    assert np.abs(run(x) - network(torch.from_numpy(x)).numpy()).max() <= 1.001 * step


@pytest.mark.parametrize("scheme", SCHEMES)
@every_network
def test_all_scales_are_positive(name: str, scheme: str) -> None:
    stored = initializers(model_of(name, scheme))
    for layer in quantized(name, scheme).layers:
        assert (numpy_helper.to_array(stored[f"{layer}.scale"]) > 0).all()


def test_interface() -> None:
    model = model_of("residual", "4bit")
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert [(i.name, o.name) for i, o in zip(model.graph.input, model.graph.output, strict=True)] == [
        ("image", "logits")
    ]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 6
    assert b"edgeq" in model.SerializeToString()[:4096]


def of_constants(model: onnx.ModelProto) -> set[str]:
    """The names of all values that depend on no image."""
    found = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if found.issuperset(node.input):
            found.update(node.output)
    return found


def test_known_nodes_at_the_start_of_a_file() -> None:
    """Up to the second layer, without what decodes weights; what a pass adds is named by the number of its node."""
    model = model_of("residual", "8bit")
    fixed = of_constants(model)
    nodes = [node for node in model.graph.node if node.output[0] not in fixed]
    assert [(node.op_type, node.output[0], node.name) for node in nodes[:12]] == [
        ("QuantizeLinear", "0", ""),
        ("DequantizeLinear", "1", ""),
        ("Transpose", "2", ""),
        ("Reshape", "3", ""),
        ("Transpose", "input.q.out", ""),
        ("Conv", "stem.0.out", "stem.0"),
        ("QuantizeLinear", "15", ""),
        ("DequantizeLinear", "16", ""),
        ("Transpose", "17", ""),
        ("Reshape", "18", ""),
        ("Transpose", "stem.2.clip.q.out", ""),
        ("Conv", "block.0.out", "block.0"),
    ]


@pytest.mark.parametrize("act_bits", [8, 32])
@every_network
def test_every_value_of_the_translated_network_is_in_the_file(name: str, act_bits: int) -> None:
    made = translate(quantized(name, "4bit", act_bits).packed)
    assert made.names.keys() == made.network.graph.shapes().keys()
    written = [output for node in made.model.graph.node for output in node.output]
    assert len(set(made.names.values())) == len(made.names)
    assert {*made.names.values()} <= {"image", *written}


def test_a_gelu_is_one_operator_of_a_later_opset() -> None:
    """In parts, each of which read an own copy of its input, runtimes would not put it together again."""
    model = to_onnx(trace(randomized(Moving()), SHAPE))
    assert (model.opset_import[0].version, model.ir_version) == (20, 9)
    assert [node.op_type for node in model.graph.node].count("Gelu") == 1


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    return path


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("scheme", SCHEMES)
@every_network
def test_parity_with_onnx_runtime(name: str, scheme: str, act_bits: int, tmp_path: Path) -> None:
    found = quantized(name, scheme, act_bits)
    run = onnx_runner(saved(model_of(name, scheme, act_bits), tmp_path / "m.onnx"), optimize=False)
    step = output_step(found.record)
    tolerance = 1.001 * step if act_bits == 8 else 1e-3 * step
    for count in (1, 3, 16):
        x = images(count, 3)
        with torch.inference_mode():
            expected = found.packed(torch.from_numpy(x)).numpy()
        assert np.abs(run(x) - expected).max() <= tolerance


@every_network
def test_float_network(name: str, tmp_path: Path) -> None:
    network = float_network(name)
    x = images(3, 3)
    found = onnx_runner(saved(to_onnx(network), tmp_path / "m.onnx"))(x)
    np.testing.assert_allclose(found, network(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-4)


def read_weights(model: onnx.ModelProto, level: ort.GraphOptimizationLevel) -> dict[str, NDArray[np.float32]]:
    """The weights that ONNX Runtime decodes, by the names of the layers."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    weights = {layer.name: layer.input[1] for layer in layer_nodes(model)}
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in weights.values()
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(weights, session.run(list(weights.values()), {"image": images(1)}), strict=True))


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "optimized"])
@pytest.mark.parametrize("scheme", SCHEMES)
@every_network
def test_a_runtime_decodes_every_weight_exactly(name: str, scheme: str, optimize: bool, act_bits: int) -> None:
    """Also of 5, 6 and 9 outputs, which leave places in the last row of bytes, and of grouped convolutions."""
    levels = ort.GraphOptimizationLevel
    level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    decoded = read_weights(model_of(name, scheme, act_bits), level)
    found = quantized(name, scheme, act_bits)
    assert set(decoded) == set(found.layers)
    for layer, weight in decoded.items():
        np.testing.assert_array_equal(weight, in_file(found.packed, layer, found.layers[layer].weight.dequantize()))


def in_file(network: Network, layer: str, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A weight as the file's Conv has it: laid out for groups of pixels, or with groups merged."""
    found = in_groups(network).get(layer)
    if isinstance(found, MergedGroups):
        return merged(weight, found.layer.geometry[-1], found.count)
    return laid_out(weight, found.groups) if found else weight


@pytest.mark.parametrize("act_bits", [8, 32])
def test_one_decoder_serves_layers_of_mixed_widths(act_bits: int) -> None:
    """Two layers at 4 and two at 2 bits: two tables, of each of which a decoder is made that is looked up twice."""
    found = quantized("ragged", "4bit", act_bits)
    two = quantized("ragged", "2bit", act_bits).layers
    names = list(found.layers)
    mixed = {name: (found.layers if i % 2 else two)[name] for i, name in enumerate(names)}
    model = to_onnx(pack(found.network, mixed, found.record, found.plan))
    assert sorted(name for name in initializers(model) if "trellis" in name) == ["trellis2", "trellis4"]
    tables = [node.input[0] for node in model.graph.node if node.op_type == "Gather"]
    assert [name for name in tables if "decoder" in name] == ["decoder2", "decoder4"] * 2
    assert len(tables) == 2 + 4 + (act_bits == 8)  # one for groups of pixels
    decoded = read_weights(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    for name, layer in mixed.items():
        np.testing.assert_array_equal(decoded[name], in_file(found.packed, name, layer.weight.dequantize()))


def optimized(model: onnx.ModelProto, path: Path) -> list[str]:
    """Ops of the graph that ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["residual", "fire", "ragged"])
def test_every_layer_runs_on_integer_kernels(name: str, scheme: str, tmp_path: Path) -> None:
    ops = optimized(model_of(name, scheme), tmp_path / "m.onnx")
    layers = len(quantized(name, scheme).network.graph.layers)
    assert ops.count("QLinearConv") == layers
    assert not {"Conv", "FusedConv", "Gather", "Cast", "Slice", "Pad"} & set(ops)
    assert ops.count("Transpose") == 4  # around the two views of maps as groups of pixels and as columns again
    # All that is left of Q and DQ is where floats come in and go out.
    assert ops.count("QuantizeLinear") == ops.count("DequantizeLinear") == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@every_network
def test_with_float_activations_all_decoding_folds(name: str, scheme: str, tmp_path: Path) -> None:
    ops = optimized(model_of(name, scheme, 32), tmp_path / "m.onnx")
    assert not {*ops} & {"Cast", "Gather", "DequantizeLinear", "Mul", "Slice", "Transpose"}
    assert ops.count("Reshape") == [node.op for node in float_network(name).graph.nodes].count("reshape")


class Twins(nn.Module):
    """Two layers that read the same values, as identity batch norms beside convolutions are in RepVGG."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y: Tensor = (self.one(x) + self.two(x)).mean((2, 3))
        return y


def test_layers_of_equal_weights_run_in_exact_kernels() -> None:
    """Those of ONNX Runtime fail to load where two layers share a tensor."""
    network, batches = trace(randomized(Twins()), SHAPE), [images(8, 1)]
    record = calibrate(network, batches)
    chosen = plan(record, "8bit")
    layers = quantize(network, record, chosen, batches)
    packed = pack(network, {**layers, "two": layers["one"]}, record, chosen)
    model = to_onnx(packed)
    parity._add_zero_points(model)
    (found,) = session_of(model.SerializeToString(), settings=EXACT).run(None, {"image": batches[0]})
    with torch.inference_mode():
        assert np.abs(found - packed(torch.from_numpy(batches[0])).numpy()).max() <= 1.01 * output_step(record)


class Wide(nn.Module):
    """Every op that the networks of the other tests lack, and module names that the file uses itself."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 8, 3, (2, 1), (0, 2))
        self.flat = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.clip6, self.decoder2 = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.logits = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.image(x))
        x = nn.functional.avg_pool2d(nn.functional.relu6(self.flat(x)), 2)
        x = nn.functional.silu(self.clip6(x)) * nn.functional.hardsigmoid(self.decoder2(x))
        y: Tensor = self.logits(x.sigmoid().mean([2, 3]))
        return y


class Moving(nn.Module):
    """Channels that are shuffled and put last, a map that grows on two sides and loses a column."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.logits = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.stem(nn.functional.pad(x, (0, 1, 0, 1))), 0.1)
        a, b = x.chunk(2, 1)
        x = torch.cat([a, self.left(b).tanh()], 1)[:, :, :, 1:]
        x = x.reshape(x.size(0), 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        y = nn.functional.gelu(self.mix(self.norm(self.right(x).permute(0, 2, 3, 1))))
        x = x + y.permute(0, 3, 1, 2)
        found: Tensor = self.logits(x.mean([2, 3]))
        return found


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("module", [Wide, Moving])
def test_all_ops_and_awkward_names(module: Callable[[], nn.Module], act_bits: int, tmp_path: Path) -> None:
    network, batches = trace(randomized(module()), SHAPE), [images(16, 1)]
    record = calibrate(network, batches)
    chosen = plan(record, Recipe("2bit", act_bits))
    packed = pack(network, quantize(network, record, chosen, batches), record, chosen)
    run = onnx_runner(saved(to_onnx(packed), tmp_path / "m.onnx"), optimize=False)
    step = output_step(record)
    x = images(3, 3)
    assert np.abs(run(x) - packed(torch.from_numpy(x)).numpy()).max() <= (
        1.001 * step if act_bits == 8 else 1e-3 * step
    )
    save_packed(packed, tmp_path / "packed")
    loaded = load_packed(tmp_path / "packed")
    assert loaded.graph == packed.graph
    assert torch.equal(loaded(torch.from_numpy(x)), packed(torch.from_numpy(x)))


WINDOWS: dict[float, tuple[tuple[int, int, int, int, int], ...]] = {
    4: ((16, 65536, 255, 0, 1), (1, 3584, 255, 0, 1)),
    3: ((32, 65536, 127, 0, 1), (4, 1792, 127, 0, 1), (1, 896, 127, 127, 1)),
    2: ((16, 65536, 255, 0, 2), (1, 3584, 255, 0, 2)),
    1.6: ((32, 65536, 255, 0, 2), (4, 1792, 255, 0, 2), (1, 896, 127, 510, 1)),
    1: ((16, 65536, 255, 0, 4), (1, 3584, 255, 0, 4)),
}
"""Of each step of a byte: what U is divided by, what remainders are taken by, where its table starts, its weights."""


def by_hand(packed: TensorProto, table: TensorProto, shape: list[int], bits: float) -> NDArray[np.int8]:
    """Decode packed bytes, one step at a time: row `v`, column `i` hold outputs `v K`, `v K + 1`, .. for input `i`."""
    data, levels = numpy_helper.to_array(packed), numpy_helper.to_array(table)
    sequences, length, fan_in = data.shape
    found: list[list[int]] = []
    for sequence, place in np.ndindex(sequences, length):
        columns = []
        for i in range(fan_in):
            pair = 224 * int(data[sequence, place - 1, i]) + int(data[sequence, place, i])
            columns.append([
                int(levels[pair // divisor % modulus % entries + start + entries * number])
                for divisor, modulus, entries, start, weights in WINDOWS[bits]
                for number in range(weights)
            ])  # fmt: skip
        found += map(list, zip(*columns, strict=True))
    return np.array(found[: shape[0]], np.int8).reshape(shape)


@pytest.mark.parametrize(("scheme", "bits"), PACKED)
@pytest.mark.parametrize("name", ["ragged", "residual"])
def test_a_file_can_be_decoded_by_hand(name: str, scheme: str, bits: float) -> None:
    found, stored = quantized(name, scheme), initializers(model_of(name, scheme))
    for node in found.network.graph.layers:
        layer, weight = found.packed.layer(node.name), found.layers[node.name].weight
        data, table = stored[f"{node.name}.packed"], stored[f"trellis{bits}"]
        np.testing.assert_array_equal(by_hand(data, table, list(weight.shape), bits), weight.levels())
        scale = numpy_helper.to_array(stored[f"{node.name}.scale"])
        np.testing.assert_array_equal(scale, layer.get_buffer("scale").numpy())
