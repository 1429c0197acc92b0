from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import float_network, images, quantized
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeq.errors import ArtifactError
from edgeq.ir.network import Network
from edgeq.packed.file import load_packed, save_packed
from edgeq.packed.modules import PackedConv2d
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan

Content = tuple[dict[str, Any], dict[str, Tensor]]
"""Head and tensors of a packed file."""


def ops(network: Network) -> list[str]:
    return [node.op for node in network.graph.nodes]


@pytest.mark.parametrize(("scheme", "per_byte"), [("8bit", 1), ("4bit", 2), ("3bit", 3), ("2bit", 4), ("1.6bit", 5)])
def test_packed_layers_hold_bytes_and_no_float_weights(scheme: str, per_byte: int) -> None:
    network = quantized("ragged", scheme).packed
    layers = [network.layer(node.name) for node in network.graph.layers]
    sizes = []
    for layer in layers:
        assert isinstance(layer, PackedConv2d)
        state = layer.state_dict()
        assert {name: value.dtype for name, value in state.items()} == {
            "packed": torch.uint8, "scale": torch.float32, "bias": torch.float32,
        }  # fmt: skip
        assert state["scale"].shape == state["bias"].shape == (layer.shape[0],)
        sizes.append(state["packed"].numel())
    # Outputs that do not fill their last row of bytes, by inputs.
    assert sizes == [-(-out // per_byte) * fan_in for out, fan_in in ((5, 27), (9, 5), (9, 27), (5, 9))]
    assert not list(network.parameters())


@pytest.mark.parametrize(("name", "shape", "geometry"), [("conv", (3, 16, 16), (4, 1)), ("hidden", (64, 1, 1), ())])
def test_packed_layer_computes_with_the_quantized_weights(
    name: str, shape: tuple[int, ...], geometry: tuple[int, ...]
) -> None:
    found = quantized("flat", "4bit")
    x = torch.from_numpy(images(2, shape=shape))
    weight, bias = (torch.from_numpy(v) for v in (found.layers[name].weight.dequantize(), found.layers[name].bias))
    weight = weight.contiguous(memory_format=torch.channels_last)  # else PyTorch may add up in another order
    assert torch.equal(found.packed.layer(name)(x), nn.functional.conv2d(x, weight, bias, *geometry))


def test_quantizers_stand_where_values_are_stored_and_absorb_activations() -> None:
    assert ops(quantized("residual", "8bit").packed) == [
        "quantize", "conv2d", "quantize",  # stem: the quantizer does the ReLU6
        "conv2d", "quantize", "conv2d", "quantize", "conv2d", "quantize", "add", "quantize", "conv2d", "quantize",
        "global_avg_pool", "quantize", "conv2d", "quantize", "flatten",
    ]  # fmt: skip


def test_an_average_that_is_the_answer_stays_float() -> None:
    """In uint8 close classes would tie; a map that is averaged for a layer is quantized, as above."""
    assert ops(quantized("fire", "8bit").packed)[-4:] == ["conv2d", "quantize", "global_avg_pool", "flatten"]


def test_float_activations_have_no_quantizers() -> None:
    found = quantized("residual", "4bit", 32)
    assert ops(found.packed) == ops(found.network)


def test_values_that_share_a_scale() -> None:
    found = quantized("fire", "8bit")
    quantizers = {node.name: node.attrs for node in found.packed.graph.nodes if node.op == "quantize"}
    (cat,) = (node for node in found.packed.graph.nodes if node.op == "cat")
    assert len({json.dumps(quantizers[name]) for name in (*cat.inputs, f"{cat.name}.q")}) == 1
    (pool,) = (node for node in found.packed.graph.nodes if node.op == "max_pool2d")
    assert quantizers[pool.inputs[0]] == quantizers[f"{pool.name}.q"]


def test_record_without_a_range() -> None:
    found = quantized("residual", "8bit")
    ranges = {name: value for name, value in found.record.activations.items() if name != "add"}
    record = replace(found.record, activations=ranges)
    with pytest.raises(ArtifactError, match=r"^the record has no range for add; calibrate this network again$"):
        pack(found.network, found.layers, record, found.plan)


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("scheme", ["adaptive", "3bit"])
@pytest.mark.parametrize("name", ["residual", "fire", "ragged", "flat"])
def test_save_and_load(name: str, scheme: str, act_bits: int, tmp_path: Path) -> None:
    network = quantized(name, scheme, act_bits).packed
    first, second = tmp_path / "first", tmp_path / "second"
    save_packed(network, first)
    loaded = load_packed(first)
    save_packed(loaded, second)
    assert second.read_bytes() == first.read_bytes()
    x = torch.from_numpy(images(4, 3))
    assert torch.equal(loaded(x), network(x))
    assert loaded.graph == network.graph


def test_save_and_load_a_float_network(tmp_path: Path) -> None:
    network = float_network("residual")
    found = plan(quantized("residual", "8bit").record, "fp32")
    assert found.act_bits == 32
    save_packed(network, tmp_path / "file")
    x = torch.from_numpy(images(4, 3))
    torch.testing.assert_close(load_packed(tmp_path / "file")(x), network(x), rtol=0, atol=1e-6)


def test_the_file_as_documented(tmp_path: Path) -> None:
    save_packed(quantized("flat", "2bit").packed, tmp_path / "file")
    head, tensors = read(tmp_path / "file")
    assert (head["format"], head["version"]) == ("edgeq-packed", 6)
    assert head["layers"]["last"] == {"bits": 2, "shape": [5, 10, 1, 1]}
    assert set(tensors) == {f"{a}.{b}" for a in ("conv", "hidden", "last") for b in ("packed", "scale", "bias")}
    assert tensors["last.packed"].shape == (2, 10)  # five outputs, four to a byte
    assert tensors["hidden.packed"].shape == (3, 64)
    assert {tensors[f"last.{key}"].dtype for key in ("scale", "bias")} == {torch.float16}


def test_what_float16_cannot_hold_is_kept_in_float32(tmp_path: Path) -> None:
    network = copy.deepcopy(quantized("flat", "2bit").packed)
    layer = network.layer("last")
    layer.get_buffer("bias")[0] = 70000.0
    layer.get_buffer("scale")[0] = 0.1
    save_packed(network, tmp_path / "file")
    stored = read(tmp_path / "file")[1]
    assert {name for name, value in stored.items() if value.dtype == torch.float32} == {"last.bias", "last.scale"}
    state = load_packed(tmp_path / "file").layer("last").state_dict()
    for name, value in layer.state_dict().items():
        assert torch.equal(state[name], value)


def read(path: Path) -> Content:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return json.loads(file.metadata()["edgeq"]), tensors


def change(**tensors: Tensor) -> Callable[[Content], None]:
    return lambda content: content[1].update({name.replace("__", "."): value for name, value in tensors.items()})


def drop(name: str) -> Callable[[Content], None]:
    return lambda content: content[1].__delitem__(name)


def head(**entries: Any) -> Callable[[Content], None]:
    return lambda content: content[0].update(entries)


def attribute(name: str, key: str, value: object) -> Callable[[Content], None]:
    """Change one attribute of one node of the graph."""

    def damage(content: Content) -> None:
        (node,) = (n for n in content[0]["graph"]["nodes"] if n["name"] == name)
        node[key] = value

    return damage


def in_float(operator: str, **arguments: object) -> Callable[[Content], None]:
    """Make an operator in float of the network's flatten."""

    def damage(content: Content) -> None:
        (node,) = (n for n in content[0]["graph"]["nodes"] if n["op"] == "flatten")
        node.update(op="float", operator=operator, reads=["self"], arguments=arguments, tensors=[])

    return damage


NAN = torch.full((5,), float("nan"))
DAMAGES: dict[str, tuple[Callable[[Content], None], str]] = {
    "missing tensor": (drop("last.scale"), "KeyError: 'last.scale'"),
    "extra tensor": (change(more=torch.zeros(1)), "tensor more belongs to no layer"),
    "wrong type": (
        change(last__packed=torch.zeros(2, 10, dtype=torch.int8)),
        r"tensor last.packed: expected torch.uint8 \(2, 10\), found torch.int8 \(2, 10\)",
    ),
    "too few bytes": (
        change(last__packed=torch.zeros(1, 10, dtype=torch.uint8)),
        r"tensor last.packed: expected torch.uint8 \(2, 10\), found torch.uint8 \(1, 10\)",
    ),
    "bytes in one row": (
        change(last__packed=torch.zeros(20, dtype=torch.uint8)),
        r"tensor last.packed: expected torch.uint8 \(2, 10\), found torch.uint8 \(20,\)",
    ),
    "bytes of another width": (
        lambda content: content[0]["layers"]["last"].update(bits=4),
        r"tensor last.packed: expected torch.uint8 \(3, 10\), found torch.uint8 \(2, 10\)",
    ),
    "wrong shape": (change(last__bias=torch.zeros(4)), r"tensor last.bias: expected torch.float32 \(5,\), found .*4,"),
    "NaN scale": (change(last__scale=NAN), "tensor last.scale: NaN or infinite values"),
    "infinite bias": (change(last__bias=NAN.nan_to_num(float("inf"))), "tensor last.bias: NaN or infinite values"),
    "NaN in a quantizer": (attribute("input.q", "scale", float("nan")), "node input.q: scale nan or zero point"),
    "zero point": (attribute("input.q", "zero_point", 256), "node input.q: scale .* or zero point 256 is out of"),
    "unknown op": (attribute("conv", "op", "softmax"), "node conv: unknown op softmax"),
    "geometry that does not fit": (attribute("conv", "groups", 2), "RuntimeError: .*"),
    "output that does not fit": (
        attribute("last.q", "shape", [7, 1, 1]), r"expected an output \[7, 1, 1\], its layers make \[5, 1, 1\]"
    ),
    "width": (
        lambda content: content[0]["layers"]["last"].update(bits=5),
        "expected a width of 8, 4, 3, 2, 1.6, 1.33 or 1 bits, found 5",
    ),
    "double precision": (
        change(last__scale=torch.ones(5, dtype=torch.float64)),
        r"tensor last.scale: expected torch.float32 \(5,\), found torch.float64 \(5,\)",
    ),
    "NaN in half precision": (change(last__bias=NAN.half()), "tensor last.bias: NaN or infinite values"),
    "no layers": (lambda content: content[0].__delitem__("layers"), "its layers is missing or no dict"),
    "a name of two lines": (attribute("conv", "name", "a\nb"), "name is missing or no line of text"),
    "a shape of fractions": (attribute("conv", "shape", [4.0, 4, 4]), r"shape\[0\] is missing or no count"),
    "a node within that does not fit": (
        attribute("conv", "shape", [4, 4, 5]), r"node conv: expected an output \[4, 4, 5\], its layers make \[4, 4, 4\]"
    ),
    "values beyond memory": (
        lambda content: content[0]["graph"]["inputs"][0].update(shape=[3, 2**20, 2**20]),
        r"node input.q: expected an output \[3, 16, 16\], its layers make \[3, 1048576, 1048576\]",
    ),
    "another operator": (in_float("load.default"), "operator load.default is none of those that edgeq computes in fl"),
    "another overload": (in_float("abs.out"), "operator abs.out is none of those that edgeq computes in float"),
    "another argument": (in_float("abs.default", out=1), "operator abs.default has no argument out; expected self"),
    "an argument of another type": (in_float("softmax.int", dim="a"), "RuntimeError|TypeError"),
    "an argument beyond memory": (in_float("pad.default", pad=[2**40, 0]), "expected an output|RuntimeError"),
    "an operator that does not fit": (
        in_float("abs.default"), r"expected an output \[5\], its layers make \[5, 1, 1\]"
    ),
    "a stride beyond 64 bits": (attribute("conv", "stride", [10**30, 1]), "RuntimeError|TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged(case: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[case]
    path = tmp_path / "file.safetensors"
    save_packed(quantized("flat", "2bit").packed, path)
    content = read(path)
    damage(content)
    save_file(content[1], path, metadata={"edgeq": json.dumps(content[0])})
    with pytest.raises(
        ArtifactError, match=rf"file.safetensors: a damaged packed network \(.*{message}.*; export"
    ) as caught:
        load_packed(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"version": 2}, "expected version 6, found 2; export it again"),
        ({"format": "edgeq-record"}, "expected a packed network, found a safetensors file of something else"),
    ],
    ids=["version", "format"],
)
def test_wrong_head(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_packed(quantized("flat", "2bit").packed, tmp_path / "file")
    content = read(tmp_path / "file")
    head(**entries)(content)
    save_file(content[1], tmp_path / "file", metadata={"edgeq": json.dumps(content[0])})
    with pytest.raises(ArtifactError, match=f"file: {message}$"):
        load_packed(tmp_path / "file")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ArtifactError, match=r"file: no such file$"):
        load_packed(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match=r"found a safetensors file of something else$"):
        load_packed(path)
    path.write_text("no tensors at all")
    with pytest.raises(ArtifactError, match=r"file: expected a packed network \(safetensors\), found .+$"):
        load_packed(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated(share: float, tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_packed(quantized("flat", "2bit").packed, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match=r"file: expected a packed network \(safetensors\), found .+$"):
        load_packed(path)
