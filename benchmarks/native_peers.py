"""The native engine beside other engines for small devices: time, memory, load and code size on the same network.

    pip install ncnn pnnx MNN ai-edge-litert litert-torch ai-edge-quantizer emx-onnx-cgen     # beside edgeq[openvino]
    python benchmarks/native_peers.py exports/mobilenet_v2-{8bit,4bit}.onnx --float exports/mobilenet_v2-fp32.onnx \\
        --weights mobilenet_v2.safetensors --images FOLDER --work DIR --store

FOLDER has `calib/` (images to calibrate on) and `val/<wnid>/` (images whose answers are compared with float). Programs
that come only as source, ncnn2table and ncnn2int8 of ncnn and onnx2c, are taken from PATH. What a peer is not installed
for, or refuses, is stored with its own words. Files that are in DIR already are not made again. All take turns in one
process, for each number of threads and images in a batch; generated C runs one image on one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from native_peer_tools import MAKERS
from numpy.typing import NDArray
from peer_tools import Case, litert_runner
from shared import publish

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.errors import ArtifactError, EdgeqError
from edgeq.evaluation.latency import interleaved
from edgeq.evaluation.memory import empty_model, memory_in_fresh_process
from edgeq.runtimes.jobs import Job, model_file
from edgeq.runtimes.opening import open_model, prepared
from edgeq.system.environment import environment

MODEL: Final = "mobilenet_v2"
TOOLS: Final = Path(__file__).with_name("native_peer_tools.py")
OWN: Final = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "native": "native"}
PEERS: Final = {"ncnn": ("ncnn", "param"), "MNN": ("mnn", "mnn"), "LiteRT": ("litert", "tflite")}
"""The runtime and the file of each; all others are generators of C."""

PACKAGES: Final = ("ncnn", "pnnx", "MNN", "ai-edge-litert", "litert-torch", "ai-edge-quantizer", "emx-onnx-cgen")
SETTINGS: Final = ((1, 1), (2, 1), (1, 8), (2, 8))  # threads, images in a batch
WARM_UP: Final = 5


@dataclass(frozen=True)
class Row:
    """A file in an engine."""

    name: str
    runtime: str
    file: Path

    def job(self, shape: Sequence[int], threads: int, batch: int) -> Job:
        return Job.of(self.runtime, str(self.file), shape, batch, threads, pixels=self.runtime == "litert")

    @property
    def bytes(self) -> int:
        """Of the file, and of the weights beside it."""
        beside = self.file.with_suffix(".bin")
        return self.file.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def own_rows(files: Sequence[Path], plain: Path) -> list[Row]:
    """edgeq's files where they run; the float file in ONNX Runtime."""
    rows = [
        Row(f"{file.stem.rpartition('-')[2]}, {engine}", runtime, model_file(runtime, file))
        for engine, runtime in OWN.items()
        for file in files
    ]
    return [*rows, Row("float, ONNX Runtime", "onnxruntime", plain)]


