"""The native engine in PyTorch: the same bits as outside, under its transforms and copies, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from native_engine import compiled, packed, program
from nets import SHAPE, Detector, float_network, images, quantized, randomized
from torch import Tensor

from edgeq.calibration.calibrate import calibrate
from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower
from edgeq.native import library as library_module
from edgeq.native.library import Engine, library
from edgeq.packed.file import save_packed
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.quantization.quantize import quantize
from edgeq.runtimes.jobs import Job, TensorType
from edgeq.runtimes.opening import open_model
from edgeq.runtimes.torch_native import NativeNetwork, run_program, to_native

Copy = Callable[[NativeNetwork], NativeNetwork]


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library.cache_clear()
    monkeypatch.setattr(library_module, "find_spec", lambda name: None)
    yield
    library.cache_clear()


@cache
def native(name: str = "residual") -> NativeNetwork:
    """It is shared, do not change it."""
    return to_native(packed(name))


@cache
def detector() -> tuple[Network, tuple[Tensor, Tensor]]:
    """A packed network with two inputs and three outputs, and three images."""
    network, draw = trace(randomized(Detector()), Detector.shapes), np.random.default_rng(0)
    about = draw.normal(size=(8, 5)).astype(np.float32)
    batches = [{"image": images(8, 1), "about": about}]
    record = calibrate(network, batches)
    widths = plan(record, "4bit")
    made = pack(network, quantize(network, record, widths, batches), record, widths)
    return made, (torch.from_numpy(images(3)), torch.from_numpy(about[:3]))


def x(count: int = 2) -> Tensor:
    return torch.from_numpy(images(count, 7))


def by_engine(network: Network, *inputs: Tensor) -> list[np.ndarray]:
    return Engine.of(lower(network), "net")([one.numpy() for one in inputs])


@compiled
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", ["residual", "moved", "ragged", "flat", "fire"])
def test_it_computes_what_the_engine_computes(name: str, count: int) -> None:
    with torch.inference_mode():
        found, reference = native(name)(x(count)), packed(name)(x(count))
    assert (found.dtype, found.shape) == (torch.float32, reference.shape)
    np.testing.assert_array_equal(found, by_engine(packed(name), x(count))[0])
    assert (found - reference).abs().max() < 0.2 * reference.abs().max()


@compiled
def test_no_images() -> None:
    assert native()(x(0)).shape == (0, 6)


@compiled
def test_several_inputs_and_outputs() -> None:
    network, (image, about) = detector()
    made = to_native(network)
    found, reference = made(image, about), network(image, about)
    assert [one.shape for one in found] == [one.shape for one in reference]
    for one, expected in zip(found, by_engine(network, image, about), strict=True):
        np.testing.assert_array_equal(one.flatten(1), expected)
    assert all(map(torch.equal, made(about=about, image=image), found))


@compiled
def test_it_holds_the_bytes_of_the_elsewhereand_nothing_else() -> None:
    assert [name for name, _ in native().named_buffers()] == ["program"]
    assert [*native().parameters()] == [*native().children()] == []
    assert native().program.numpy().tobytes() == program("residual").to_bytes()


# --- transforms and copies --------------------------------------------------------------------------------------------


@compiled
def test_the_operator_is_one_that_pytorch_can_transform() -> None:
    torch.library.opcheck(run_program, (native().program, [x()], [6]))
    network, inputs = detector()
    made = to_native(network)
    torch.library.opcheck(run_program, (made.program, list(inputs), [one.elements for one in made.outputs]))


@compiled
def test_torch_compile_sees_one_graph() -> None:
    made = torch.compile(copy.deepcopy(native()), fullgraph=True, backend="aot_eager")
    for count in (2, 3, 1):
        assert torch.equal(made(x(count)), native()(x(count)))


@compiled
def test_torch_export_with_any_number_of_images() -> None:
    network, inputs = detector()
    images_of_any_number = {0: torch.export.Dim("images")}
    made = to_native(network)
    exported = torch.export.export(made, inputs, dynamic_shapes=((images_of_any_number,) * 2,))
    assert [str(node.target) for node in exported.graph.nodes].count("edgeq.run_program.default") == 1
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count in (1, 3):
        few = [one[:count] for one in inputs]
        assert all(map(torch.equal, loaded(*few), made(*few)))


def by_state(made: NativeNetwork) -> NativeNetwork:
    other = to_native(packed("residual", "4bit"))
    other.program.zero_()
    other.load_state_dict(made.state_dict())
    return other


def by_torch_save(made: NativeNetwork) -> NativeNetwork:
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    loaded: NativeNetwork = torch.load(file, weights_only=False)
    return loaded


@compiled
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made)), by_torch_save, by_state,
     lambda made: copy.deepcopy(made).half().double().train()],
    ids=["deepcopy", "pickle", "torch.save", "state_dict", "half"],
)  # fmt: skip
def test_copies_compute_the_same(copied: Copy) -> None:
    assert torch.equal(copied(native())(x()), native()(x()))


@compiled
def test_threads_call_it_at_once() -> None:
    expected = native()(x(64))
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda i: native()(x(64)[i : i + 4]), [*range(0, 64, 4)] * 3)
    assert torch.equal(torch.cat([*parts]), expected.repeat(3, 1))


# --- inputs -----------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize(
    "given",
    [x().contiguous(memory_format=torch.channels_last), x().repeat_interleave(2, 3)[..., ::2],
     torch._neg_view(-x()), x().requires_grad_()],
    ids=["channels last", "strided", "negative view", "with gradients"],
)  # fmt: skip
def test_however_an_input_lies_in_memory(given: Tensor) -> None:
    assert torch.equal(native()(given), native()(x()))


@compiled
def test_it_has_no_gradients() -> None:
    with pytest.raises(UnsupportedError, match=r"^the native engine computes no gradients; call it under torch.infer"):
        native()(x().requires_grad_()).sum().backward()


@compiled
def test_running_it_imports_no_compiler_of_pytorch(tmp_path: Path) -> None:
    """`torch.library.custom_op` would: it takes more memory than the network."""
    torch.save(native(), tmp_path / "net.pt")
    code = f"""
