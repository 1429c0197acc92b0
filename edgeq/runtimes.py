"""Models opened in the runtimes that people deploy on, and what one costs in memory and time to load.

Memory and load time are measured in a fresh process for each model (`python -m edgeq.runtimes`), over a session of
the same runtime that holds an empty model. Runtimes are imported only when one is asked for: an import costs memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, EdgeqError, UnsupportedError, one_line

Runtime = Literal["onnxruntime", "openvino", "torch"]
Run = Callable[[NDArray[Any]], object]
"""Runs a loaded model once on an input of its job's shape and type."""

_SEED: Final = 0
_MEMORY_RUNS: Final = 5


@dataclass(frozen=True)
class Memory:
    """What one model costs a fresh process that already holds the runtime and an empty session.

    Attributes:
        load_ms: milliseconds from the file to a session that is ready to run.
        peak_rss_bytes: highest resident set while loading and running five times, over that of the empty session.
        uss_bytes: memory of this process alone after the five runs, over that of the empty session.
        peak_method: how the peak was read.
    """

    load_ms: float
    peak_rss_bytes: int
    uss_bytes: int
    peak_method: str


@dataclass(frozen=True)
class Job:
    """A file to load into a runtime on the CPU; it takes float32 `[batch, C, H, W]` or uint8 `[batch, H, W, C]`."""

    runtime: str
    file: str
    shape: tuple[int, ...]
    threads: int
    dtype: str = "float32"

    @staticmethod
    def of(runtime: str, file: str, image: Sequence[int], batch: int, threads: int, pixels: bool) -> Job:
        """A job for images of `(C, H, W)`, taken as floats in planes or as pixels with the channels last."""
        channels, *size = image
        if pixels:
            return Job(runtime, file, (batch, *size, channels), threads, "uint8")
        return Job(runtime, file, (batch, channels, *size), threads)


def model_file(runtime: str, path: Path) -> Path:
    """Return the file that the runtime loads for the .onnx file `path`: for torch, the .safetensors beside it.

    Raises:
        ArtifactError: there is no such .safetensors file.
    """
    if runtime != "torch":
        return path
    packed = path.with_suffix(".safetensors")
    if not packed.exists():
        raise ArtifactError(f"{packed}: the torch runtime needs this file beside {path.name}; export it again")
    return packed


def open_model(job: Job) -> Run:
    """Load a model and run it once.

    Raises:
        UnsupportedError: the runtime is not installed.
        ArtifactError: the runtime cannot load or run the model.
    """
    try:
        run = OPENERS[job.runtime](job)
        run(random_input(job.shape, job.dtype))
    except EdgeqError:
        raise
    except Exception as error:  # every runtime raises its own classes
        problem = f"{job.file}: {job.runtime} cannot run it on a {job.dtype} input {list(job.shape)}"
        raise ArtifactError(f"{problem}: {one_line(error)}") from error
    return run


def torch_threads_of(jobs: Sequence[Job]) -> AbstractContextManager[None]:
    """Torch on as many threads as its jobs want, where it has any: their number belongs to the whole process."""
    wanted = [job.threads for job in jobs if job.runtime == "torch"]
    return import_module("edgeq.threads").torch_threads(wanted[0]) if wanted else nullcontext()


def random_input(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """Return standard normal values, or for uint8 any pixels, always the same for a shape."""
    generator = np.random.default_rng(_SEED)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)


@contextmanager
def empty_model(runtime: Runtime) -> Iterator[str | None]:
    """Yield the file of an ONNX model of one Identity node; None for torch, which needs no session."""
    if runtime == "torch":
        yield None
        return
    onnx = import_module("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 1, 1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "empty", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "empty.onnx")
        yield str(Path(folder) / "empty.onnx")


def memory_in_fresh_process(job: Job, empty: str | None, script: Sequence[str] = ("-m", "edgeq.runtimes")) -> Memory:
    """Load and run a model in a new process, after the model that `empty_model` yields for the runtime.

    Args:
        job: what to load.
        empty: from `empty_model`.
        script: Python's arguments for the process; another one may know more runtimes, and call `measure_memory`.

    Raises:
        ArtifactError: the process failed; says with what.
    """
    command = [sys.executable, *script, json.dumps([asdict(job), empty])]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        reason = child.stderr.strip().rpartition("\n")[2] or f"its process ended with {child.returncode}"
        raise ArtifactError(f"{job.file}: cannot measure the memory it takes in {job.runtime}: {reason}")
    return Memory(**json.loads(child.stdout.splitlines()[-1]))  # runtimes may print, but not after the last line


def _measure_memory(job: Job, empty: str | None) -> Memory:
    """Load and run the model in this process, which must be a fresh one."""
    x = random_input(job.shape, job.dtype)
    # What the runtime itself costs is paid here; the result is kept, so that nothing is freed and used again.
    paid = (
        import_module("edgeq.modules")
        if empty is None
        else open_model(Job(job.runtime, empty, (1, 1, 1, 1), job.threads))
    )
    before = psutil.Process().memory_full_info()
    read_peak, method = _peak_reader()
    start = time.perf_counter_ns()
    run = OPENERS[job.runtime](job)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    for _ in range(_MEMORY_RUNS):
        run(x)
    uss = psutil.Process().memory_full_info().uss - before.uss
    del paid
    return Memory(load_ms, read_peak() - before.rss, uss, method)


def _peak_reader() -> tuple[Callable[[], int], str]:
    """A function that returns the peak RSS in bytes from now on, or of the whole process, and the name of the way."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        resource = import_module("resource")
        unit = 1 if sys.platform == "darwin" else 1024
        return lambda: int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit, "ru_maxrss of the whole process"
    return _vm_hwm, "VmHWM, reset before the model is loaded"


def _vm_hwm() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def onnx_session(job: Job, settings: Mapping[str, bool | str] | None = None) -> Any:
    """An ONNX Runtime session for a job, with attributes of SessionOptions, or configuration entries, as set.

    Entries are told from attributes by the dots in their names.
    """
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised; ONNX Runtime would print it too
    # The threads of a session whose turn is over must not burn the cores of the next one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in (settings or {}).items():
        if "." in key:
            options.add_session_config_entry(key, value)
        else:
            setattr(options, key, value)
    return onnxruntime.InferenceSession(job.file, options, providers=["CPUExecutionProvider"])


def open_onnxruntime(job: Job, settings: Mapping[str, bool | str] | None = None) -> Run:
    """The opener of ONNX Runtime; `settings` as in `onnx_session`."""
    session = onnx_session(job, settings)
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def _open_openvino(job: Job) -> Run:
    try:
        openvino = import_module("openvino")
    except ImportError as error:
        raise UnsupportedError("runtime openvino: it is not installed; pip install edgeq[openvino]") from error
    model = openvino.Core().read_model(job.file)
    model.reshape(list(job.shape))
    settings = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: request.infer([x])


def _open_torch(job: Job) -> Run:
    torch = import_module("torch")
    torch.set_num_threads(job.threads)
    module = import_module("edgeq.modules").load_packed(Path(job.file)).eval()

    def run(x: NDArray[Any]) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(x))

    return run


OPENERS: Final[dict[str, Callable[[Job], Run]]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": _open_openvino,
    "torch": _open_torch,
}


def measure_memory(argument: str) -> None:
    """The child of `memory_in_fresh_process`: one line of JSON on stdout."""
    job, empty = json.loads(argument)
    print(json.dumps(asdict(_measure_memory(Job(**{**job, "shape": tuple(job["shape"])}), empty))))


if __name__ == "__main__":
    measure_memory(sys.argv[1])
