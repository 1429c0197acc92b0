"""The whole pipeline on real weights and images: accuracy, size, latency, memory, parity, figures.

    python benchmarks/real_weights.py --model mobilenet_v2 --weights mobilenet_v2.safetensors --images FOLDER

FOLDER has `calib/` (images to calibrate on; any layout) and `val/<wnid>/` (images to report on). Every step is the
command a user would type; its seconds and peak memory are noted. ONNX Runtime's own quantizer makes the file to
compare with. Reports and figures go to `benchmarks/results/MODEL/`.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from shared import CLI, publish, timed

import edgeq
from edgeq.artifact import dumps
from edgeq.environment import environment
from edgeq.parity import compare
from edgeq.preprocess import Preprocess

SCHEMES = ("fp32", "8bit", "4bit", "2bit", "adaptive")
STATIC_IMAGES = 256
IMPORTS = "import edgeq.calibrate, edgeq.models, edgeq.images"


class Reader(CalibrationDataReader):  # type: ignore[misc]  # its base is not annotated
    """Feeds calibration images to ONNX Runtime's quantizer one at a time."""

    def __init__(self, images: edgeq.ImageSet, preprocess: Preprocess) -> None:
        self.batches = (batch.images for batch in images.batches(preprocess, 1))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        found = next(self.batches, None)
        return None if found is None else {"image": found}


def static(folder: Path, model: str, images: Path, preprocess: Preprocess) -> Path:
    """ONNX Runtime's quantizer at its documented best for CNNs: QDQ, per channel, uint8 activations, int8 weights."""
    prepared, output = folder / "prepared.onnx", folder / "exports" / f"{model}-quantize_static.onnx"
    quant_pre_process(folder / "exports" / f"{model}-fp32.onnx", prepared)
    quantize_static(
        prepared, output, Reader(edgeq.ImageSet.folder(images, STATIC_IMAGES, 0), preprocess),
        quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return output


@click.command()
@click.option("--model", default="mobilenet_v2")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--samples", default=1000)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for models; kept.")
@click.option("--output", type=click.Path(path_type=Path), default=None)
def main(model: str, weights: Path, images: Path, samples: int, work: Path, output: Path | None) -> None:
    output = output or Path(__file__).parent / "results" / model
    work.mkdir(parents=True, exist_ok=True)
    calib, val = images.absolute() / "calib", images.absolute() / "val"
    record = f"calib/{model}.calib"
    costs = {"imports": timed([sys.executable, "-c", IMPORTS], work)}
    costs["calibrate"] = timed(
        [*CLI, "calibrate", "--model", model, "--weights", str(weights.absolute()), "--data", str(calib),
         "--samples", str(samples)], work,
    )  # fmt: skip
    for scheme in SCHEMES:
        costs[f"export {scheme}"] = timed([*CLI, "export", "--scheme", scheme, "--record", record], work)
    source = edgeq.load(model, str(weights))
    began = time.monotonic()
    peer = static(work, model, calib, source.preprocess)
    costs["quantize_static"] = {"seconds": round(time.monotonic() - began, 1)}
    files = [f"exports/{model}-{scheme}.onnx" for scheme in SCHEMES] + [str(peer.relative_to(work))]
    timed([*CLI, "evaluate", *files[:-1], "--data", str(val)], work)
    runner = edgeq.onnx_runner(peer)
    held_out = edgeq.ImageSet.labelled(val, source.classes)
    scored = edgeq.evaluate({peer.stem: runner}, runner, held_out, source.preprocess, 8)
    peer_score = asdict(scored.models[0]) | {"bytes": peer.stat().st_size}
    for threads in (1, 2):
        reports = ["--threads", str(threads), "--output", f"exports/bench-{threads}.json"]
        timed([*CLI, "bench", *files, "--runs", "100", *reports], work)
    for runtime, runs in (("openvino", "100"), ("torch", "20")):
        report = f"exports/bench-{runtime}.json"
        timed([*CLI, "bench", *files[:-1], "--runtime", runtime, "--runs", runs, "--output", report], work)
    shutil.copy(work / "exports" / "bench-1.json", work / "exports" / "bench.json")
    timed([*CLI, "plot"], work)
    parity = {}
    for scheme in SCHEMES:
        path = work / "exports" / f"{model}-{scheme}.onnx"
        network = edgeq.load_packed(path.with_suffix(".safetensors"))
        step = json.loads(path.with_suffix(".json").read_text())["parity"]["step"]
        batches = (batch.images for batch in held_out.batches(source.preprocess, 8))
        parity[scheme] = vars(compare(network, path, step, batches))
    body = {"model": model, "samples": samples, "environment": environment(), "costs": costs, "parity": parity}
    body["quantize_static"] = peer_score
    (work / "exports" / "run.json").write_text(dumps("run", 1, body))
    collect(work / "exports", output, [weights.absolute(), images.absolute()])


def collect(exports: Path, output: Path, private: list[Path]) -> None:
    """Copy reports and figures, without the folders that this machine keeps its data in."""
    output.mkdir(parents=True, exist_ok=True)
    for path in exports.glob("*.json"):
        publish(path, output / path.name, private)
    for path in exports.glob("*.png"):
        shutil.copy(path, output / path.name)


if __name__ == "__main__":
    main()
