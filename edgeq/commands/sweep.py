"""`edgeq sweep`: the Pareto front of size and accuracy."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Final

import click
from filelock import FileLock, Timeout

from edgeq.artifacts.files import check_output
from edgeq.artifacts.manifest import Manifest, is_described, read_manifest
from edgeq.artifacts.onnx_files import digest, model_files, size
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json, show
from edgeq.commands.export import export
from edgeq.commands.image_sets import report_notices
from edgeq.commands.judging import Judging, judged, setting_of, warn_of_overflow
from edgeq.commands.records import load_record
from edgeq.commands.sweep_report import SweepReport
from edgeq.errors import ArtifactError, BudgetError
from edgeq.exporters.export import promised
from edgeq.frontends.sources import Source
from edgeq.planning.plan import PrecisionPlan, plan
from edgeq.planning.recipe import FIXED, Recipe
from edgeq.reports import tables
from edgeq.reports.figures import plot_sweep
from edgeq.system.progress import SILENT, Progress

FOLDER: Final = defaults.EXPORTS / "sweep"
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Sweep(Judging):
    """The options of `edgeq sweep`, with those of `Judging`.

    Attributes:
        record: path of the calibration record, see `load_record`.
        budgets: budgets of the adaptive rows, see `Budget.parse`; empty means those of `default_budgets`.
        effort: effort of every export, see `edgeq.Recipe`.
        seed: seed of every export.
        output: folder of all files. ONNX files of other tools in it, without a manifest, are evaluated, too.
        force: replace files that edgeq did not write.
    """

    record: Path | None = None
    budgets: Sequence[str] = ()
    effort: str = "fast"
    seed: int = 0
    output: Path = FOLDER
    force: bool = False


def sweep(asked: Sweep, progress: Progress = SILENT) -> dict[str, Any]:
    """Export and evaluate the fixed schemes and `adaptive` under each budget; write `sweep.json` and `sweep.png`.

    Finished work is reused: a file of the same record, widths, effort and seed is not exported again, and a file whose
    scores on the same images are in `sweep.json` is not evaluated again. So a killed sweep can be resumed, and several
    processes, on several machines, can share one folder: the process that works on a row holds its lock.

    Args:
        asked: the options.
        progress: receives progress, and notices about class folders, unreadable images, doubtful labels, and files of
            edgeq that are not rows of this sweep.

    Returns:
        The report: `reference` has the accuracy of the float network, `rows` the files in order, those of other tools
        last. A row has its `name`, `scheme`, `budget`, `missed` (a text, see `export`), `effort`, `seed`, `bytes`,
        `predicted_bytes`, `sha256`, `bitops`, `damage` and `estimated_drop` in points as planned; `top1`,
        `top5`, `agreement`, `sqnr_db` and `metrics`, see `edgeq.evaluation.accuracy.ModelScore`; `drop`, how much lower
        than the float network's the score is that `metric` names; and `seconds`, the duration of its latest export.
        Unknown values are None.

    Raises:
        EdgeqError: bad input; finished rows are kept.
    """
    _recipes(asked, asked.budgets)  # refuses wrong budgets before a calibration
    loaded = load_record(asked.record, progress)
    source = Source.from_dict(loaded.network)
    setting = setting_of(asked, source)
    plans = _plans(loaded, asked)
    rows = {asked.output / f"{name}.onnx": widths for name, widths in plans.items()}
    endings = (".onnx", ".json", ".safetensors", ".unfinished")
    written = [path.with_suffix(ending) for path in rows for ending in endings]
    report_file, figure = asked.output / "sweep.json", asked.output / "sweep.png"
    for path in (report_file, figure, *written):
        check_output(path, asked.force)
    options = {"runtime": asked.runtime, "effort": asked.effort, "seed": asked.seed}
    report = SweepReport(report_file, source, setting, options, asked.force, progress)
    report_notices(setting.images, progress)
    made: dict[Path, Manifest] = {}
    with closing(_locked(rows, progress)) as locked:
        for done, (path, widths) in enumerate(locked, 1):
            seconds = None
            if not (found := _finished(path, json.loads(json.dumps(promised(loaded, widths))))):
                started = perf_counter()
                found = export(widths.recipe, asked.record, path, asked.force, progress)
                seconds = round(perf_counter() - started, 1)
            path.with_suffix(".unfinished").unlink(missing_ok=True)  # of an export that was killed at its very end
            report.add(found[0], _facts(found[1], widths), seconds)
            made[found[0]] = found[1]
            progress.step("sweeping", done, len(rows))
    for path in _of_other_tools(asked.output, report.names, progress):
        files = model_files(path)
        report.add(path, dict.fromkeys(_facts({}, None)) | {"bytes": size(files), "sha256": digest(files)})
    if asked.runtime != "native":
        warn_of_overflow(made, progress)
    body = report.finish([path.stem.removesuffix("-missed") for path in rows])
    plot_sweep(body, figure)
    return body


def _locked(
    rows: Mapping[Path, PrecisionPlan], progress: Progress
) -> Generator[tuple[Path, PrecisionPlan], None, None]:
    """Yield every row once, locked until the next one is requested; rows that other processes work on come last."""
    waiting, told = dict(rows), False
    while waiting:
        busy = {}
        for path, widths in waiting.items():
            place = path.with_suffix(".lock")
            try:
                with FileLock(place, timeout=0):
                    try:
                        yield path, widths
                    finally:
                        with suppress(OSError):  # on systems where an open file cannot be removed
                            place.unlink()
            except Timeout:
                busy[path] = widths
        if len(busy) == len(waiting):
            if not told:
                progress.notice(f"waiting for other processes, which work on {', '.join(path.stem for path in busy)}")
            told = True
            sleep(_POLL_SECONDS)
        waiting = busy


def default_budgets(record: CalibrationRecord) -> tuple[str, ...]:
    """Return six sizes between those of `2bit` and `4bit`, and two between `4bit` and `8bit`, evenly spaced."""
    two, four, eight = (plan(record, scheme).file_bytes for scheme in ("2bit", "4bit", "8bit"))
    return tuple(dict.fromkeys((*_between(two, four, 6), *_between(four, eight, 2))))


def _between(start: int, end: int, count: int) -> Iterator[str]:
    """Yield `count` size budgets between two numbers of bytes, rounded to two digits of their distance."""
    unit = max(1, 10 ** (floor(log10(max(abs(end - start), 1))) - 1))
    for i in range(1, count + 1):
        size = round((start + (end - start) * i / (count + 1)) / unit) * unit
        yield f"size={size / 1e6:.12g}MB" if size >= 10**6 else f"size={size / 1e3:.12g}kB"


def _recipes(asked: Sweep, budgets: Sequence[str]) -> dict[str, Recipe]:
    """Return the recipe of each row by the stem of its file name."""
    fixed = {scheme: Recipe(scheme, effort=asked.effort, seed=asked.seed) for scheme in FIXED}
    return fixed | {
        recipe.name: recipe
        for recipe in (Recipe("adaptive", budget=text, effort=asked.effort, seed=asked.seed) for text in budgets)
    }


def _plans(record: CalibrationRecord, asked: Sweep) -> dict[str, PrecisionPlan]:
    """Return the plan of each row by the stem of its file name."""
    recipes = _recipes(asked, asked.budgets or default_budgets(record))
    return {name: plan(record, recipe) for name, recipe in recipes.items()}


def _finished(path: Path, expected: Mapping[str, Any]) -> tuple[Path, Manifest] | None:
    """Return the exported file of a row and its manifest, with or without `-missed` in the name, or None."""
    for candidate in (path, path.with_stem(f"{path.stem}-missed")):
        try:
            manifest = read_manifest(candidate)
        except ArtifactError:  # no file yet, or a killed export, whose files the next one replaces
            continue
        if expected.items() <= manifest.items():
            return candidate, manifest
    return None


def _facts(manifest: Mapping[str, Any], widths: PrecisionPlan | None) -> dict[str, Any]:
    """Return the fields of a row that need no images."""
    copied = ("scheme", "budget", "missed", "effort", "seed", "bytes", "sha256", "bitops", "damage")
    return {
        **{key: manifest.get(key) for key in copied},
        "predicted_bytes": widths.file_bytes if widths else None,
        "estimated_drop": manifest.get("drop"),
    }


def _of_other_tools(folder: Path, rows: Sequence[str], progress: Progress) -> Iterator[Path]:
    for path in sorted(folder.glob("*.onnx")):
        if path.stem in rows:
            continue
        if is_described(path):
            progress.notice(f"{path}: left out, of another sweep than this one")
        else:
            yield path


@click.command("sweep")
@options.record
@judged
@click.option(
    "--budgets", metavar="size=1.1MB,size=1.3MB,...",
    help="Budgets of the adaptive rows.  [default: 6 sizes between 2bit and 4bit, 2 between 4bit and 8bit]",
)  # fmt: skip
@options.effort
@options.seed
@options.threads
@click.option("--output", type=options.PATH, default=FOLDER, show_default=True, help="Folder of all files.")
@options.force
@options.json
def command(budgets: str | None, as_json: bool, **given: Any) -> None:
    """Export and evaluate every fixed scheme and a range of budgets: the Pareto front of size and accuracy.

    Finished work is reused, so a killed sweep can be resumed. ONNX files of other tools in the folder are evaluated,
    too. The results are in sweep.json, the figure in sweep.png.

    \b
    Example:
      edgeq sweep --budgets size=1.1MB,size=1.3MB --effort balanced
    """
    asked = Sweep(budgets=budgets.split(",") if budgets is not None else (), **given)
    with listening() as progress:
        body = sweep(asked, progress)
    if as_json:
        print_json((asked.output / "sweep.json").read_text(encoding="utf-8"))
    else:
        show(tables.sweep_table(body))
        click.echo(f"{tables.sweep_text(body)}\n{asked.output / 'sweep.png'}")
    if missed := [row["missed"] for row in body["rows"] if row["missed"]]:
        raise BudgetError("; ".join(missed))
