"""The engines that `native_peers.py` compares with: how the file of each is made, and how it is run.

    python benchmarks/native_peer_tools.py make NAME CASE.json       # a file, or an error whose last line says why not
    python benchmarks/native_peer_tools.py memory JOB                # see edgeq.evaluation.memory.measure_memory

Each makes its file of the float ONNX file with the settings of its documentation for convolutional networks: 8-bit
weights with a scale for each channel, 8-bit activations, 100 calibration images. MNN's command lines send statistics
home and install packages for that, so its converters are called as functions.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from peer_tools import IMAGES, NEEDS, Case, litert, main, static_file
from PIL import Image

import edgeq
from edgeq.data.preprocess import Preprocess, interleaved
from edgeq.errors import UnsupportedError
from edgeq.runtimes.jobs import Job, Run
from edgeq.runtimes.opening import OPENERS

COUNT: Final = IMAGES["quantize_static"]
MODEL: Final = "net"
"""What generated C calls the network, and so its file of weights."""

CLASSES: Final = 1000
COMPILE: Final = ("gcc", "-std=gnu11", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", "-w")


def _tool(*command: object) -> str:
    """Run a program, and return its output.

    Raises:
        UnsupportedError: it is not there, or it failed; with the fatal error that it logged, or its last line.
    """
    name, *arguments = map(str, command)
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        raise UnsupportedError(f"{name}: not installed")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # the peers' modules are theirs
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False, env=clean)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"ended with {done.returncode}"]
        reason = next((line for line in lines if "[Fatal]" in line), lines[-1])
        raise UnsupportedError(f"{name}: {reason.rpartition('[Fatal]')[2].strip()}")
    return done.stdout


def pictures(case: Case) -> tuple[list[str], Preprocess]:
    """The calibration images as PNG files of the network's size, beside the output; and their normalization."""
    prepared_as = edgeq.load(case.model, case.weights).preprocess
    folder = Path(f"{case.output}.images")
    if prepared_as is None:
        raise UnsupportedError(f"{case.model}: expected a network with a preprocessing, found one without")
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(case.batches(COUNT)):
        Image.fromarray(interleaved(prepared_as.pixels(image))[0]).save(folder / f"{i:03}.png")
    return sorted(map(str, folder.iterdir())), prepared_as


def ncnn_float(case: Case) -> None:
    """pnnx names its files after its input, which is why that is copied."""
    output = Path(case.output)
    shape = edgeq.load(case.model, case.weights).network.graph.image.shape
    shutil.copy(case.float_file, output.with_suffix(".onnx"))
    _tool("pnnx", output.with_suffix(".onnx"), f"inputshape={_listed((1, *shape))}", "fp16=0")
    output.with_suffix(".ncnn.bin").rename(output.with_suffix(".bin"))
    output.with_suffix(".ncnn.param").rename(output)


def ncnn_int8(case: Case) -> None:
    """`ncnn2table` and `ncnn2int8` of ncnn's repository: KL divergence for activations, as it recommends."""
    output = Path(case.output)
    plain = output.with_stem("plain")
    ncnn_float(replace(case, output=str(plain)))
    files, prepared_as = pictures(case)
    names, scales = output.with_suffix(".list"), output.with_suffix(".table")
    names.write_text("\n".join(files))
    channels, *size = prepared_as.shape
    _tool(
        "ncnn2table", plain, plain.with_suffix(".bin"), names, scales,
        f"mean={_listed(255 * value for value in prepared_as.mean)}",
        f"norm={_listed(1 / (255 * value) for value in prepared_as.std)}",
        f"shape={_listed((*reversed(size), channels))}", "pixel=RGB", "thread=1", "method=kl",
    )  # fmt: skip
    _tool("ncnn2int8", plain, plain.with_suffix(".bin"), output, output.with_suffix(".bin"), scales)


def _listed(values: Iterable[float]) -> str:
    return f"[{','.join(map(str, values))}]"


def mnn_float(case: Case) -> None:
    tools = importlib.import_module("_tools")
    tools.mnnconvert(
        ["", "-f", "ONNX", "--modelFile", case.float_file, "--MNNModel", case.output, "--bizCode", "edgeq"]
    )


def mnn_int8(case: Case) -> None:
    """MNN's offline quantizer: KL divergence for activations, the largest weight of a channel for its scale."""
    plain = f"{case.output}.float"
    mnn_float(replace(case, output=plain))
    files, prepared_as = pictures(case)
    settings = {
        "format": "RGB",
        "mean": [255 * value for value in prepared_as.mean],
        "normal": [1 / (255 * value) for value in prepared_as.std],
        "width": prepared_as.shape[2], "height": prepared_as.shape[1],
        "path": f"{Path(files[0]).parent}/", "used_image_num": COUNT,
        "feature_quantize_method": "KL", "weight_quantize_method": "MAX_ABS",
    }  # fmt: skip
    config = Path(f"{case.output}.config")
    config.write_text(json.dumps(settings))
    importlib.import_module("_tools").mnnquant(["", plain, case.output, str(config)])


