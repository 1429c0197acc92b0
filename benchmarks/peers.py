"""Side by side with the tools that a user would otherwise pick: one run, interleaved, same network, same images.

    pip install nncf litert-torch ai-edge-litert ai-edge-quantizer      # beside edgeq[openvino]; each can be missing
    python benchmarks/peers.py --weights mobilenet_v2.safetensors --images FOLDER --work DIR

FOLDER has `calib/` (images to calibrate on) and `val/<wnid>/` (images to report on). Files that are in DIR already are
not made again. Each is made in a process of its own, whose time and peak memory are noted; then all take turns in one
process, for each number of threads and images in a batch. Everything goes to `benchmarks/results/MODEL/peers.json`,
every sample included, and the figure beside it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from peer_tools import Case, litert_runner
from shared import CLI, timed

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.errors import EdgeqError
from edgeq.evaluation.latency import interleaved
from edgeq.evaluation.memory import empty_model, memory_in_fresh_process
from edgeq.reports.figures import COLOURS
from edgeq.runtimes.jobs import Job, Run, Runner, model_file
from edgeq.runtimes.opening import open_model
from edgeq.runtimes.torch import float_runner
from edgeq.system.environment import environment

TOOLS: Final = Path(__file__).with_name("peer_tools.py")
SCHEMES: Final = ("8bit", "4bit", "2bit", "adaptive")
BASE: Final = "float"
PLAIN: Final = "quantize_static"
PACKAGES: Final = ("nncf", "litert-torch", "ai-edge-litert", "ai-edge-quantizer")
SETTINGS: Final = ((1, 1), (2, 1), (1, 8), (2, 8))  # threads, images in a batch
WARM_UP: Final = 10


@dataclass(frozen=True)
class Row:
    """A file in a runtime, and what makes the file; `pixels` where it takes bytes with the channels last."""

    name: str
    runtime: str
    file: Path
    maker: str
    pixels: bool = False

    def job(self, shape: Sequence[int], threads: int, batch: int) -> Job:
        return Job.of(self.runtime, str(self.loaded), shape, batch, threads, self.pixels)

    @property
    def loaded(self) -> Path:
        return model_file(self.runtime, self.file)

    @property
    def bytes(self) -> int:
        """Of the file and, with OpenVINO's own, the weights beside it."""
        beside = self.file.with_suffix(".bin")
        return self.loaded.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def rows_of(model: str, work: Path) -> list[Row]:
    """All that there is to compare."""
    own = {scheme: work / "exports" / f"{model}-{scheme}.onnx" for scheme in ("fp32", *SCHEMES)}
    peers = work / "peers"
    return [
        Row(BASE, "onnxruntime", own["fp32"], "edgeq fp32"),
        Row("float, OpenVINO", "openvino", own["fp32"], "edgeq fp32"),
        Row("float, PyTorch eager", "eager", peers / f"{model}.safetensors", "torchvision"),
        Row(PLAIN, "onnxruntime", peers / "static.onnx", PLAIN),
        Row("quantize_static, entropy", "onnxruntime", peers / "entropy.onnx", "quantize_static, entropy"),
        Row("quantize_static, INT4", "onnxruntime", peers / "int4.onnx", "quantize_static, INT4"),
        Row("NNCF", "onnxruntime", peers / "nncf.onnx", "NNCF"),
        Row("NNCF, OpenVINO", "openvino", peers / "nncf.xml", "NNCF, OpenVINO"),
        Row("LiteRT", "litert", peers / "litert.tflite", "LiteRT", pixels=True),
        *(Row(f"edgeq {s}", "onnxruntime", own[s], f"edgeq {s}") for s in SCHEMES),
        *(
            Row(f"edgeq {s}, uint8 in", "onnxruntime", own[s].with_stem(f"{own[s].stem}-uint8"), f"edgeq {s}", True)
            for s in SCHEMES
        ),
        *(Row(f"edgeq {s}, OpenVINO", "openvino", own[s], f"edgeq {s}") for s in SCHEMES),
        *(Row(f"edgeq {s}, PyTorch", "torch", own[s], f"edgeq {s}") for s in SCHEMES),
        *(Row(f"edgeq {s}, PyTorch reference", "torch-reference", own[s], f"edgeq {s}") for s in SCHEMES),
    ]


