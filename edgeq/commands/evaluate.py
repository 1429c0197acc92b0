"""`edgeq evaluate`: ONNX files on images of any task, with the float network as the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from edgeq.artifacts.files import check_output, write_json
from edgeq.artifacts.manifest import Manifest, is_described, read_manifest
from edgeq.artifacts.measured import EVALUATION
from edgeq.artifacts.onnx_files import model_files, size
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json, show
from edgeq.commands.image_sets import report_notices, report_unreadable
from edgeq.commands.judging import Judging, classes_of, judged, opened, reference_of, setting_of, warn_of_overflow
from edgeq.commands.records import load_record
from edgeq.data.images import ImageSet
from edgeq.data.label_check import doubts
from edgeq.errors import ArtifactError
from edgeq.evaluation import accuracy
from edgeq.frontends.sources import Source
from edgeq.ir.graph import Graph
from edgeq.reports import tables
from edgeq.system.distributed import ALONE, Workers, joined
from edgeq.system.environment import environment
from edgeq.system.progress import SILENT, Progress

OUTPUT: Final = defaults.EXPORTS / "evaluation.json"


@dataclass(frozen=True)
class Evaluation(Judging):
    """The options of `edgeq evaluate`, with those of `Judging`.

    Attributes:
        files: exported files of one network, with their manifests beside them, and ONNX files of other tools, without
            manifests; empty means all in `exports/`.
        record: calibration record of the float network; None takes the network of the first manifest or, without
            manifests, of the default record (see `load_record`).
        output: path of the report.
        force: replace a file that edgeq did not write.
    """

    files: Sequence[Path] = ()
    record: Path | None = None
    output: Path = OUTPUT
    force: bool = False


def evaluate(asked: Evaluation, progress: Progress = SILENT, workers: Workers = ALONE) -> dict[str, Any]:
    """Score ONNX files, with the float network that they were made of as the reference, and write the report.

    Args:
        asked: the options.
        progress: receives progress, and notices about class folders, unreadable images and doubtful labels.
        workers: the processes of a distributed run, which share the images; rank 0 writes the report.

    Returns:
        The report: `EvaluationReport.to_dict()`, each model with its `bytes` and its `scheme` (None without a
        manifest), and the environment.

    Raises:
        EdgeqError: bad input; nothing is written.
    """
    files = exported(asked.files)
    manifests = [_manifest(path) for path in files]
    source = Source.from_dict(_network(files, manifests, asked.record, progress))
    setting = setting_of(asked, source)
    check_output(asked.output, asked.force)
    models = [opened(asked.runtime, *one, source.preprocess) for one in zip(files, manifests, strict=True)]
    reference = reference_of(source)
    report_notices(setting.images, progress)
    test = setting.test(source, [reference, *models])
    report = accuracy.score(dict(zip(_names(files), models, strict=True)), reference, test, progress, workers)
    report_unreadable(setting.images, progress)
    body = {**report.to_dict(), "task": setting.task, "runtime": asked.runtime}
    body |= {"network": source.to_dict(), "environment": environment()}
    for row, path, manifest in zip(body["models"], files, manifests, strict=True):
        row |= {"scheme": manifest["scheme"] if manifest else None, "bytes": size(model_files(path))}
    if workers.first:
        write_json(asked.output, EVALUATION.name, EVALUATION.version, body)
    report_doubts(setting.images, report, source.network.graph, progress)
    if asked.runtime != "native":
        warn_of_overflow(dict(zip(files, manifests, strict=True)), progress)
    return body


def exported(files: Sequence[Path]) -> list[Path]:
    """Return the given files without duplicates, or all in `exports/` if none is given.

    Raises:
        ArtifactError: there is no file.
    """
    found = list(dict.fromkeys(files)) or sorted(defaults.EXPORTS.glob("*.onnx"))
    if not found:
        raise ArtifactError(
            f"{defaults.EXPORTS}: expected .onnx files, found none; run `edgeq export --scheme adaptive` first"
        )
    return found


def _manifest(path: Path) -> Manifest | None:
    """Return the manifest beside an exported file; None for a file of another tool, which has none."""
    return None if path.is_file() and not is_described(path) else read_manifest(path)


def _network(
    files: Sequence[Path], manifests: Sequence[Manifest | None], record: Path | None, progress: Progress
) -> Mapping[str, Any]:
    """Return the description of the network to compare all files with; a drop means something only for its exports.

    Raises:
        ArtifactError: an exported file is of another network.
    """
    exported: list[tuple[Path, Mapping[str, Any]]] = [
        (path, manifest["network"]) for path, manifest in zip(files, manifests, strict=True) if manifest
    ]
    if record is None and exported:
        first, network = exported[0]
    elif record is None and not defaults.RECORD.exists():
        raise ArtifactError(
            f"{files[0]}: expected a manifest beside it or the record of the float network to compare it with, found "
            "neither; name the record with --record FILE"
        )
    else:
        loaded = load_record(record, progress)
        first, network = record or files[0], loaded.network
    for path, found in exported:
        for key, differs in (("sha256", "weights"), ("preprocess", "preprocessing")):
            if found.get(key) != network.get(key):
                raise ArtifactError(
                    f"{path}: expected a model of the same network as {first}, found one of other {differs}; "
                    "evaluate them one after the other"
                )
    return network


def report_doubts(images: ImageSet, report: accuracy.EvaluationReport, graph: Graph, progress: Progress) -> None:
    """Report reasons to doubt the accuracy of the float network on labelled images."""
    if report.labels is not None:
        for doubt in doubts(images, report.labels, report.reference.predictions, classes_of(graph)):
            progress.notice(f"warning: {doubt}")


def _names(files: Sequence[Path]) -> list[str]:
    """Return the stems of the file names, or the paths if two stems are equal."""
    stems = [path.stem for path in files]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in files]


@click.command("evaluate")
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE]...")
@click.option(
    "--record", type=options.PATH, metavar="FILE",
    help="Calibration record of the float network.  [default: the network that the manifests of the files name, or "
    "without manifests calib/mobilenet_v2.calib]",
)  # fmt: skip
@judged
@options.threads
@click.option("--output", type=options.PATH, default=OUTPUT, show_default=True, help="The report.")
@options.force
@options.json
def command(as_json: bool, **given: Any) -> None:
    """Measure accuracy on images, with the float network as the reference.

    Without files, all in exports/ are evaluated. ONNX files of other tools get the same images, prepared as for the
    float network. Several processes that `torchrun` starts share the images.

    \b
    Example:
      edgeq evaluate exports/mobilenet_v2-4bit.onnx --data validation
    """
    asked = Evaluation(**given)
    with joined() as workers, listening(workers.first) as progress:
        body = evaluate(asked, progress, workers)
    if not workers.first:
        return
    if as_json:
        print_json(asked.output.read_text(encoding="utf-8"))
    else:
        show(tables.evaluation_table(body))
        click.echo(f"{asked.output}: {tables.evaluation_text(body)}")