def integer_operators(case: Case) -> str:
    """The file of `quantize_static` with QLinearConv in place of pairs around Conv, which generators of C know."""
    onnx = importlib.import_module("onnx")
    output = f"{case.output}.onnx"
    static_file(case.float_file, output, case.batches(COUNT), form="QOperator")
    model = onnx.load(output)
    # They want the type of every value; those of ONNX Runtime's own operators are uint8 like all activations here.
    typed = {value.name for value in (*model.graph.value_info, *model.graph.output, *model.graph.initializer)}
    values = [name for node in model.graph.node for name in node.output if name not in typed]
    session = importlib.import_module("onnxruntime").InferenceSession(_all_outputs(model, values))
    image = next(iter(case.batches(1)))
    for name, array in zip(values, session.run(values, {model.graph.input[0].name: image}), strict=True):
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    onnx.save(model, output)
    return output


def _all_outputs(model: Any, values: Sequence[str]) -> bytes:
    onnx = importlib.import_module("onnx")
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
    found: bytes = copy.SerializeToString()
    return found


def onnx2c(case: Case, file: str) -> None:
    source = Path(case.output).with_suffix(".c")
    source.write_text(_tool("onnx2c", "-d", "batch:1", file))
    _tool(*COMPILE, source, "-o", case.output, "-lm")


def emx(case: Case, file: str) -> None:
    source = Path(case.output).with_suffix(".c")
    _tool("emx-onnx-cgen", "compile", "--input-dim", "batch=1", "--model-name", MODEL, file, source)
    _tool(*COMPILE, source, "-o", case.output, "-lm")


MAKERS: Final[dict[str, Callable[[Case], None]]] = {
    "ncnn, int8": ncnn_int8,
    "ncnn, float": ncnn_float,
    "MNN, int8": mnn_int8,
    "MNN, float": mnn_float,
    "LiteRT, int8": litert,
    "onnx2c, int8": lambda case: onnx2c(case, integer_operators(case)),
    "onnx2c, float": lambda case: onnx2c(case, case.float_file),
    "emx-onnx-cgen, int8": lambda case: emx(case, integer_operators(case)),
    "emx-onnx-cgen, float": lambda case: emx(case, case.float_file),
}
"""Each writes the file of a case, alone in its folder with what else it needs."""


def _open_ncnn(job: Job) -> Run:
    """It has no batches: a batch is image after image."""
    ncnn = importlib.import_module("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    if net.load_param(job.file) or net.load_model(str(Path(job.file).with_suffix(".bin"))):
        raise UnsupportedError(f"{job.file}: ncnn cannot load it")

    def one(image: NDArray[Any]) -> NDArray[Any]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1]).reshape(-1)

    return lambda inputs: np.stack([one(image) for image in inputs[0]])


def _open_mnn(job: Job) -> Run:
    mnn = importlib.import_module("MNN")
    interpreter = mnn.Interpreter(job.file)
    session = interpreter.createSession({"numThread": job.threads})
    taken = interpreter.getSessionInput(session)
    interpreter.resizeTensor(taken, job.inputs[0].shape)
    interpreter.resizeSession(session)
    given = interpreter.getSessionOutput(session)

    def tensor(values: NDArray[np.float32]) -> Any:
        return mnn.Tensor(values.shape, mnn.Halide_Type_Float, values, mnn.Tensor_DimensionType_Caffe)

    def run(inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        taken.copyFrom(tensor(inputs[0]))
        interpreter.runSession(session)
        host = tensor(np.empty(given.getShape(), np.float32))
        given.copyToHostTensor(host)
        return np.array(host.getNumpyData())

    return run


def _open_c(job: Job) -> Run:
    """A library of generated C, with its weights in it or in a file beside it; one image on one thread."""
    library = ctypes.CDLL(job.file)
    load = getattr(library, f"{MODEL}_load", None)
    weights = Path(job.file).with_suffix(".bin")
    if load is not None and not load(str(weights).encode()):
        raise UnsupportedError(f"{weights}: cannot be loaded")
    function = getattr(library, MODEL, None) or library.entry
    logits = np.empty((1, CLASSES), np.float32)

    def run(inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        function(*(ctypes.c_void_p(array.ctypes.data) for array in (inputs[0], logits)))
        return logits

    return run


OPENERS.update({"ncnn": _open_ncnn, "mnn": _open_mnn, "c": _open_c})


if __name__ == "__main__":
    main(MAKERS, {**NEEDS, "ncnn": "ncnn", "mnn": "MNN"}, *sys.argv[1:])
