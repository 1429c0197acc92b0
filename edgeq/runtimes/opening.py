"""Open a model in a runtime chosen by name.

Only that runtime is imported: an import takes memory, and `edgeq.evaluation.memory` measures memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeq.errors import ArtifactError, EdgeqError, one_line
from edgeq.runtimes.jobs import PYTORCH, Job, Run, random_inputs


def open_model(job: Job) -> Run:
    """Load a model and run it once.

    Raises:
        UnsupportedError: the runtime is not installed.
        ArtifactError: the runtime cannot load or run the model.
    """
    try:
        run = OPENERS[job.runtime](job)
        run(random_inputs(job))
    except EdgeqError:
        raise
    except Exception as error:  # each runtime raises types of its own
        inputs = " and ".join(f"a {one.dtype} input {list(one.shape)}" for one in job.inputs)
        problem = f"{job.file}: {job.runtime} cannot run it on {inputs}"
        raise ArtifactError(f"{problem}: {one_line(error)}") from error
    return run


def prepared(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """Return jobs whose files can be opened as they are: the native engine opens programs, which are written here.

    Args:
        jobs: with the files of `model_file`.
        folder: an empty folder for programs.

    Raises:
        ArtifactError: as for `load_packed`.
        UnsupportedError: a layer that the native engine does not compute.
    """
    return [
        replace(job, file=_program(job, folder / str(i))) if job.runtime == "native" else job
        for i, job in enumerate(jobs)
    ]


def _program(job: Job, folder: Path) -> str:
    from edgeq.lowering.files import program_of

    folder.mkdir()
    packed = Path(job.file)
    target = folder / f"{packed.stem}.eqp"
    program = program_of(packed, pixels=job.inputs[0].dtype == "uint8", threads=job.threads)
    target.write_bytes(program.to_bytes())
    return str(target)


def torch_threads_of(jobs: Sequence[Job]) -> AbstractContextManager[None]:
    """Set torch's number of threads, which is one for the whole process, to that of PyTorch's jobs, if any."""
    wanted = [job.threads for job in jobs if job.runtime in PYTORCH]
    if not wanted:
        return nullcontext()
    from edgeq.system.threads import torch_threads

    return torch_threads(wanted[0])


def _onnxruntime(job: Job) -> Run:
    from edgeq.runtimes.onnxruntime import open_onnxruntime

    return open_onnxruntime(job)


def _openvino(job: Job) -> Run:
    from edgeq.runtimes.openvino import open_openvino

    return open_openvino(job)


def _torch(job: Job) -> Run:
    from edgeq.runtimes.torch import open_torch

    return open_torch(job)


def _torch_reference(job: Job) -> Run:
    from edgeq.runtimes.torch import open_torch_reference

    return open_torch_reference(job)


def _native(job: Job) -> Run:
    from edgeq.runtimes.native import open_native

    return open_native(job)


OPENERS: Final[dict[str, Callable[[Job], Run]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "torch-reference": _torch_reference,
    "native": _native,
}
