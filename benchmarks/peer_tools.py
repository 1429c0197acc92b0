"""The tools that `peers.py` compares with: how each makes its file, and how that is run where edgeq has no runtime.

    python benchmarks/peer_tools.py make NAME CASE.json       # a file, in a process whose time and memory are taken
    python benchmarks/peer_tools.py memory JOB                # see edgeq.evaluation.memory.measure_memory

Every tool is used as its documentation says for convolutional networks: 8 bits, a scale for each channel of the
weights, the number of calibration images that it takes by default.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import edgeq
from edgeq.evaluation.memory import measure_memory
from edgeq.runtimes.jobs import Job, Run, Runner
from edgeq.runtimes.opening import OPENERS

IMAGES: Final = {"nncf": 300, "quantize_static": 100, "litert": 100}


@dataclass(frozen=True)
class Case:
    """What files are made of: network, weights, images to calibrate on, the float ONNX file, where the file goes."""

    model: str
    weights: str
    images: str
    float_file: str
    output: str

    def batches(self, count: int) -> Iterator[NDArray[np.float32]]:
        """Calibration images, float32 `[1, 3, h, w]` each."""
        source = edgeq.load(self.model, self.weights)
        chosen = edgeq.ImageSet.folder(Path(self.images), count, 0)
        return (batch.images for batch in chosen.batches(source.preprocess, 1))


def quantize_static(case: Case, method: str = "MinMax", weights: str = "QInt8") -> None:
    static_file(case.float_file, case.output, case.batches(IMAGES["quantize_static"]), method, weights)


def static_file(
    float_file: str,
    output: str,
    images: Iterator[NDArray[np.float32]],
    method: str = "MinMax",
    weights: str = "QInt8",
    reduce_range: bool = False,
    form: str = "QDQ",
) -> None:
    """What ONNX Runtime's own quantizer makes of a float ONNX file with one input; `form` is one of its QuantFormat."""
    onnx, quantization = importlib.import_module("onnx"), importlib.import_module("onnxruntime.quantization")
    prepare = importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    float_file, output = (str(Path(file).absolute()) for file in (float_file, output))
    prepared = output + ".prepared"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where it fails, it leaves files behind
        try:
            prepare(float_file, prepared)
        except Exception:  # of whatever type; its symbolic shapes are for transformers, and its way out is to skip them
            prepare(float_file, prepared, skip_symbolic_shape=True)
    name = onnx.load(prepared).graph.input[0].name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]  # imported late
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            found = next(images, None)
            return None if found is None else {name: found}

    if weights == "QInt4":  # of the standard since opset 21; before, ONNX Runtime would write operators of its own
        onnx.save(onnx.version_converter.convert_version(onnx.load(prepared), 21), prepared)
    quantization.quantize_static(
        prepared, output, Reader(),
        quant_format=quantization.QuantFormat[form], per_channel=True, reduce_range=reduce_range,
        calibrate_method=quantization.CalibrationMethod[method],
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType[weights],
    )  # fmt: skip
    Path(prepared).unlink()


def nncf_onnx(case: Case) -> None:
    nncf, onnx = importlib.import_module("nncf"), importlib.import_module("onnx")
    images = list(case.batches(IMAGES["nncf"]))
    data = nncf.Dataset(images, lambda image: {"image": image})
    onnx.save(nncf.quantize(onnx.load(case.float_file), data, subset_size=IMAGES["nncf"]), case.output)


def nncf_openvino(case: Case) -> None:
    nncf, openvino = importlib.import_module("nncf"), importlib.import_module("openvino")
    images = list(case.batches(IMAGES["nncf"]))
    model = openvino.Core().read_model(case.float_file)
    quantized = nncf.quantize(model, nncf.Dataset(images), subset_size=IMAGES["nncf"])
    openvino.save_model(quantized, case.output)


