"""The public functions: examples and docstrings, and that they neither touch nor depend on what is global."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import multiprocessing
import multiprocessing.pool
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, assert_type

import numpy as np
import pytest
import torch
from nets import MODULES, SHAPE, images, randomized, worked
from numpy.typing import NDArray
from torch import nn

import edgeq
from edgeq.artifacts.manifest import Manifest
from edgeq.errors import DataError

FUNCTIONS = {name: getattr(edgeq, name) for name in edgeq.__all__ if isinstance(getattr(edgeq, name), FunctionType)}
SETS = {f"ImageSet.{name}": getattr(edgeq.ImageSet, name) for name in ("embedded", "folder", "labelled", "batches")}


# --- docstrings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What examples may use, as they would in a session that runs them from `trace` to `bench`."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    maps = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()
    network = edgeq.trace(nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), (3, 32, 32))
    batches = [images(8, seed, (3, 32, 32)) for seed in range(2)]
    record = edgeq.calibrate(network, batches)
    plan = edgeq.plan(record, "4bit")
    layers = edgeq.quantize(network, record, plan, batches)
    packed = edgeq.pack(network, layers, record, plan)
    edgeq.export(packed, Path("net.onnx"), record, plan, batches)
    return {
        "Path": Path, "edgeq": edgeq, "nn": nn, "torch": torch, "network": network, "batches": batches,
        "record": record, "plan": plan, "layers": layers, "packed": packed, "labels": np.arange(8) % 4,
        "runner": edgeq.onnx_runner(Path("net.onnx")), "images": edgeq.ImageSet.embedded("calib", 4),
    }  # fmt: skip


def test_the_examples_in_docstrings(names: dict[str, Any]) -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    found = [test for name in edgeq.__all__ for test in finder.find(getattr(edgeq, name), name) if test.examples]
    for test in found:
        test.globs = dict(names)
        runner.run(test)
    assert {test.name for test in found} >= FUNCTIONS.keys()
    assert runner.summarize(verbose=False).failed == 0


def sections(text: str) -> dict[str, str]:
    """The parts of a docstring by their headings, such as `Args`."""
    parts = re.split(r"^(\w+):\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", [*FUNCTIONS, *SETS])
def test_every_argument_result_and_error_is_documented(name: str) -> None:
    function = {**FUNCTIONS, **SETS}[name]
    found = sections(function.__doc__ or "")
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    assert re.findall(r"^    (\w+):", found["Args"], re.MULTILINE) == parameters
    assert "Raises" in found
    assert "Returns" in found or name in SETS


@pytest.mark.parametrize("name", edgeq.__all__)
def test_every_name_has_a_docstring(name: str) -> None:
    assert len(getattr(edgeq, name).__doc__) > len("a word")


# --- what is global -------------------------------------------------------------------------------------------------


def state() -> dict[str, Any]:
    """What a library must leave as it was."""
    return {
        "random numbers of torch": torch.get_rng_state().tolist(),
        "random numbers of NumPy": str(np.random.get_state()),
        "random numbers of Python": random.getstate(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "type of new tensors": torch.get_default_dtype(),
        "device of new tensors": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "errors of NumPy": np.geterr(),
        "folder": Path.cwd(),
    }


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    before = state()
    yield
    after = state()
    assert [key for key in before if before[key] != after[key]] == []


class Pipeline:
    """All stages on a small network, one a step, so that two can take turns."""

    def __init__(self, name: str, folder: Path, wrapped: Callable[[], Any] = contextlib.nullcontext) -> None:
        self.module, self.path, self.wrapped = randomized(MODULES[name]()), folder / f"{name}.onnx", wrapped
        self.batches = [images(8, 1), images(8, 2)]

    def stages(self) -> Iterator[str]:
        batches = self.batches
        with self.wrapped():
            network = edgeq.trace(self.module, SHAPE)
        yield "trace"
        with self.wrapped():
            record = edgeq.calibrate(network, batches)
        yield "calibrate"
        with self.wrapped():
            plan = edgeq.plan(record, "2bit")
        yield "plan"
        with self.wrapped():
            layers = edgeq.quantize(network, record, worked(plan, views=2), batches)
        yield "quantize"
        with self.wrapped():
            layers = edgeq.tune(network, record, worked(plan, steps=2), layers, batches)
        yield "tune"
        with self.wrapped():
            packed = edgeq.pack(network, layers, record, plan)
        yield "pack"
        with self.wrapped():
            edgeq.export(packed, self.path, record, plan, batches)
        yield "export"
        with self.wrapped():
            loaded = edgeq.load_packed(self.path.with_suffix(".safetensors"))
        yield "load_packed"
        with self.wrapped():
            run = edgeq.onnx_runner(self.path, threads=1)
            logits = torch.from_numpy(run(batches[0]))
            torch.testing.assert_close(loaded(torch.from_numpy(batches[0])), logits, rtol=0, atol=1)
        yield "onnx_runner"
        with self.wrapped():
            edgeq.evaluate({"file": run}, run, [(batches[0], np.arange(8) % 5)])
        yield "evaluate"

    def run(self) -> bytes:
        for _ in self.stages():
            pass
        return self.written()

    def written(self) -> bytes:
        return self.path.read_bytes() + self.path.with_suffix(".safetensors").read_bytes()


def pipeline_bytes(folder: Path) -> bytes:
    """What a worker process runs."""
    return Pipeline("residual", folder).run()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pipeline_bytes(tmp_path_factory.mktemp("expected"))


def test_the_stages_leave_what_is_global_as_it_was(tmp_path: Path) -> None:
    stages = Pipeline("residual", tmp_path).stages()
    while True:
        with unchanged():
            done = next(stages, None)
        if done is None:
            break


def test_measuring_leaves_what_is_global_as_it_was(tmp_path: Path) -> None:
    pipeline = Pipeline("fire", tmp_path)
    pipeline.run()
    with unchanged():
        edgeq.bench([pipeline.path], threads=2, runs=2, warmup=0)


def test_loading_leaves_what_is_global_as_it_was() -> None:
    with unchanged():
        source = edgeq.load()
        images = edgeq.ImageSet.embedded("calib", 2)
        list(images.batches(source.preprocess, 2))


@contextlib.contextmanager
def double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Other random numbers than last time."""
    with torch.random.fork_rng(devices=()):
        torch.seed()
        yield


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, double_by_default, seeded])
def test_the_callers_modes_change_nothing(mode: Callable[[], Any], expected: bytes, tmp_path: Path) -> None:
    assert Pipeline("residual", tmp_path, mode).run() == expected


