"""Latency, memory, load time and file size of exported models, measured so that they can be compared.

Latency: all models are loaded into one process and take turns, one run each a round in a shuffled order, so that a
slow moment of the machine hits all of them alike. Every sample is kept. Memory and load time: each model in a fresh
process (`edgeq.runtimes.jobs`), over a session of the same runtime that holds an empty model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeq.artifacts.files import sha256
from edgeq.artifacts.manifest import load_manifest
from edgeq.artifacts.schema import COUNT, PATH, POSITIVE, TEXT, Schema
from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.evaluation.memory import Memory, empty_model, memory_in_fresh_process
from edgeq.runtimes.jobs import Job, Runtime, model_file, random_input
from edgeq.runtimes.onnx_files import check_values, model_files, read_onnx, size
from edgeq.runtimes.opening import OPENERS, open_model, torch_threads_of
from edgeq.system.environment import environment
from edgeq.system.progress import SILENT, Progress

KIND: Final = "bench"
VERSION: Final = 1
SCHEMA: Final[Schema] = {
    "runtime": TEXT,
    "threads": COUNT,
    "batch": COUNT,
    "rows": [{"name": PATH, "scheme": (TEXT, None), "bytes": POSITIVE, "median_ms": POSITIVE, "p90_ms": POSITIVE}],
    "environment": {"cpu": TEXT, "logical_cores": (COUNT, None), "versions": {str: (TEXT, None)}},
}
"""What those who read a report rely on."""

_SEED: Final = 0
_MAX_P90_OVER_MEDIAN: Final = 1.2
_MAX_HALVES_RATIO: Final = 1.1


@dataclass(frozen=True)
class BenchModel:
    """One model to measure.

    Attributes:
        name: stem of the file.
        path: the .onnx file; the torch runtime takes the .safetensors file of the same stem beside it.
        input_shape: (C, H, W) of its one input, float32 `[batch, C, H, W]` or uint8 `[batch, H, W, C]`.
        bitops: MACs x weight bits x activation bits, from the manifest; None without a manifest.
        scheme: such as "fp32" or "4bit", from the manifest; None without a manifest.
        pixels: whether the input is uint8.
    """

    name: str
    path: Path
    input_shape: tuple[int, int, int]
    bitops: float | None = None
    scheme: str | None = None
    pixels: bool = False

    def job(self, runtime: Runtime, batch: int, threads: int) -> Job:
        """What to load and to feed it; the torch file of a network that reads pixels takes them as floats in planes."""
        pixels = self.pixels and runtime != "torch"
        return Job.of(runtime, str(model_file(runtime, self.path)), self.input_shape, batch, threads, pixels)


@dataclass(frozen=True)
class BenchRow:
    """The measurements of one model.

    Attributes:
        bytes: size of what was loaded: a file, and those that its tensors lie in.
        samples_ms: all latencies, in the order in which they were taken.
        speedup: median of the first fp32 model / this median, so 2.0 is twice as fast; None if no fp32 model ran.
        unstable: the samples spread or drift too much for their median to be trusted.
        memory: measured in a process of its own.
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
    """One call of `bench`; written as artifact kind `KIND`, version `VERSION`.

    `warnings` says what makes a row doubtful and what to do about it.
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
        ArtifactError: the file, or one that its tensors lie in, is missing, or it is corrupt, has other inputs than one
            float32 `[batch, C, H, W]` or uint8 `[batch, H, W, C]` with fixed C, H and W, or the manifest beside it is
            unreadable or describes another file.
    """
    shape, pixels = _input(path)
    manifest_path = path.with_suffix(".json")
    if not manifest_path.exists():
        return BenchModel(path.stem, path, shape, pixels=pixels)
    manifest = load_manifest(manifest_path)
    if manifest["sha256"] != sha256(path):
        raise ArtifactError(f"{path}: changed since {manifest_path.name} was written; export again or move that file")
    return BenchModel(path.stem, path, shape, manifest["bitops"], manifest["scheme"], pixels)


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
        models: ONNX files, or what `from_path` says of them.
        runtime: `onnxruntime`, `openvino` or `torch`; the latter runs the .safetensors file beside each ONNX file.
        threads: of the runtime.
        batch: images in one run.
        runs: timed runs of each model.
        warmup: runs of each model before them.
        progress: is told about each round of runs and each measurement of memory.

    Returns:
        Latencies, memory and time to load of each model, in the order of the call.

    Raises:
        UnsupportedError: no models, a count out of range, an unknown runtime or one that is not installed.
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
    jobs = [model.job(runtime, batch, threads) for model in described]
    samples = interleaved(jobs, runs, warmup, lambda done: progress.step("measuring", done, steps))
    memory = []
    with empty_model(runtime) as empty:
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
    """Say why the median of these samples (ms) is not to be trusted and what to do, or None if it is.

    Unstable are a 90th percentile more than 20 % above the median, and medians of the first and the second half that
    differ by more than 10 %. The middle sample of an odd number counts in both halves.
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
    """The size of what a job loads."""
    path = Path(job.file)
    return size([path] if job.runtime == "torch" else model_files(path))


def _input(path: Path) -> tuple[tuple[int, int, int], bool]:
    """(C, H, W) of an ONNX file with one input, and whether that is uint8 with the channels last."""
    onnx, model = import_module("onnx"), read_onnx(path)
    check_values(path, model)
    model_files(path, model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ArtifactError(f"{path}: expected an ONNX file with one input, found {len(inputs)}")
    tensor = inputs[0].type.tensor_type
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    pixels = tensor.elem_type == onnx.TensorProto.UINT8
    known = pixels or tensor.elem_type == onnx.TensorProto.FLOAT
    if not known or len(shape) != 4 or min(shape[1:]) < 1:
        types = {number: name for name, number in onnx.TensorProto.DataType.items()}
        raise ArtifactError(
            f"{path}: expected an input [batch, C, H, W] of FLOAT, or [batch, H, W, C] of UINT8, with fixed C, H, W; "
            f"found {list(shape)} of {types.get(tensor.elem_type, 'an unknown type')}"
        )
    return (shape[3], shape[1], shape[2]) if pixels else shape[1:], pixels


def interleaved(jobs: Sequence[Job], runs: int, warmup: int, done: Callable[[int], None]) -> list[list[float]]:
    """Latencies in ms, `runs` of each job, the jobs taking turns in an order that is shuffled every round.

    `done` is called with the number of rounds after each, `warmup` included, whose samples are not kept.

    Raises:
        ArtifactError: a model that its runtime cannot load or run.
    """
    with torch_threads_of(jobs):
        sessions = [(open_model(job), random_input(job.shape, job.dtype)) for job in jobs]
        samples: list[list[float]] = [[] for _ in jobs]
        generator = np.random.default_rng(_SEED)
        for finished in range(1, warmup + runs + 1):
            for i in generator.permutation(len(jobs)):
                run, x = sessions[i]
                start = time.perf_counter_ns()
                run(x)
                elapsed = time.perf_counter_ns() - start
                if finished > warmup:
                    samples[i].append(elapsed / 1e6)
            done(finished)
    return samples
