"""The native engine beside ONNX Runtime on the same files: latency, memory, load, and whether every bit is the same.

    python benchmarks/native.py exports/mobilenet_v2-{8bit,4bit,adaptive,2bit}.onnx --images val --store

Both run each file in turns, one image on one thread; then two threads and batches of 8, for which each runs alone for
a while, as threads of ONNX Runtime go on spinning. Memory and load are those of a fresh process above what the runtime
itself takes. Outputs are compared on images, if a folder of them is given.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

import click
import numpy as np
from shared import publish

from edgeq.artifacts.files import write_json
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.evaluation.latency import BenchModel, from_path, interleaved
from edgeq.evaluation.memory import empty_model, memory_in_fresh_process
from edgeq.exporters.c.export import export_c
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import overflows, runner
from edgeq.ir.batches import Images
from edgeq.lowering.lower import lower
from edgeq.native.program import Kind, Step
from edgeq.packed.file import load_packed
from edgeq.runtimes.jobs import Job, Runtime
from edgeq.runtimes.native import NativeModel
from edgeq.runtimes.opening import prepared
from edgeq.system.environment import environment

RUNTIMES: Final[tuple[Runtime, ...]] = ("onnxruntime", "native")
COMPILER: Final = "arm-none-eabi-gcc"
M7: Final = ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-Os", "-ffunction-sections")
OTHERS: Final = ((2, 1), (1, 8), (2, 8))
"""Threads and images at once, besides one of each."""
_TURNS: Final = 4
_WARM_UP: Final = 5
_BATCH: Final = 20


def code_bytes(folder: Path, steps: int) -> int | None:
    """Bytes of code for a Cortex-M7, without the table of steps and what is not used; None without that compiler."""
    if not shutil.which(COMPILER):
        return None
    sources = [path for path in folder.rglob("*.c") if path.parent.name != "check"]
    weights = [path for path in sources if path.name.endswith("_weights.c")]
    entry = f"{folder.name}_run"
    with tempfile.TemporaryDirectory() as made:
        linked = Path(made) / "net.elf"
        code = [str(path) for path in sources if path not in weights]
        empty = Path(made) / "weights.c"
        empty.write_text(f"const unsigned char {folder.name}_weights[1];")
        command = [COMPILER, *M7, "-std=c99", "-ffp-contract=off", "-DEQ_PORTABLE", *code, str(empty), "-lm"]
        command += ["-Wl,--gc-sections", f"-Wl,-e,{entry}", "-nostartfiles", "--specs=nosys.specs", "-o", str(linked)]
        subprocess.run(command, check=True, capture_output=True)
        sizes = subprocess.run(["arm-none-eabi-size", linked], check=True, capture_output=True, text=True).stdout
    return int(sizes.splitlines()[1].split()[0]) - steps


def batches(images: Path | None, preprocess: Preprocess, most: int) -> Iterator[Any]:
    """Images of a folder; random ones without."""
    if images is None:
        yield np.random.default_rng(0).standard_normal((_BATCH, *preprocess.shape), dtype=np.float32)
    else:
        yield from ImageSet.folder(images, most, 0).inputs({"image": preprocess.shape}, preprocess, _BATCH)


def compared(model: BenchModel, images: Path | None, most: int) -> dict[str, Any]:
    """How many values of the outputs are the same in ONNX Runtime and in the engine."""
    manifest = json.loads(model.path.with_suffix(".json").read_text(encoding="utf-8"))
    network = load_packed(model.path.with_suffix(".safetensors"))
    pixels = manifest["input"] == "uint8"
    made = translate(network, pixels)
    native, theirs = NativeModel(lower(network, pixels), model.name), runner(made, model.path, exact=overflows(network))
    same = total = count = 0
    for batch in batches(images, Preprocess.from_dict(manifest["preprocess"]), most):
        ours = native(batch)
        for output, expected in zip(network.graph.outputs, theirs(Images.of(network.graph, batch)), strict=True):
            same += int((ours[output.name] == expected).sum())
            total += expected.size
        count += len(batch)
    with tempfile.TemporaryDirectory() as folder:
        first = next(batches(images, Preprocess.from_dict(manifest["preprocess"]), most))[:1]
        about = export_c(network, Path(folder) / "net", [first], pixels=pixels)
        steps = about["steps"] * len(Step(Kind.COPY).pack())
        code = code_bytes(Path(folder) / "net", steps)
    return {
        "images": count, "values": total, "different": total - same, "arena_bytes": about["arena"],
        "weights_bytes": about["weights"], "steps_bytes": steps, "m7_code_bytes": code,
    }  # fmt: skip


def measured(models: list[BenchModel], runs: int, memory: bool = True) -> dict[str, dict[str, Any]]:
    """Latency, memory and load of every model in both runtimes."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = prepared([model.job(runtime, 1, 1) for model in models for runtime in RUNTIMES], Path(folder))
        samples = interleaved(jobs, runs, _WARM_UP, lambda done: None)
        rows = [_row(job, found, memory) for job, found in zip(jobs, samples, strict=True)]
    each = len(RUNTIMES)
    return {
        model.name: dict(zip(RUNTIMES, rows[each * i : each * (i + 1)], strict=True)) for i, model in enumerate(models)
    }


