"""ONNX Runtime on the CPU: open sessions, and run ONNX files as functions from images to logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeq.artifacts.onnx_files import check_values, model_files, read_onnx
from edgeq.data.preprocess import Preprocess, interleaved
from edgeq.errors import ArtifactError
from edgeq.runtimes.jobs import Job, Run, Runner
from edgeq.system.cpus import thread_count

Session: TypeAlias = ort.InferenceSession
PIXEL_TYPE: Final = "tensor(uint8)"
"""ONNX Runtime's name for the type of an input that takes pixels."""

LOGIT_TYPES: Final = ("tensor(float)", "tensor(float16)", "tensor(double)")
EXACT: Final = {"session.x64quantprecision": "1"}
"""Session settings for kernels that do not overflow on x86 CPUs without VNNI; they are slower there."""

_IMAGE_TYPES: Final = dict(zip((*LOGIT_TYPES, PIXEL_TYPE), (np.float32, np.float16, np.float64, np.uint8), strict=True))


def onnx_runner(
    path: Path | str, optimize: bool = True, threads: int = 0, preprocess: Preprocess | None = None
) -> Runner:
    """Load an ONNX file into ONNX Runtime on the CPU.

    Args:
        path: a file with one input and one output.
        optimize: False runs the graph node by node as it is in the file.
        threads: number of threads of ONNX Runtime; 0 takes `edgeq.system.cpus.thread_count`.
        preprocess: preprocessing of the images; a file with uint8 input needs it to get their pixels back.

    Returns:
        A function from float32 images `[n, 3, H, W]`, of gray ones `[n, 1, H, W]`, to float32 logits `[n, classes]`.
        The file may take float32, float16 or float64, with channels first or last. A file that takes uint8 is given R,
        G, B or gray pixels; without `preprocess`, the images must be pixels in 0..1. A file with a fixed batch size is
        run several times.

    Raises:
        ArtifactError: the file or its external data is missing, it is not an ONNX model, or ONNX Runtime cannot load
            it. The function raises it if ONNX Runtime refuses the images, for example for their size.

    Example:
        >>> run = edgeq.onnx_runner(Path("net.onnx"))
        >>> run(batches[0]).shape
        (8, 4)
    """
    path = Path(path)
    model = read_onnx(path)
    check_values(path, model)
    model_files(path, model)
    try:
        session = session_of(str(path), optimize, threads)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ArtifactError(
            f"{path}: expected an ONNX model that ONNX Runtime can load, found: {_reason(error)}"
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: expected an image classifier with 1 input and 1 output, found {len(inputs)} and {len(outputs)}"
        )
    if outputs[0].type not in LOGIT_TYPES:
        raise ArtifactError(f"{path}: expected logits of {' or '.join(LOGIT_TYPES)}, found {outputs[0].type}")
    if inputs[0].type not in _IMAGE_TYPES:
        raise ArtifactError(f"{path}: expected images of {' or '.join(_IMAGE_TYPES)}, found {inputs[0].type}")

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        taken = _as_taken(images, inputs[0], preprocess)
        fixed = inputs[0].shape[0] if inputs[0].shape and isinstance(inputs[0].shape[0], int) else None
        batches = [taken] if fixed is None else _in_batches(taken, fixed)
        try:
            parts = [session.run(None, {inputs[0].name: batch})[0] for batch in batches]
        except Exception as error:
            raise ArtifactError(f"{path}: cannot run on images {list(images.shape)}: {_reason(error)}") from error
        for found in parts if fixed is not None else ():
            if found.shape[:1] != (fixed,):
                raise ArtifactError(f"{path}: expected logits [{fixed}, classes], found {list(found.shape)}")
        logits = parts[0] if fixed is None else np.concatenate(parts)[: len(images)]
        return np.asarray(logits, np.float32)

    return run


def session_of(
    model: str | bytes, optimize: bool = True, threads: int = 0, settings: Mapping[str, bool | str] | None = None
) -> Session:
    """Open a session of ONNX Runtime on the CPU.

    Args:
        model: path of a file, or its content.
        optimize: see `onnx_runner`.
        threads: see `onnx_runner`.
        settings: attributes of `SessionOptions`, or configuration entries, which have dots in their names.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or thread_count()
    options.inter_op_num_threads = 1
    # Idle threads that spin would keep torch, other sessions and other processes from the CPUs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # errors are raised; ONNX Runtime would print them, too
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in (settings or {}).items():
        if "." in key:
            options.add_session_config_entry(key, value)
        else:
            setattr(options, key, value)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _as_taken(images: NDArray[np.float32], taken: Any, preprocess: Preprocess | None) -> NDArray[Any]:
    """Convert images to the type and layout of a file's input; the axis of 3 (gray: 1) says where its channels are."""
    pixels, count = taken.type == PIXEL_TYPE, 3 if preprocess is None else preprocess.channels
    channels = [axis for axis in (1, 3) if len(taken.shape) == 4 and taken.shape[axis] == count]
    last = (channels == [3] and images.shape[1:] != tuple(taken.shape[1:])) or (pixels and channels != [1])
    if pixels:
        levels = interleaved(images if preprocess is None else preprocess.pixels(images))
        return levels if last else np.ascontiguousarray(levels.transpose(0, 3, 1, 2))
    found = images.astype(_IMAGE_TYPES[taken.type], copy=False)
    return np.ascontiguousarray(found.transpose(0, 2, 3, 1)) if last else found


def _in_batches(images: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield batches of exactly this size; copies of the last image fill the last batch."""
    for start in range(0, len(images), max(size, 1)):
        batch = images[start : start + size]
        yield np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])


def _reason(error: Exception) -> str:
    """Return ONNX Runtime's message as one line, without the path before it."""
    return " ".join(str(error).rpartition("failed:")[2].split())


def open_onnxruntime(job: Job, settings: Mapping[str, bool | str] | None = None) -> Run:
    """Load a model into ONNX Runtime; `settings` as in `session_of`."""
    session = session_of(job.file, threads=job.threads, settings=settings)
    names = [taken.name for taken in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))
