"""Trained ONNX files that people run, through the command line and back into the applications that they come from.

    python benchmarks/onnx_files.py --work DIR --store
    python benchmarks/onnx_files.py --work DIR --only "text recognition" --effort balanced

Text detection, recognition and orientation of `rapidocr_onnxruntime`, detection and recognition of `ddddocr`; both
packages are needed. Each is calibrated on what its application feeds it with, exported at 8 and 4 bits, quantized with
ONNX Runtime's own tool, and compared with the original: its outputs, what the application answers with the file in
place of the original, latency, size, kernels. DIR keeps the files; a step whose file is there is not done again.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx_applications import APPLICATIONS, Application
from peer_tools import static_file
from shared import CLI, publish
from text_images import Pixels
from zoo_stages import kernels

from edgeq.artifacts.files import write_json
from edgeq.errors import one_line
from edgeq.evaluation.latency import interleaved
from edgeq.runtimes.jobs import Job, TensorType
from edgeq.runtimes.onnxruntime import session_of
from edgeq.system.environment import environment

SCHEMES: Final = ("8bit", "4bit")
STATIC: Final = "quantize_static"
_STATIC_IMAGES: Final = 100
_WARM_UP: Final = 5

Arrays = Sequence[NDArray[np.float32]]


class Subject:
    """One file on its way.

    Args:
        name: one of `APPLICATIONS`.
        work: the folder of all files.
        effort: of the exports.
        reduce_range: whether 8-bit weights are for CPUs without VNNI, too.
    """

    def __init__(self, name: str, work: Path, effort: str, reduce_range: bool) -> None:
        self.application: Application = APPLICATIONS[name]
        self.effort, self.reduce_range, self.folder = effort, reduce_range, work / name.replace(" ", "-")
        (self.folder / "images").mkdir(parents=True, exist_ok=True)

    def file(self, scheme: str) -> Path:
        kind = "" if scheme == STATIC else f"-{self.effort}"
        return self.folder / f"{scheme}{kind}{'-reduced' * self.reduce_range}.onnx"

    def arrays(self) -> list[NDArray[np.float32]]:
        """What the application feeds the original with for the images to calibrate on; kept, an array a file."""
        kept = sorted((self.folder / "images").glob("*.npy"))
        if not kept:
            images = self.application.images("calibration", self.application.calibration)
            for i, array in enumerate(self.application.inputs(images)):
                np.save(self.folder / "images" / f"{i:04}.npy", array)
            kept = sorted((self.folder / "images").glob("*.npy"))
        return [np.load(file) for file in kept]

    def exported(self) -> dict[str, str]:
        """Make the files of edgeq by its command line; what it says of each."""
        record, said = self.folder / "record.calib", {}
        if not record.exists():
            given = ["--input-shape", self.application.shape, "--data", str(self.folder / "images")]
            said["calibrate"] = _run("calibrate", str(self.application.path), *given, "--output", str(record))
        for scheme in SCHEMES:
            if not self.file(scheme).exists():
                how = ["--scheme", scheme, "--effort", self.effort, "--output", str(self.file(scheme))]
                how += ["--reduce-range"] * self.reduce_range
                said[scheme] = _run("export", "--record", str(record), *how)
        return said

    def static(self, arrays: Arrays) -> str | None:
        """The file of quantize_static: of the original as it comes, or else of opset 17; why there is none."""
        problem = None
        for convert in (False, True):
            try:
                images = iter(arrays[:_STATIC_IMAGES])
                static_file(str(self._fixed(convert)), str(self.file(STATIC)), images, reduce_range=self.reduce_range)
                session_of(str(self.file(STATIC)))
            except Exception as error:  # of whatever type; the next way may do
                problem = one_line(error)[:300]
                self.file(STATIC).unlink(missing_ok=True)
            else:
                return None
        return problem

    def _fixed(self, convert: bool) -> Path:
        """The original for one size, which is what its tool asks for; of opset 17 if it is converted."""
        model, path = onnx.load(self.application.path), self.folder / f"fixed{convert:d}.onnx"
        sizes = map(int, self.application.shape.split("x"))
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
            dim.dim_value = size
        onnx.save(onnx.version_converter.convert_version(model, 17) if convert else model, path)
        return path

    def measured(self, images: Sequence[Pixels], runs: int) -> dict[str, Any]:
        """Every file beside the original: on images that no calibration has seen."""
        files = {"original": self.application.path}
        files |= {name: self.file(name) for name in (*SCHEMES, STATIC) if self.file(name).exists()}
        inputs = self.application.inputs(images)
        outputs = {name: _outputs(path, inputs) for name, path in files.items()}
        answers = {name: self.application.answers(path, images) for name, path in files.items()}
        shape = tuple(map(int, self.application.shape.split("x")))
        jobs = [Job("onnxruntime", str(path), (TensorType(shape),), 1) for path in files.values()]
        samples = dict(zip(files, interleaved(jobs, runs, _WARM_UP, lambda done: None), strict=True))
        return {
            name: {
                "bytes": path.stat().st_size,
                "kernels": kernels(path),
                "sqnr_db": decibels(outputs["original"], outputs[name]),
                "same": share(self.application.likeness, answers["original"], answers[name]),
                "median_ms": float(np.median(samples[name])),
                "samples_ms": samples[name],
            }
            for name, path in files.items()
        }


def _run(*command: str) -> str:
    found = subprocess.run([*CLI, *command], capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{' '.join(command)}: {found.stderr}")
    return found.stdout + found.stderr


def _outputs(path: Path, inputs: Arrays) -> Iterator[NDArray[np.float64]] | list[NDArray[np.float64]]:
    session = session_of(str(path), threads=1)
    name = session.get_inputs()[0].name
    return [np.concatenate([np.ravel(x).astype(np.float64) for x in session.run(None, {name: a})]) for a in inputs]


def decibels(expected: Any, found: Any) -> float | None:
    """Signal over noise of all outputs, in dB; None if there is no noise."""
    noise = sum(float(np.square(a - b).sum()) for a, b in zip(expected, found, strict=True))
    signal = sum(float(np.square(a).sum()) for a in expected)
    return 10 * float(np.log10(signal / noise)) if noise else None


def share(likeness: Callable[[Any, Any], tuple[float, float]], expected: list[Any], found: list[Any]) -> float:
    """How much of the answers is the same, in percent."""
    parts = [likeness(a, b) for a, b in zip(expected, found, strict=True)]
    return 100 * sum(same for same, _ in parts) / sum(whole for _, whole in parts)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for files; kept.")
@click.option("--only", multiple=True, type=click.Choice(list(APPLICATIONS)), default=list(APPLICATIONS))
@click.option("--effort", default="fast", show_default=True, help="Of the exports.")
@click.option("--reduce-range", is_flag=True, help="8-bit weights that CPUs without VNNI compute exactly.")
@click.option("--runs", default=50, show_default=True, help="Timed runs of each file.")
@click.option("--store", is_flag=True, help="Store what was found, in place of what is there of the same files.")
def main(work: Path, only: tuple[str, ...], effort: str, reduce_range: bool, runs: int, store: bool) -> None:
    stored = Path(__file__).parent / "results" / "onnx_files.json"
    found: dict[str, Any] = {}
    for name in only:
        subject = Subject(name, work.absolute(), effort, reduce_range)
        arrays = subject.arrays()
        said, problem = subject.exported(), subject.static(arrays)
        images = subject.application.images("test", subject.application.test)
        rows = subject.measured(images, runs)
        found[name] = {
            "file": subject.application.path.name,
            "shape": subject.application.shape,
            "unit": subject.application.unit,
            "images": {"calibration": len(arrays), "test": len(images)},
            "effort": effort,
            "reduce_range": reduce_range,
            "said": said,
            STATIC: problem,
            "environment": environment(),
            "models": rows,
        }
        for kind, row in rows.items():
            click.echo(f"{name}, {kind}: " + ", ".join(f"{k} {v}" for k, v in row.items() if k != "samples_ms"))
    if store:
        before: dict[str, Any] = json.loads(stored.read_text())["files"] if stored.exists() else {}
        found = {name: (before | found)[name] for name in APPLICATIONS if name in before | found}
        report = work / "onnx_files.json"
        write_json(report, "onnx-files", 1, {"files": found})
        publish(report, stored, [work, *{application.path.parent for application in APPLICATIONS.values()}])


if __name__ == "__main__":
    main()