def test_two_pipelines_in_turns_write_what_each_writes_alone(expected: bytes, tmp_path: Path) -> None:
    first, second = Pipeline("residual", tmp_path), Pipeline("fire", tmp_path)
    for _ in zip(first.stages(), second.stages(), strict=True):
        pass
    alone = tmp_path / "alone"
    alone.mkdir()
    assert first.written() == expected
    assert second.written() == Pipeline("fire", alone).run()


def test_a_worker_process_writes_the_same_bytes(expected: bytes, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        assert pool.apply(pipeline_bytes, (tmp_path,)) == expected


def test_a_thread_writes_the_same_bytes(expected: bytes, tmp_path: Path) -> None:
    with multiprocessing.pool.ThreadPool(1) as pool:
        assert pool.apply(pipeline_bytes, (tmp_path,)) == expected


# --- arguments ------------------------------------------------------------------------------------------------------


def test_what_a_loader_yields_is_no_batch() -> None:
    network = edgeq.trace(randomized(MODULES["fire"]()), SHAPE)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, *SHAPE), torch.zeros(4)))
    with pytest.raises(DataError, match=r"expected batches of images as NumPy arrays, found list; .* images.numpy"):
        edgeq.calibrate(network, loader)


def test_the_names_of_the_package_are_typed(names: dict[str, Any]) -> None:
    """Mostly for mypy, to which `edgeq.plan` is the function, too."""
    record: edgeq.CalibrationRecord = names["record"]
    plan = assert_type(edgeq.plan(record, "4bit"), edgeq.PrecisionPlan)
    assert_type(plan.bits, Mapping[str, float])
    manifest = edgeq.export(names["packed"], Path("typed.onnx"), record, plan, names["batches"])
    assert_type(manifest, Manifest)
    assert_type(edgeq.onnx_runner(Path("typed.onnx"))(names["batches"][0]), NDArray[np.float32])
    with pytest.raises(AttributeError):
        edgeq.plan("record", "4bit")  # type: ignore[arg-type]