def _row(job: Job, samples: list[float], memory: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"median_ms": float(np.median(samples)), "samples_ms": samples}
    if memory:
        with empty_model(cast(Runtime, job.runtime)) as empty:
            row["memory"] = asdict(memory_in_fresh_process(job, empty))
    return row


def in_other_settings(model: BenchModel, runs: int) -> list[dict[str, Any]]:
    """Latency of a model on several threads and with several images, in turns of many runs."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for threads, batch in OTHERS:
            place = Path(folder) / f"{threads}-{batch}"
            place.mkdir()
            jobs = prepared([model.job(runtime, batch, threads) for runtime in RUNTIMES], place)
            samples: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
            for _ in range(_TURNS):
                for job in jobs:
                    samples[job.runtime] += interleaved([job], runs // _TURNS, _WARM_UP, lambda done: None)[0]
            found = {name: {"median_ms": float(np.median(one)), "samples_ms": one} for name, one in samples.items()}
            rows.append({"threads": threads, "batch": batch, **found})
    return rows


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="A folder of images to compare outputs on.")
@click.option("--most", default=1300, show_default=True, help="Images of it.")
@click.option("--runs", default=200, show_default=True, help="Timed runs of each file in each runtime.")
@click.option("--name", default="native", show_default=True, help="Of the results.")
@click.option("--store", is_flag=True, help="Store what was found.")
def main(files: tuple[Path, ...], images: Path | None, most: int, runs: int, name: str, store: bool) -> None:
    models = [from_path(path) for path in files]
    rows = measured(models, runs)
    for model in models:
        found = rows[model.name]
        found["parity"] = compared(model, images, most)
        found["others"] = in_other_settings(model, runs)
        theirs, ours = (found[runtime]["median_ms"] for runtime in RUNTIMES)
        peaks = {runtime: found[runtime]["memory"]["peak_rss_bytes"] / 1e6 for runtime in RUNTIMES}
        loads = {runtime: found[runtime]["memory"]["load_ms"] for runtime in RUNTIMES}
        click.echo(
            f"{model.name}: {ours:.2f} ms of {theirs:.2f} ({ours / theirs:.2f}x); peak MB {peaks}; load ms {loads}; "
            f"{found['parity']}"
        )
        for one in found["others"]:
            theirs, ours = (one[runtime]["median_ms"] for runtime in RUNTIMES)
            click.echo(f"  {one['threads']} threads, {one['batch']} images: {ours:.2f} ms ({ours / theirs:.2f}x)")
    if store:
        report = Path(tempfile.mkdtemp()) / "native.json"
        write_json(report, "native", 1, {"environment": environment(), "runs": runs, "files": rows})
        private = [report.parent, *({images} if images else ()), *{path.absolute().parent for path in files}]
        publish(report, Path(__file__).parent / "results" / f"{name}.json", private)


if __name__ == "__main__":
    main()