import sys, torch, edgeq.runtimes.torch_native
with torch.inference_mode():
    torch.load({str(tmp_path / "net.pt")!r}, weights_only=False)(torch.zeros(1, 3, 16, 16))
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout.strip() == "False False"


@compiled
@pytest.mark.parametrize(
    ("given", "found"),
    [
        (x().double(), r"torch.float64 \[2, 3, 16, 16\] on cpu"),
        (x()[0], r"torch.float32 \[3, 16, 16\] on cpu"),
        (x()[:, :, 1:], r"torch.float32 \[2, 3, 15, 16\] on cpu"),
        (torch.tensor(1.0), r"torch.float32 \[\] on cpu"),
        (x().to("meta"), r"torch.float32 \[2, 3, 16, 16\] on meta"),
    ],
)
def test_inputs_that_do_not_fit(given: Tensor, found: str) -> None:
    expected = rf"^input image: expected torch.float32 \[n, 3, 16, 16\] on cpu, found {found}$"
    with pytest.raises(DataError, match=expected):
        native()(given)


@compiled
def test_other_inputs_than_it_has() -> None:
    network, (image, about) = detector()
    made = to_native(network)
    with pytest.raises(DataError, match=r"input about: expected torch.float32 \[n, 5\] on cpu, found .* \[2, 5\]"):
        made(image, about[:2])
    for given in ([image], [image, about, about]):
        with pytest.raises(DataError, match=rf"^expected the inputs image, about, found {len(given)}$"):
            made(*given)
    with pytest.raises(DataError, match=r"^expected the inputs image, about, found image, other$"):
        made(image=image, other=about)


@compiled
def test_a_network_on_another_device() -> None:
    with pytest.raises(DataError, match=r"runs on the CPU, found its network on meta; use .cpu\(\)$"):
        copy.deepcopy(native()).to("meta")(x())
    with pytest.raises(UnsupportedError, match=r"takes networks on the CPU, found one on meta; use .cpu\(\)$"):
        to_native(copy.deepcopy(packed("residual")).to("meta"))


# --- programs ---------------------------------------------------------------------------------------------------------


@compiled
def test_a_program_anywhere_in_memory() -> None:
    room = torch.empty(len(native().program) + 1, dtype=torch.uint8)
    moved = room[1:].copy_(native().program)
    strided = native().program.repeat_interleave(2)[::2]
    for elsewhere in (moved, strided):
        assert torch.equal(run_program(elsewhere, [x()], [6])[0], native()(x()))


@compiled
def test_a_program_that_is_none_or_has_other_outputs() -> None:
    with pytest.raises(ArtifactError, match=r"^the network: expected a program of the native engine, found "):
        run_program(native().program[:-64].clone(), [x()], [6])
    with pytest.raises(DataError, match=r"^the network: expected outputs of \[7\] numbers, found \[6\]$"):
        run_program(native().program, [x()], [7])


@compiled
@pytest.mark.parametrize(
    "network", [lambda: float_network("residual"), lambda: quantized("residual", "4bit", 32).packed],
    ids=["float", "float activations"],
)  # fmt: skip
def test_networks_without_integers_are_refused(network: Callable[[], Network]) -> None:
    with pytest.raises(UnsupportedError, match=r"^layer \S+: the native engine "):
        to_native(network())


@pytest.mark.usefixtures("no_kernels")
def test_without_a_compiler() -> None:
    with pytest.raises(UnsupportedError, match=r"install gcc or clang, then edgeq again$"):
        to_native(packed("residual"))


# --- measured by bench ------------------------------------------------------------------------------------------------


def job(runtime: str, network: Network, folder: Path) -> Job:
    save_packed(network, folder / "net.safetensors")
    return Job(runtime, str(folder / "net.safetensors"), (TensorType((2, *SHAPE)),), 1)


@compiled
def test_the_runtime_torch_is_the_engine_and_the_reference_pytorch_alone(tmp_path: Path) -> None:
    given = [images(2, 7)]
    found = open_model(job("torch", packed("residual"), tmp_path))(given)
    reference = open_model(job("torch-reference", packed("residual"), tmp_path))(given)
    assert isinstance(found, Tensor)
    assert isinstance(reference, Tensor)
    with torch.inference_mode():
        assert torch.equal(found, native()(x()))
        assert torch.equal(reference, packed("residual")(x()))


@pytest.mark.usefixtures("no_kernels")
def test_float_activations_run_in_pytorch_alone(tmp_path: Path) -> None:
    network = quantized("residual", "4bit", 32).packed
    found = open_model(job("torch", network, tmp_path))([images(2, 7)])
    assert isinstance(found, Tensor)
    with torch.inference_mode():
        assert torch.equal(found, network(x()))


@pytest.mark.usefixtures("no_kernels")
def test_nothing_else_takes_the_place_of_the_engine(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"net\.safetensors: .* --runtime torch-reference takes PyTorch alone$"):
        open_model(job("torch", packed("residual"), tmp_path))
    open_model(job("torch-reference", packed("residual"), tmp_path))