def litert(case: Case) -> None:
    """Channels last, converted from PyTorch, then quantized."""
    torch, litert_torch = importlib.import_module("torch"), importlib.import_module("litert_torch")
    quantizer = importlib.import_module("ai_edge_quantizer.quantizer")
    recipe = importlib.import_module("ai_edge_quantizer.recipe")
    images = [image.transpose(0, 2, 3, 1).copy() for image in case.batches(IMAGES["litert"])]
    last = litert_torch.to_channel_last_io(eager_module(case.model, case.weights), args=[0])
    plain = case.output + ".float"
    litert_torch.convert(last, (torch.from_numpy(images[0]),)).export(plain)
    made = quantizer.Quantizer(plain, recipe.static_wi8_ai8())
    found = made.calibrate({"serving_default": [{"args_0": image} for image in images]})
    made.quantize(found).export_model(case.output, overwrite=True)
    Path(plain).unlink()


def eager(case: Case) -> None:
    shutil.copy(case.weights, case.output)


MAKERS: Final[dict[str, Callable[[Case], None]]] = {
    "quantize_static": quantize_static,
    "quantize_static, entropy": lambda case: quantize_static(case, "Entropy"),
    "quantize_static, INT4": lambda case: quantize_static(case, weights="QInt4"),
    "NNCF": nncf_onnx,
    "NNCF, OpenVINO": nncf_openvino,
    "LiteRT": litert,
    "torchvision": eager,
}
"""Each writes the file of a case; ImportError where the tool is not installed."""


def eager_module(model: str, weights: str) -> Any:
    """The network as torchvision makes it."""
    module = importlib.import_module("torchvision").models.get_model(model)
    module.load_state_dict(importlib.import_module("safetensors.torch").load_file(weights))
    return module.eval()


def _open_eager(job: Job) -> Run:
    """The file is named after its network."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(job.threads)
    module = eager_module(Path(job.file).stem, job.file)

    def run(inputs: Sequence[NDArray[Any]]) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(inputs[0]))

    return run


def _open_saved(job: Job) -> Run:
    """A module that `torch.save` has written."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(job.threads)
    module = torch.load(job.file, weights_only=False)

    def run(inputs: Sequence[NDArray[Any]]) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(inputs[0]))

    return run


def litert_interpreter(file: str, batch: int, threads: int) -> Any:
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(file, num_threads=threads)
    entry = interpreter.get_input_details()[0]
    if batch != entry["shape"][0]:
        interpreter.resize_tensor_input(entry["index"], [batch, *entry["shape"][1:]])
    interpreter.allocate_tensors()
    return interpreter


def _open_litert(job: Job) -> Run:
    """Its input is int8; random pixels do for that."""
    interpreter = litert_interpreter(job.file, job.inputs[0].shape[0], job.threads)
    entry, answer = (found()[0]["index"] for found in (interpreter.get_input_details, interpreter.get_output_details))

    def run(inputs: Sequence[NDArray[Any]]) -> object:
        interpreter.set_tensor(entry, inputs[0].view(np.int8))
        interpreter.invoke()
        return interpreter.get_tensor(answer)

    return run


OPENERS.update({"eager": _open_eager, "saved": _open_saved, "litert": _open_litert})


def litert_runner(file: str) -> Runner:
    """Logits for float images `[n, 3, h, w]`, one at a time."""
    interpreter = litert_interpreter(file, 1, 1)
    entry, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        scale, zero = entry["quantization"]
        out_scale, out_zero = answer["quantization"]
        found = []
        for image in images.transpose(0, 2, 3, 1)[:, None]:
            interpreter.set_tensor(entry["index"], (np.rint(image / scale) + zero).clip(-128, 127).astype(np.int8))
            interpreter.invoke()
            found.append((interpreter.get_tensor(answer["index"]).astype(np.float32) - out_zero) * out_scale)
        return np.concatenate(found)

    return run


NEEDS: Final = {"eager": "torchvision", "litert": "ai_edge_litert.interpreter"}
"""What each runtime imports."""


def main(makers: Mapping[str, Callable[[Case], None]], needs: Mapping[str, str], what: str, *arguments: str) -> None:
    """Make a file of `makers`, or measure the memory of a job in a runtime, which needs a module of `needs`."""
    if what == "make":
        name, case = arguments
        makers[name](Case(**json.loads(Path(case).read_text())))
    else:  # what a tool itself costs is not the model's: it is imported first
        job = json.loads(arguments[0])[0]
        if job["runtime"] in needs:
            importlib.import_module(needs[job["runtime"]])
        measure_memory(arguments[0])


if __name__ == "__main__":
    main(MAKERS, NEEDS, *sys.argv[1:])
