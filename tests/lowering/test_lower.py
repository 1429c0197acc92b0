"""Whole networks in the engine: ONNX Runtime's logits bit for bit, and PyTorch's codes node by node."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from drawn import SIZE, networks, through_stages
from engine import Engine
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from nets import MODULES, SHAPE, Detector, Function, images, pixels, quantized, randomized, values
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeq
from edgeq.commands.export import reading_pixels
from edgeq.data.preprocess import Preprocess
from edgeq.errors import UnsupportedError
from edgeq.exporters.onnx.model import to_onnx
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.lowering.lower import lower
from edgeq.lowering.moves import in_memory
from edgeq.native.program import Flag, Kind, Program
from edgeq.runtimes.onnxruntime import EXACT, session_of

Array = NDArray[np.float32]
FLOAT = range(Kind.POINTWISE, max(Kind) + 1)
CODES = (
    Kind.QUANTIZE, Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.ADD, Kind.MULTIPLY, Kind.TABLE, Kind.MAX_POOL,
    Kind.AVERAGE_POOL, Kind.GLOBAL_AVERAGE,
)  # fmt: skip


def alone(network: Network, pixels: bool = False) -> Program:
    """A program whose steps are all computed one after the other."""
    with mock.patch("edgeq.lowering.builder.together"):
        return lower(network, pixels)


def in_onnx_runtime(network: Network, inputs: list[NDArray[np.generic]], pixels: bool = False) -> list[Array]:
    """What the exact kernels of ONNX Runtime make of one image."""
    session = session_of(to_onnx(network, pixels).SerializeToString(), threads=1, settings=EXACT)
    names = [one.name for one in session.get_inputs()]
    return [found[0] for found in session.run(None, {n: x[None] for n, x in zip(names, inputs, strict=True)})]


def packed(module: nn.Module, shape: object, scheme: str = "8bit") -> Network:
    """A network with random weights through all stages."""
    network = trace(randomized(module), shape)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    batch = {one.name: torch.randn(6, *one.shape, generator=generator).numpy() for one in network.graph.inputs}
    batches = [batch if len(batch) > 1 else next(iter(batch.values()))]
    record = edgeq.calibrate(network, batches, "minmax")
    plan = edgeq.plan(record, edgeq.Recipe(scheme, reduce_range=True))
    return edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)


def same_codes(network: Network, x: Array) -> int:
    """Compare every step that makes codes with PyTorch, on PyTorch's values of what it reads.

    Returns:
        How many there were.
    """
    found, compared, program = values(network, torch.from_numpy(x[None])), 0, alone(network)
    nodes = {node.name: node for node in network.graph.nodes}
    made: dict[str, Node] = {}
    for node in network.graph.nodes:
        if node.op == "quantize":
            source = node.inputs[0]
            while source in nodes and OPS[nodes[source].op].clipping:
                source = nodes[source].inputs[0]
            made |= {source: node, node.name: node}
    engine = Engine(program)
    for number, (step, name) in enumerate(zip(program.steps, program.names, strict=True)):
        engine.step(number)(x)
        if program.names.count(name) > 1 or step.kind not in CODES or step.flags & Flag.TO_FLOAT or name not in made:
            continue
        node = made[name]
        codes = in_memory(torch.round(found[node.name] / node.attrs["scale"]) + node.attrs["zero_point"])
        here = engine.arena[step.to : step.to + len(codes)]
        assert np.abs(here - codes).max() <= 1, name
        here[:] = codes
        compared += 1
    return compared


def lowered(network: Network) -> Program:
    """The program of a drawn network, if it is one that the engine takes."""
    try:
        return lower(network)
    except UnsupportedError as error:
        note(str(error))
        assume(False)
        raise


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks(), st.sampled_from(["8bit", "4bit", "2bit", "adaptive"]), st.booleans(), st.integers(0, 99))
def test_random_networks(module: nn.Module, scheme: str, odd: bool, seed: int) -> None:
    note(str(module))
    made = through_stages(module, scheme, odd, seed)
    x = images(2, seed + 2, (3, SIZE, SIZE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        edgeq.export(made.packed, path, made.record, made.plan, made.batches)
        network = edgeq.load_packed(path.with_suffix(".safetensors"))
        session = session_of(str(path), threads=1, settings=EXACT)
        expected = session.run(None, {"image": x})[0]
    program = lowered(network)
    found = np.stack([Engine(program)(one)[0] for one in x])
    if any(step.kind in FLOAT for step in program.steps):  # a last bit may become a step, which goes on
        assert same_codes(network, x[0])
    else:
        assert np.array_equal(found, expected)
    apart = Engine(alone(network))
    assert np.array_equal(found, np.stack([apart(one)[0] for one in x]))
    shared = Engine(lower(network, threads=2 + seed % 4))
    assert np.array_equal(found, np.stack([shared(one)[0] for one in x]))


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "3bit", "2bit", "1.6bit", "1.33bit", "1bit"])
@pytest.mark.parametrize("name", MODULES)
def test_small_networks(name: str, scheme: str) -> None:
    network = quantized(name, scheme).packed
    x = images(1, 7)[0]
    found, expected = Engine(lower(network))(x), in_onnx_runtime(network, [x])
    step = float(np.abs(expected[0]).max()) / 1e5 if name == "fire" else 0.0  # ends in a mean in float
    assert np.abs(found[0] - expected[0]).max() <= step
    assert same_codes(network, x)
    for threads in (2, 3, 16):
        assert np.array_equal(Engine(lower(network, threads=threads))(x)[0], found[0])


def test_several_inputs_and_outputs() -> None:
    network = packed(Detector(), Detector.shapes)
    rng = np.random.default_rng(0)
    inputs: list[NDArray[np.generic]] = [rng.normal(size=one.shape).astype(np.float32) for one in network.graph.inputs]
    for found, expected in zip(Engine(lower(network))(*inputs), in_onnx_runtime(network, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def upsampled(net: nn.Module, x: Tensor) -> Tensor:
    """Transposed, resized, padded, shuffled."""
    y = net.up(net.first(x).relu())  # type: ignore[operator]
    y = torch.cat([y, nn.functional.interpolate(x, scale_factor=2)], 1)
    y = nn.functional.pixel_unshuffle(nn.functional.pad(y, (1, 1, 0, 2)), 2)
    return net.last(y)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit"])
def test_maps_of_other_sizes(scheme: str) -> None:
    layers = {
        "first": nn.Conv2d(3, 6, 3, padding=1, groups=3), "up": nn.ConvTranspose2d(6, 5, 3, 2, 1, 1),
        "last": nn.Conv2d(32, 4, 1),
    }  # fmt: skip
    network = packed(Function(upsampled, **layers), (3, 8, 8), scheme)
    x = images(1, 3, (3, 8, 8))[0]
    assert np.array_equal(Engine(lower(network))(x)[0], in_onnx_runtime(network, [x])[0])


@pytest.mark.parametrize("grouped", [2, 3, 6])
@pytest.mark.parametrize("scheme", ["4bit", "2bit"])
def test_groups_that_share_bytes(grouped: int, scheme: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5 * grouped, 3, groups=grouped), nn.ReLU())
    network = packed(module, (3, 8, 8), scheme)
    x = images(1, 3, (3, 8, 8))[0]
    np.testing.assert_array_equal(Engine(lower(network))(x)[0], in_onnx_runtime(network, [x])[0])


@pytest.mark.parametrize("padding", [0, 1])
def test_images_in_bytes(padding: int) -> None:
    head = nn.Linear(8 * (7 + padding) ** 2, 4)
    module = randomized(nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding), nn.ReLU(), nn.Flatten(), head))
    preprocess = Preprocess(16, 16, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    record = replace(edgeq.calibrate(trace(module, SHAPE), [images(8)]), preprocess=preprocess.to_dict())
    network, record = reading_pixels(trace(module, SHAPE), record)
    batches = [pixels(8)]
    plan = edgeq.plan(record, edgeq.Recipe("8bit", reduce_range=True, input="uint8"))
    made = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    bytes_ = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    (found,) = Engine(lower(made, pixels=True))(bytes_)
    assert np.array_equal(found, in_onnx_runtime(made, [bytes_], pixels=True)[0])
    floats = np.ascontiguousarray(bytes_.transpose(2, 0, 1) / 255, np.float32)
    assert np.array_equal(found, Engine(lower(made))(floats)[0])


def test_rows_together_need_less_room() -> None:
    network = packed(MODULES["residual"](), (3, 96, 96))
    whole, rows = alone(network), lower(network)
    assert max(step.together for step in rows.steps) > 1
    assert rows.arena < whole.arena
    x = images(1, 0, (3, 96, 96))[0]
    assert np.array_equal(Engine(whole)(x)[0], Engine(rows)(x)[0])
    shared = lower(network, threads=3)
    assert rows.arena < shared.arena < 3 * rows.arena
    assert np.array_equal(Engine(shared)(x)[0], Engine(rows)(x)[0])


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_threads_that_cannot_be(threads: int) -> None:
    with pytest.raises(UnsupportedError, match=f"the native engine: expected 1 to 256 threads, found {threads}$"):
        lower(packed(nn.Conv2d(3, 4, 1), (3, 8, 8)), threads=threads)


def test_a_value_that_is_added_to_itself() -> None:
    def twice(net: nn.Module, x: Tensor) -> Tensor:
        y = net.first(x).relu()  # type: ignore[operator]
        return net.last(y + y)  # type: ignore[operator, no-any-return]

    layers = {"first": nn.Conv2d(3, 8, 1), "last": nn.Conv2d(8, 4, 3)}
    network = packed(Function(twice, **layers), (3, 64, 64))
    x = images(1, 0, (3, 64, 64))[0]
    assert np.array_equal(Engine(lower(network))(x)[0], Engine(alone(network))(x)[0])