def peer_row(name: str, case: Case, work: Path) -> Row:
    """A peer with its file, made in a process of its own unless it is there.

    Raises:
        ArtifactError: the peer did not make it; with the last line that it printed.
    """
    engine, _, form = name.partition(", ")
    runtime, suffix = PEERS.get(engine, ("c", "so"))
    folder = work / f"{engine}-{form}"
    row = Row(name, runtime, folder / f"net.{suffix}")
    if not row.file.exists():
        folder.mkdir(exist_ok=True)
        request = folder / "case.json"
        request.write_text(json.dumps(asdict(case) | {"output": str(row.file)}))
        command = [sys.executable, str(TOOLS), "make", name, str(request)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not row.file.exists():
            said = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
            raise ArtifactError(said.removeprefix("edgeq.errors.UnsupportedError: "))
    return row


def latencies(
    rows: Sequence[Row], shape: Sequence[int], threads: int, batch: int, runs: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of all rows that run such a batch, by name, taking turns."""
    chosen = [row for row in rows if row.runtime != "c" or threads == batch == 1]
    with tempfile.TemporaryDirectory() as folder:
        jobs = prepared([row.job(shape, threads, batch) for row in chosen], Path(folder))
        label = f"{threads} threads, batch {batch}"
        with click.progressbar(length=runs + WARM_UP, label=label, file=sys.stderr) as bar:
            samples = interleaved(jobs, runs, WARM_UP, lambda done: bar.update(1))
    return {
        row.name: {"threads": threads, "batch": batch, "median_ms": float(np.median(found)), "samples_ms": found}
        for row, found in zip(chosen, samples, strict=True)
    }


def memory(row: Row, shape: Sequence[int]) -> dict[str, Any]:
    """Of a fresh process, above that of the engine without a model."""
    with tempfile.TemporaryDirectory() as folder, empty_model("onnxruntime") as empty:
        (job,) = prepared([row.job(shape, 1, 1)], Path(folder))
        needed = empty if row.runtime in ("onnxruntime", "openvino") else None
        return asdict(memory_in_fresh_process(job, needed, (str(TOOLS), "memory")))


def code_bytes(library: Path) -> int:
    """Of the machine code of a library, without constants."""
    listed = _printed("size", "-A", str(library))
    return next(int(line.split()[1]) for line in listed.splitlines() if line.startswith(".text"))


def _printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def top1(row: Row, images: NDArray[np.float32]) -> NDArray[np.intp]:
    """The classes that a row gives to images `[n, 3, h, w]`, one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        (job,) = prepared([row.job(images.shape[1:], 1, 1)], Path(folder))
        run: Any = litert_runner(str(row.file)) if row.runtime == "litert" else open_model(job)
        found = []
        for image in images[:, None]:
            logits = run(image) if row.runtime == "litert" else run([image])
            found.append(int(np.argmax(next(iter(logits.values())) if row.runtime == "openvino" else logits)))
    return np.array(found)


def versions(work: Path) -> dict[str, str]:
    """Of the packages, of the compiler, and of what was built from source, by what it writes."""
    found = {name: version(name) for name in PACKAGES if find_spec(name.replace("-", "_"))}
    found["gcc"] = _printed("gcc", "-dumpfullversion").strip()
    generated = work / "onnx2c-float" / "net.c"
    if generated.exists():
        with generated.open(encoding="utf-8") as lines:
            found["onnx2c"] = next(line.split()[-1] for line in lines if line.startswith("// Git Commit:"))
    return found


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--float", "plain", type=click.Path(exists=True, path_type=Path), required=True, help="Of fp32.")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for the peers' files; kept.")
@click.option("--most", default=100, show_default=True, help="Images whose answers are compared.")
@click.option("--runs", default=100, show_default=True)
@click.option("--store", is_flag=True, help="Store what was found.")
def main(
    files: tuple[Path, ...], plain: Path, weights: Path, images: Path, work: Path, most: int, runs: int, store: bool
) -> None:  # fmt: skip
    files, work = tuple(file.absolute() for file in files), work.absolute()
    plain, weights, images = plain.absolute(), weights.absolute(), images.absolute()
    work.mkdir(parents=True, exist_ok=True)
    source = edgeq.load(MODEL, str(weights))
    shape = source.network.graph.image.shape
    case = Case(MODEL, str(weights), str(images / "calib"), str(plain), "")
    rows, not_run = own_rows(files, plain), {}
    for name in MAKERS:
        try:
            rows.append(peer_row(name, case, work))
            open_model(rows[-1].job(shape, 1, 1))
        except EdgeqError as error:
            rows = [row for row in rows if row.name != name]
            not_run[name] = str(error)
            click.echo(f"not run: {name} ({error})", err=True)
    found: dict[str, dict[str, Any]] = {row.name: {"bytes": row.bytes, "latency": []} for row in rows}
    for threads, batch in SETTINGS:
        for name, latency in latencies(rows, shape, threads, batch, runs).items():
            found[name]["latency"].append(latency)
    held_out = edgeq.ImageSet.folder(images / "val", most, 0)
    taken = np.concatenate([batch.images for batch in held_out.batches(source.preprocess, 20)])
    answers = {row.name: top1(row, taken) for row in rows}
    reference = answers["float, ONNX Runtime"]
    for row in rows:
        found[row.name]["memory"] = memory(row, shape)
        found[row.name]["same_top1"] = float((answers[row.name] == reference).mean())
        found[row.name]["code_bytes"] = code_bytes(row.file) if row.runtime == "c" else None
        click.echo(f"{row.name}: {found[row.name]['latency'][0]['median_ms']:.2f} ms, {found[row.name]['same_top1']}")
    if store:
        report = Path(tempfile.mkdtemp()) / "native_peers.json"
        body = {
            "environment": environment(),
            "versions": versions(work),
            "runs": runs, "images": len(taken), "rows": found, "not_run": not_run,
        }  # fmt: skip
        write_json(report, "native_peers", 1, body)
        private = [work, images, weights.parent, *{file.parent for file in (*files, plain)}]
        publish(report, Path(__file__).parent / "results" / "native_peers.json", private)


if __name__ == "__main__":
    main()
