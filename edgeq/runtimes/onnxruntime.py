"""ONNX Runtime on the CPU: open sessions, and run ONNX files as functions from images to outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeq.artifacts.onnx_files import check_values, model_files, read_onnx
from edgeq.data.preprocess import Preprocess, interleaved
from edgeq.errors import ArtifactError
from edgeq.runtimes.jobs import Inputs, Job, Run, Runner
from edgeq.system.cpus import thread_count

Session: TypeAlias = ort.InferenceSession
PIXEL_TYPE: Final = "tensor(uint8)"
"""ONNX Runtime's name for the type of an input that takes pixels."""

LOGIT_TYPES: Final = ("tensor(float)", "tensor(float16)", "tensor(double)")
EXACT: Final = {"session.x64quantprecision": "1"}
"""Session settings for kernels that do not overflow on x86 CPUs without VNNI; they are slower there."""

_IMAGE_TYPES: Final = dict(zip((*LOGIT_TYPES, PIXEL_TYPE), (np.float32, np.float16, np.float64, np.uint8), strict=True))
_OTHER_TYPES: Final = {
    "tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64, "tensor(bool)": np.bool_,
}  # fmt: skip


class OnnxModel:
    """An ONNX file in ONNX Runtime on the CPU, as a function from images to all its outputs by name.

    A file may take float32, float16 or float64 images with channels first or last, or uint8 R, G, B pixels; inputs that
    are no maps may be of any type of numbers. A file with a fixed batch size is run as often as it takes, the last time
    on copies of the last image; the outputs of several runs are joined, and so have to have the batch first.

    Args:
        path: the file.
        optimize: False runs the graph node by node as it is in the file.
        threads: number of threads of ONNX Runtime; 0 takes `edgeq.system.cpus.thread_count`.
        preprocess: preprocessing of the images; a file with uint8 input needs it to get their pixels back. Without it,
            images for such a file must be pixels in 0..1.

    Attributes:
        batch: the fixed batch size of the file, or None.
        outputs: the names and types of its outputs, as ONNX Runtime calls them.

    Raises:
        ArtifactError: the file or its external data is missing, it is not an ONNX model, or ONNX Runtime cannot load
            it. A call raises it if ONNX Runtime refuses the images, for example for their size, or if outputs of
            several runs cannot be joined.
    """

    def __init__(
        self, path: Path, optimize: bool = True, threads: int = 0, preprocess: Preprocess | None = None
    ) -> None:
        model = read_onnx(path)
        check_values(path, model)
        model_files(path, model)
        try:
            self._session = session_of(str(path), optimize, threads)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise ArtifactError(
                f"{path}: expected an ONNX model that ONNX Runtime can load, found: {_reason(error)}"
            ) from error
        self._path, self._preprocess, self._taken = path, preprocess, self._session.get_inputs()
        self.outputs: dict[str, str] = {output.name: output.type for output in self._session.get_outputs()}
        self.batch = next((one.shape[0] for one in self._taken if one.shape and isinstance(one.shape[0], int)), None)

    def __call__(self, batch: Inputs) -> dict[str, NDArray[Any]]:
        """Run the file on `n` images."""
        taken = self._as_taken(batch)
        n = min(map(len, taken.values()))
        whole = self.batch in (None, n)
        batches = [taken] if self.batch is None or whole else _in_batches(taken, n, self.batch)
        try:
            parts = [self._session.run(None, part) for part in batches]
        except Exception as error:
            given = batch.values() if isinstance(batch, Mapping) else [batch]
            shapes = " and ".join(str(list(array.shape)) for array in given)
            raise ArtifactError(f"{self._path}: cannot run on images {shapes}: {_reason(error)}") from error
        found = {name: list(map(np.asarray, values)) for name, *values in zip(self.outputs, *parts, strict=True)}
        return {name: values[0] if whole else self._joined(name, values, n) for name, values in found.items()}

    def only_output(self) -> str:
        """The name of the logits of a classifier: of one image and one output of floating-point numbers.

        Raises:
            ArtifactError: another kind of file.
        """
        if len(self._taken) != 1 or len(self.outputs) != 1:
            raise ArtifactError(
                f"{self._path}: expected an image classifier with 1 input and 1 output, found {len(self._taken)} and "
                f"{len(self.outputs)}"
            )
        ((name, kind),) = self.outputs.items()
        if kind not in LOGIT_TYPES:
            raise ArtifactError(f"{self._path}: expected logits of {' or '.join(LOGIT_TYPES)}, found {kind}")
        self._check_image(self._taken[0])
        return name

    def _joined(self, name: str, parts: Sequence[NDArray[Any]], n: int) -> NDArray[Any]:
        for part in parts:
            if part.shape[:1] != (self.batch,):
                raise ArtifactError(
                    f"{self._path}: expected its batch of {self.batch} first in output {name}, found {list(part.shape)}"
                )
        return np.concatenate(parts)[:n]

    def _as_taken(self, batch: Inputs) -> dict[str, NDArray[Any]]:
        """The inputs of the file by name, in its types and layouts."""
        names = [one.name for one in self._taken]
        if not isinstance(batch, Mapping):
            batch = {names[0]: batch} if len(names) == 1 else {"one array": batch}
        elif len(names) == len(batch) == 1:
            batch = dict(zip(names, batch.values(), strict=True))
        if {*batch} != {*names}:
            raise ArtifactError(f"{self._path}: expected the inputs {', '.join(names)}, found {', '.join(batch)}")
        return {one.name: self._converted(batch[one.name], one) for one in self._taken}

    def _converted(self, array: NDArray[np.float32], taken: Any) -> NDArray[Any]:
        if taken.type in _OTHER_TYPES and array.ndim != 4:
            return array.astype(_OTHER_TYPES[taken.type])
        self._check_image(taken)
        return _laid_out(array, taken, self._preprocess)

    def _check_image(self, taken: Any) -> None:
        if taken.type not in _IMAGE_TYPES:
            raise ArtifactError(f"{self._path}: expected images of {' or '.join(_IMAGE_TYPES)}, found {taken.type}")