def cost_of(row: Row, case: Case, effort: str, work: Path) -> dict[str, float] | None:
    """Make the file of a row unless it is there; what that took, or None where it failed, as without the tool."""
    note = work / "costs" / f"{row.file.name}.json"
    if not note.exists():
        if row.maker.startswith("edgeq"):
            command = [*CLI, "export", "--record", f"calib/{case.model}.calib", "--effort", effort]
            command += ["--scheme", row.maker.removeprefix("edgeq "), "--output", str(row.file)]
            command += ["--input", "uint8"] if row.pixels else []
        else:
            request = note.with_suffix(".case")
            request.write_text(json.dumps(asdict(case) | {"output": str(row.file)}))
            command = [sys.executable, str(TOOLS), "make", row.maker, str(request)]
        try:
            note.write_text(json.dumps(timed(command, work)))
        except SystemExit as failure:
            click.echo(f"not run: {row.name} ({failure})", err=True)
            return None
    found: dict[str, float] = json.loads(note.read_text())
    return found


def latencies(rows: Sequence[Row], shape: Sequence[int], threads: int, batch: int, runs: int) -> dict[str, list[float]]:
    """Milliseconds of all rows that can run this batch, by name, taking turns."""
    jobs = {row.name: row.job(shape, threads, batch) for row in rows}
    for name, job in list(jobs.items()):
        try:
            open_model(job)
        except EdgeqError as error:
            click.echo(f"not run: {name}, batch {batch} ({error})", err=True)
            del jobs[name]
    label = f"{threads} threads, batch {batch}"
    with click.progressbar(length=runs + WARM_UP, label=label, file=sys.stderr) as bar:
        samples = interleaved(list(jobs.values()), runs, WARM_UP, lambda done: bar.update(1))
    return dict(zip(jobs, samples, strict=True))


