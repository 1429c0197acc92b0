"""The runtime OpenVINO, on the CPU."""

from __future__ import annotations

from importlib import import_module

from edgeq.errors import UnsupportedError
from edgeq.runtimes.jobs import Job, Run


def open_openvino(job: Job) -> Run:
    """Load a model into OpenVINO.

    Raises:
        UnsupportedError: OpenVINO is not installed; it comes with an extra of edgeq.
    """
    try:
        openvino = import_module("openvino")
    except ImportError as error:
        raise UnsupportedError("runtime openvino: it is not installed; pip install edgeq[openvino]") from error
    model = openvino.Core().read_model(job.file)
    model.reshape({taken: list(one.shape) for taken, one in zip(model.inputs, job.inputs, strict=True)})
    settings = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda inputs: request.infer(list(inputs))