def onnx_runner(
    path: Path | str, optimize: bool = True, threads: int = 0, preprocess: Preprocess | None = None
) -> Runner:
    """Load a classifier from an ONNX file into ONNX Runtime on the CPU; for other networks see `OnnxModel`.

    Args:
        path: a file with one input and one output.
        optimize: see `OnnxModel`.
        threads: see `OnnxModel`.
        preprocess: see `OnnxModel`.

    Returns:
        A function from float32 images `[n, 3, H, W]`, of gray ones `[n, 1, H, W]`, to float32 logits `[n, classes]`.

    Raises:
        ArtifactError: as for `OnnxModel`, or the file has several inputs or outputs, or inputs or outputs of other
            types.

    Example:
        >>> run = edgeq.onnx_runner(Path("net.onnx"))
        >>> run(batches[0]).shape
        (8, 4)
    """
    model = OnnxModel(Path(path), optimize, threads, preprocess)
    name = model.only_output()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(model(images)[name], np.float32)

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


def _laid_out(images: NDArray[np.float32], taken: Any, preprocess: Preprocess | None) -> NDArray[Any]:
    """Convert images to the type and layout of a file's input; the axis of 3 (gray: 1) says where its channels are."""
    pixels, count = taken.type == PIXEL_TYPE, 3 if preprocess is None else preprocess.channels
    channels = [axis for axis in (1, 3) if len(taken.shape) == 4 and taken.shape[axis] == count]
    last = (channels == [3] and images.shape[1:] != tuple(taken.shape[1:])) or (pixels and channels != [1])
    if pixels:
        levels = interleaved(images if preprocess is None else preprocess.pixels(images))
        return levels if last else np.ascontiguousarray(levels.transpose(0, 3, 1, 2))
    found = images.astype(_IMAGE_TYPES[taken.type], copy=False)
    return np.ascontiguousarray(found.transpose(0, 2, 3, 1)) if last else found


def _in_batches(taken: Mapping[str, NDArray[Any]], n: int, size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches of exactly this size; copies of the last image fill the last batch."""
    for start in range(0, n, max(size, 1)):
        places = np.minimum(np.arange(start, start + size), n - 1)
        yield {name: array[places] for name, array in taken.items()}


def _reason(error: Exception) -> str:
    """Return ONNX Runtime's message as one line, without the path before it."""
    return " ".join(str(error).rpartition("failed:")[2].split())


def open_onnxruntime(job: Job, settings: Mapping[str, bool | str] | None = None) -> Run:
    """Load a model into ONNX Runtime; `settings` as in `session_of`."""
    session = session_of(job.file, threads=job.threads, settings=settings)
    names = [taken.name for taken in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))
