"""`edgeq bench`: latency, load time and memory of models, next to the float baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from edgeq.artifacts.files import check_output, write_json
from edgeq.artifacts.manifest import read_manifest
from edgeq.artifacts.measured import BENCH
from edgeq.artifacts.model_names import ending, short_name
from edgeq.artifacts.onnx_files import digest, model_files
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json, show
from edgeq.commands.evaluate import exported
from edgeq.commands.export import export
from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.evaluation.latency import BenchModel, bench, from_path
from edgeq.planning.recipe import Recipe
from edgeq.reports import tables
from edgeq.runtimes.jobs import Runtime
from edgeq.system.progress import SILENT, Progress

OUTPUT: Final = defaults.EXPORTS / "bench.json"


@dataclass(frozen=True)
class Measurement:
    """The options of `edgeq bench`.

    Attributes:
        files: ONNX files; empty means all in `exports/`.
        device: `cpu`.
        runtime: see `edgeq.bench`.
        threads: number of threads of the runtime.
        batch: number of images in a run.
        runs: number of timed runs of each model.
        output: path of the report.
        force: replace a file that edgeq did not write.
    """

    files: Sequence[Path] = ()
    device: str = "cpu"
    runtime: Runtime = "onnxruntime"
    threads: int = 1
    batch: int = 1
    runs: int = 50
    output: Path = OUTPUT
    force: bool = False


def measure(asked: Measurement, progress: Progress = SILENT) -> dict[str, Any]:
    """Measure latency and memory of models next to the float baseline, and write the report.

    Args:
        asked: the options.
        progress: receives progress, and notices about a missing baseline and unstable results.

    Returns:
        The report as JSON values, see `BenchReport`.

    Raises:
        EdgeqError: bad input; nothing is written.
    """
    if asked.device != "cpu":
        raise UnsupportedError(
            f"device {asked.device}: expected cpu, the only device that edgeq measures on; use --device cpu"
        )
    models = [from_path(path) for path in exported(asked.files)]
    check_output(asked.output, asked.force)
    if asked.runtime == "native":
        progress.notice("no fp32 baseline, so no ratios to it: the native engine runs quantized networks only")
    else:
        models += _baseline(models, progress)
    report = bench(models, asked.runtime, threads=asked.threads, batch=asked.batch, runs=asked.runs, progress=progress)
    for warning in report.warnings:
        progress.notice(f"warning: {warning}")
    body = report.to_dict()
    write_json(asked.output, BENCH.name, BENCH.version, body)
    return body


def _baseline(models: Sequence[BenchModel], progress: Progress) -> list[BenchModel]:
    """Return the float network of the first model with a manifest, exported if there is no file of it yet."""
    described = [model.path for model in models if model.scheme is not None]
    if any(model.scheme == "fp32" for model in models) or not described:
        return []
    network = read_manifest(described[0])["network"]
    if not network:  # of the Python API, which has its own records
        progress.notice(
            "warning: no fp32 baseline, so no ratios to it: add the float file of this network to those measured"
        )
        return []
    model = str(network.get("model"))
    if ending(model) == ".onnx":
        return _original(Path(model), network, next(one for one in models if one.path == described[0]), progress)
    path = defaults.EXPORTS / f"{short_name(model)}-fp32.onnx"
    if path.exists() and path.with_suffix(".json").exists() and read_manifest(path)["network"] == network:
        return [from_path(path)]
    record = defaults.RECORDS / f"{short_name(model)}.calib"
    if not record.exists() or CalibrationRecord.load(record).network != network:
        found = "is not of this network" if record.exists() else "is not there"
        progress.notice(
            f"warning: no fp32 baseline, so no ratios to it: {record} {found}; "
            f"make one with `edgeq export --scheme fp32 --record FILE --output {path}`"
        )
        return []
    progress.notice(f"no fp32 baseline yet, so exporting {path} first, as `edgeq export --scheme fp32` does")
    export(Recipe("fp32"), record, path, progress=progress)
    return [from_path(path)]


def _original(path: Path, network: Mapping[str, Any], replacement: BenchModel, progress: Progress) -> list[BenchModel]:
    """Return the ONNX file that a measured one takes the place of, and so takes the same inputs."""
    try:
        same = digest(model_files(path)) == network.get("sha256")
    except ArtifactError:
        same = False
    if not same:
        progress.notice(f"warning: no fp32 baseline, so no ratios to it: {path} has changed or is not there")
        return []
    return [BenchModel(path.stem, path, replacement.inputs, scheme="fp32")]


@click.command("bench")
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE]...")
@click.option("--device", default="cpu", show_default=True, metavar="cpu", help="Where to run.")
@click.option(
    "--runtime", default="onnxruntime", show_default=True, metavar="onnxruntime|openvino|torch|torch-reference|native",
    help="The runtime.",
)  # fmt: skip
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the runtime.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images in one run.")
@click.option("--runs", type=int, default=50, show_default=True, help="Timed runs of each model.")
@click.option("--output", type=options.PATH, default=OUTPUT, show_default=True, help="The report.")
@options.force
@options.json
def command(as_json: bool, **given: Any) -> None:
    """Measure latency, load time and memory, next to the float baseline.

    Without files, all in exports/ are measured; the fp32 baseline is exported first if it is missing.

    \b
    Example:
      edgeq bench --device cpu --threads 2
    """
    asked = Measurement(**given)
    with listening() as progress:
        body = measure(asked, progress)
    if as_json:
        print_json(asked.output.read_text(encoding="utf-8"))
    else:
        show(tables.bench_table(body))
        click.echo(f"{asked.output}: {tables.bench_text(body)}")