def raw_to_class(rows: Sequence[Row], source: edgeq.Source, runs: int) -> dict[str, list[float]]:
    """Milliseconds from an image in bytes to its class on one thread; before a float input, NumPy prepares it."""
    shape, prepared_as = source.network.graph.image.shape, source.preprocess
    assert prepared_as is not None
    image = np.random.default_rng(0).integers(0, 256, (1, *shape[1:], shape[0]), dtype=np.uint8)
    mean, std = (np.array(v, np.float32) for v in (prepared_as.mean, prepared_as.std))

    def prepared() -> NDArray[np.float32]:
        return np.ascontiguousarray(((image / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))

    opened = {row.name: (open_model(row.job(shape, 1, 1)), row.pixels) for row in rows}
    samples: dict[str, list[float]] = {name: [] for name in opened}
    generator = np.random.default_rng(0)
    for turn in range(runs + WARM_UP):
        for i in generator.permutation(len(rows)):
            run, pixels = opened[rows[i].name]
            began = time.perf_counter_ns()
            run([image if pixels else prepared()])
            if turn >= WARM_UP:
                samples[rows[i].name].append((time.perf_counter_ns() - began) / 1e6)
    return samples


def runner(row: Row, source: edgeq.Source) -> Runner:
    """The answers of a row to the images that the float network takes."""
    if row.runtime == "litert":
        return litert_runner(str(row.file))
    if row.runtime == "onnxruntime":
        return edgeq.onnx_runner(row.file, preprocess=source.preprocess)
    opened: dict[int, Run] = {}

    def answers(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(images) not in opened:
            opened[len(images)] = open_model(row.job(images.shape[1:], 1, len(images)))
        found: Any = opened[len(images)]([images])
        return np.array(next(iter(found.values())) if row.runtime == "openvino" else found)

    return answers


def figure(body: dict[str, Any]) -> Figure:
    """Bars of the first setting's medians, fastest on top, with the bytes of each file."""
    first = {name: row["latency"][0]["median_ms"] for name, row in body["rows"].items() if "latency" in row}
    names = sorted(first, key=lambda name: first[name])
    drawn = Figure(figsize=(12.8, 9.6), layout="constrained", dpi=150)
    axes = drawn.subplots()
    axes.barh(names, [first[n] for n in names], color=[COLOURS["adaptive" if "edgeq" in n else "fp32"] for n in names])
    axes.invert_yaxis()
    for i, name in enumerate(names):
        note = f" {first[name]:.2f} ms, {body['rows'][name]['bytes'] / 1e6:.2f} MB"
        axes.text(first[name], i, note, va="center", fontsize=13)
    axes.set_xlim(0, 1.25 * max(first.values()))
    axes.tick_params(labelsize=13)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"median ms, batch 1, 1 thread, {body['environment']['cpu']}", fontsize=13)
    axes.set_title(f"{body['model']}: runtimes and tools side by side", fontsize=20, fontweight="bold", loc="left")
    return drawn


@click.command()
@click.option("--model", default="mobilenet_v2")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for models; kept.")
@click.option("--effort", default="fast", help="Of edgeq's exports; changes their answers, not their speed.")
@click.option("--runs", default=100)
@click.option("--output", type=click.Path(path_type=Path), default=None)
def main(model: str, weights: Path, images: Path, work: Path, effort: str, runs: int, output: Path | None) -> None:
    weights, images, work = weights.absolute(), images.absolute(), work.absolute()
    for folder in ("calib", "exports", "peers", "costs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    calibrated = work / "costs" / "calibrate.json"
    if not calibrated.exists():
        flags = ["--model", model, "--weights", str(weights), "--data", str(images / "calib")]
        calibrated.write_text(json.dumps(timed([*CLI, "calibrate", *flags], work)))
    source = edgeq.load(model, str(weights))
    case = Case(model, str(weights), str(images / "calib"), str(work / "exports" / f"{model}-fp32.onnx"), "")
    costs = {row: cost_of(row, case, effort, work) for row in rows_of(model, work)}
    rows = [row for row, cost in costs.items() if cost is not None]
    found: dict[str, dict[str, Any]] = {
        row.name: {"runtime": row.runtime, "maker": row.maker, "bytes": row.bytes, "cost": costs[row]} for row in rows
    }
    shape = source.network.graph.image.shape
    for threads, batch in SETTINGS:
        for name, samples in latencies(rows, shape, threads, batch, runs).items():
            middle, p90 = float(np.median(samples)), float(np.percentile(samples, 90))
            row_of = {"threads": threads, "batch": batch, "median_ms": middle, "p90_ms": p90, "samples_ms": samples}
            found[name].setdefault("latency", []).append(row_of)
    for row in rows:
        with empty_model("onnxruntime") as onnx_file:
            empty = onnx_file if row.runtime in ("onnxruntime", "openvino") else None
            memory = memory_in_fresh_process(row.job(shape, 1, 1), empty, (str(TOOLS), "memory"))
        found[row.name]["memory"] = asdict(memory)
    body: dict[str, Any] = {
        "model": model,
        "effort": effort,
        "environment": environment(),
        "versions": {name: version(name) for name in PACKAGES if find_spec(name.replace("-", "_"))},
        "calibrate": json.loads(calibrated.read_text()),
        "not_run": [row.name for row, cost in costs.items() if cost is None],
        "rows": found,
        "raw_to_class_ms": raw_to_class([row for row in rows if row.runtime == "onnxruntime"], source, runs),
    }
    if (images / "val").exists():
        held_out = edgeq.ImageSet.labelled(images / "val", source.classes or 0)
        runners = {row.name: runner(row, source) for row in rows}
        report = edgeq.evaluate(runners, float_runner(source.network), held_out, source.preprocess, 8)
        body |= {"images": report.images, "reference_top1": report.reference.top1}
        for score in report.models:
            found[score.name] |= {"top1": score.top1, "agreement": score.agreement}
    output = output or Path(__file__).parent / "results" / model
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "peers.json", "peers", 1, body)
    figure(body).savefig(output / "peers.png")


if __name__ == "__main__":
    main()
