"""Measure latency, memory, load time and file size of exported models, so that they can be compared.

For latency, all models are loaded into one process and run in turn, once each in a shuffled order for every round, so
that a slow moment of the machine hits all of them alike. Every sample is kept. Memory and load time are measured in a
fresh process for each model (`edgeq.evaluation.memory`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeq.artifacts.files import sha256
from edgeq.artifacts.manifest import load_manifest
from edgeq.artifacts.onnx_files import check_values, model_files, read_onnx, size
from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.evaluation.memory import Memory, empty_model, memory_in_fresh_process
from edgeq.runtimes.jobs import PACKED, PYTORCH, Job, Runtime, TensorType, model_file, random_inputs
from edgeq.runtimes.opening import OPENERS, open_model, prepared, torch_threads_of
from edgeq.system.environment import environment
from edgeq.system.progress import SILENT, Progress

_SEED: Final = 0
_MAX_P90_OVER_MEDIAN: Final = 1.2
_MAX_HALVES_RATIO: Final = 1.1  # of the medians of the first and the second half of the samples


@dataclass(frozen=True)
class BenchModel:
    """One model to measure.

    Attributes:
        name: stem of the file name.
        path: the .onnx file; PyTorch and the native engine run the .safetensors file of the same stem beside it.
        inputs: shapes and types of its inputs, for one image each: float32, or uint8 `[H, W, C]`.
        bitops: MACs x weight bits x activation bits, from the manifest; None without a manifest.
        scheme: such as "fp32" or "4bit", from the manifest; None without a manifest.
    """

    name: str
    path: Path
    inputs: tuple[TensorType, ...]
    bitops: float | None = None
    scheme: str | None = None

    def job(self, runtime: Runtime, batch: int, threads: int) -> Job:
        """Return the job for a runtime; the torch network of a uint8 file takes float32 `[batch, C, H, W]`, too."""
        inputs = (_in_floats(one) if runtime in PYTORCH else one for one in self.inputs)
        taken = tuple(TensorType((batch, *shape), dtype) for shape, dtype in inputs)
        return Job(runtime, str(model_file(runtime, self.path)), taken, threads)


def _in_floats(taken: TensorType) -> TensorType:
    shape = taken.shape
    return TensorType((shape[-1], *shape[:-1])) if taken.dtype == "uint8" else taken


@dataclass(frozen=True)
class BenchRow:
    """The measurements of one model.

    Attributes:
        bytes: size of the loaded file and of the files with its external tensors.
        samples_ms: all latencies, in the order in which they were measured.
        speedup: median of the first fp32 model / this median, so 2.0 is twice as fast; None without an fp32 model.
        unstable: whether the samples vary or drift too much for their median to be trusted, see `instability`.
        memory: memory and load time, measured in a fresh process.
    """

    name: str
    scheme: str | None
    bytes: int
    bitops: float | None
    samples_ms: tuple[float, ...]
    median_ms: float
    p90_ms: float
    min_ms: float
    speedup: float | None
    unstable: bool
    memory: Memory


@dataclass(frozen=True)
class BenchReport:
    """The result of `bench`; the body of an `edgeq.artifacts.measured.BENCH`.

    `warnings` says which rows are doubtful, why, and what to do about it.
    """

    runtime: Runtime
    threads: int
    batch: int
    runs: int
    warmup: int
    rows: tuple[BenchRow, ...]
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def from_path(path: Path) -> BenchModel:
    """Describe an .onnx file: its input from the file itself, scheme and BitOps from the manifest beside it, if any.

    Raises:
        ArtifactError: the file or one with its external tensors is missing or corrupt; its inputs are not one float32
            `[batch, C, H, W]` or uint8 `[batch, H, W, C]` with fixed C, H and W; or the manifest beside it is
            unreadable or describes another file.
    """
    inputs = _inputs(path)
    manifest_path = path.with_suffix(".json")
    if not manifest_path.exists():
        return BenchModel(path.stem, path, inputs)
    manifest = load_manifest(manifest_path)
    if manifest["sha256"] != sha256(path):
        raise ArtifactError(f"{path}: changed since {manifest_path.name} was written; export again or move that file")
    return BenchModel(path.stem, path, inputs, manifest["bitops"], manifest["scheme"])


def bench(
    models: Sequence[BenchModel | Path],
    runtime: Runtime = "onnxruntime",
    *,
    threads: int = 1,
    batch: int = 1,
    runs: int = 50,
    warmup: int = 10,
    progress: Progress = SILENT,
) -> BenchReport:
    """Measure all models on the CPU, with the same random input (standard normal, fixed seed) for equal shapes.

    Args:
        models: ONNX files, or their descriptions from `from_path`.
        runtime: `onnxruntime`, `openvino`, `torch`, `torch-reference` or `native`; the last three run the .safetensors
            file beside each ONNX file. `torch` is `edgeq.to_native` where activations are quantized, `torch-reference`
            PyTorch alone. For `native` a program is made first, which is what is measured.
        threads: number of threads of the runtime.
        batch: number of images in a run.
        runs: number of timed runs of each model.
        warmup: number of runs of each model before them.
        progress: receives the number of finished rounds of runs and measurements of memory.

    Returns:
        Latencies, memory and load time of each model, in the order of the call.

    Raises:
        UnsupportedError: no models, a count out of range, an unknown runtime or one that is not installed, or a layer
            that the native engine does not compute.
        ArtifactError: a model that the runtime cannot load or run.

    Example:
        >>> report = edgeq.bench([Path("net.onnx")], runs=5)
        >>> [(row.name, row.scheme, len(row.samples_ms)) for row in report.rows]
        [('net', '4bit', 5)]
    """
    described = [model if isinstance(model, BenchModel) else from_path(model) for model in models]
    if not described:
        raise UnsupportedError("bench: expected at least one model, found none; export one first")
    if runtime not in OPENERS:
        raise UnsupportedError(f"runtime {runtime}: expected one of {', '.join(OPENERS)}")
    for name, value, least in (("threads", threads, 1), ("batch", batch, 1), ("runs", runs, 1), ("warmup", warmup, 0)):
        if value < least:
            raise UnsupportedError(f"{name}: expected at least {least}, found {value}")
    steps = warmup + runs + len(models)
    memory = []
    with tempfile.TemporaryDirectory() as folder, empty_model(runtime) as empty:
        jobs = prepared([model.job(runtime, batch, threads) for model in described], Path(folder))
        samples = interleaved(jobs, runs, warmup, lambda done: progress.step("measuring", done, steps))
        for job in jobs:
            memory.append(memory_in_fresh_process(job, empty))
            progress.step("measuring", warmup + runs + len(memory), steps)
        rows = summarize(described, [_bytes(job) for job in jobs], samples, memory)
    warnings = tuple(f"{row.name}: {text}" for row in rows if (text := instability(row.samples_ms)))
    return BenchReport(runtime, threads, batch, runs, warmup, rows, warnings, environment())


def summarize(
    models: Sequence[BenchModel],
    sizes: Sequence[int],
    samples: Sequence[Sequence[float]],
    memory: Sequence[Memory],
) -> tuple[BenchRow, ...]:
    """Turn raw samples (ms, at least one each) into rows; the 90th percentile is interpolated linearly."""
    medians = [float(np.median(values)) for values in samples]
    baseline = next((median for model, median in zip(models, medians, strict=True) if model.scheme == "fp32"), None)
    return tuple(
        BenchRow(
            name=model.name,
            scheme=model.scheme,
            bytes=size,
            bitops=model.bitops,
            samples_ms=tuple(values),
            median_ms=median,
            p90_ms=float(np.percentile(values, 90)),
            min_ms=min(values),
            speedup=None if baseline is None else baseline / median,
            unstable=instability(values) is not None,
            memory=cost,
        )
        for model, size, values, median, cost in zip(models, sizes, samples, medians, memory, strict=True)
    )


def instability(samples: Sequence[float]) -> str | None:
    """Say why the median of these samples (ms) cannot be trusted and what to do; None if it can.

    Samples are unstable if their 90th percentile is more than 20 % above the median, or if the medians of the first and
    the second half differ by more than 10 %. The middle sample of an odd number counts in both halves.
    """
    median, p90 = float(np.median(samples)), float(np.percentile(samples, 90))
    first, second = np.median(samples[: (len(samples) + 1) // 2]), np.median(samples[len(samples) // 2 :])
    if p90 > _MAX_P90_OVER_MEDIAN * median:
        reason = f"the 90th percentile ({p90:.2f} ms) is far above the median ({median:.2f} ms)"
    elif max(first, second) > _MAX_HALVES_RATIO * min(first, second):
        reason = f"the first half of the runs (median {first:.2f} ms) differs from the second ({second:.2f} ms)"
    else:
        return None
    return f"the result may be unstable: {reason}; close other programs and run again with more --runs"


def _bytes(job: Job) -> int:
    """Return the size of the files that a job loads."""
    path = Path(job.file)
    return size([path] if job.runtime in PACKED else model_files(path))


def _inputs(path: Path) -> tuple[TensorType, ...]:
    """Return the inputs of an ONNX file for one image: float32 of any shape, or uint8 with channels last.

    Raises:
        ArtifactError: as for `from_path`.
    """
    onnx, model = import_module("onnx"), read_onnx(path)
    check_values(path, model)
    model_files(path, model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
    found = []
    for value in inputs:
        tensor = value.type.tensor_type
        shape, dtype = tuple(dim.dim_value for dim in tensor.shape.dim), types.get(tensor.elem_type)
        if dtype is None or len(shape) < 2 or min(shape[1:]) < 1 or (dtype == "uint8" and len(shape) != 4):
            names = {number: name for name, number in onnx.TensorProto.DataType.items()}
            raise ArtifactError(
                f"{path}: expected an input [batch, C, H, W] of FLOAT, or [batch, H, W, C] of UINT8, with fixed C, H, "
                f"W; found {list(shape)} of {names.get(tensor.elem_type, 'an unknown type')}"
            )
        found.append(TensorType(shape[1:], dtype))
    if not found:
        raise ArtifactError(f"{path}: expected an ONNX file with inputs, found none")
    return tuple(found)


def interleaved(jobs: Sequence[Job], runs: int, warmup: int, done: Callable[[int], None]) -> list[list[float]]:
    """Run jobs in turn, in an order that is shuffled every round.

    Args:
        jobs: the jobs to run.
        runs: number of rounds that are timed.
        warmup: number of rounds before them.
        done: called after each round, with the number of finished rounds.

    Returns:
        `runs` latencies in ms for each job.

    Raises:
        ArtifactError: a model that its runtime cannot load or run.
    """
    with torch_threads_of(jobs):
        sessions = [(open_model(job), random_inputs(job)) for job in jobs]
        samples: list[list[float]] = [[] for _ in jobs]
        generator = np.random.default_rng(_SEED)
        for finished in range(1, warmup + runs + 1):
            for i in generator.permutation(len(jobs)):
                run, inputs = sessions[i]
                start = time.perf_counter_ns()
                run(inputs)
                elapsed = time.perf_counter_ns() - start
                if finished > warmup:
                    samples[i].append(elapsed / 1e6)
            done(finished)
    return samples
