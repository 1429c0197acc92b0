"""The front of size against accuracy: what `edgeq sweep` does, as plain functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from importlib import import_module
from math import floor, log10
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

import edgeq
from edgeq.artifacts.files import check_output, kind_of, read_json, write_json
from edgeq.artifacts.manifest import is_described, read_manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.artifacts.schema import COUNT, NETWORK, NUMBER, PATH, POSITIVE, TEXT, Form
from edgeq.commands.reports import float_runner, labelled_images, report_doubts
from edgeq.commands.workflow import BATCH, EXPORTS, export, load_record, report_notices, report_unreadable
from edgeq.errors import ArtifactError
from edgeq.planning.budget import Budget
from edgeq.planning.plan import FIXED, PrecisionPlan
from edgeq.runtimes.onnx_files import digest, model_files, size
from edgeq.system.environment import environment
from edgeq.system.progress import SILENT, Counter, Listener

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeq.data.class_folders import ClassOrder
    from edgeq.data.images import ImageSet
    from edgeq.frontends.torchvision import Source

KIND: Final = "sweep"
VERSION: Final = 2
FOLDER: Final = EXPORTS / "sweep"

FORM: Final[Form] = {
    "network": NETWORK,
    "effort": TEXT,
    "data": PATH,
    "images": COUNT,
    "reference": {"top1": NUMBER},
    "rows": [
        {"name": PATH, "sha256": TEXT, "scheme": (TEXT, None), "budget": (TEXT, None), "missed": (TEXT, None)}
        | {"bytes": POSITIVE, "top1": NUMBER, "top5": NUMBER, "drop": NUMBER, "agreement": NUMBER}
        | dict.fromkeys(("bitops", "estimated_drop", "sqnr_db", "seconds"), (NUMBER, None))
    ],
}
"""What a sweep that goes on relies on."""

_POLL_SECONDS: Final = 1.0
_SCORES: Final = ("top1", "top5", "drop", "agreement", "sqnr_db")


def sweep(
    record: Path | None = None,
    data: str | None = None,
    budgets: Sequence[str] = (),
    *,
    effort: str = "fast",
    seed: int = 0,
    output: Path = FOLDER,
    force: bool = False,
    listener: Listener = SILENT,
    order: ClassOrder | None = None,
) -> dict[str, Any]:
    """Export and evaluate the fixed schemes and `adaptive` under each budget; write `sweep.json` and `sweep.png`.

    What is done is not done again: a file of the same record, widths, effort and seed is not exported, and one whose
    scores on the same images are in `sweep.json` is not evaluated. So a killed sweep goes on where it was, and several
    processes, on several machines, can share one folder: each row is locked by the one that works on it.

    Args:
        record: see `edgeq.commands.workflow.load_record`.
        data: labelled images, see `edgeq.commands.reports.labelled_images`.
        budgets: see `edgeq.planning.budget.Budget.parse`; empty means those of `default_budgets`.
        effort: see `edgeq.commands.workflow.export`, as is `seed`.
        seed: of every export.
        output: folder of all files. ONNX files in it without a manifest, as other tools write them, are evaluated too.
        force: replace files that edgeq did not write.
        listener: is told about progress, how class folders are read, unreadable images, doubtful labels, and files of
            edgeq that are no row of this sweep.
        order: what numbers class folders, see `edgeq.ImageSet.labelled`.

    Returns:
        The report: `reference` has the accuracy of the float network, `rows` the files in order, those of other tools
        last. A row has its `name`, `scheme`, `budget`, `missed` (a text, see `edgeq.commands.workflow.export`),
        `effort`, `seed`, `bytes`, `predicted_bytes`, `sha256`, `bitops`, `damage` in nats and `estimated_drop` in
        points as planned; `top1`, `top5`, `drop` and `agreement` in percent, `sqnr_db`, see
        `edgeq.evaluation.accuracy.ModelScore`; and `seconds`, how long the last run of its export took. What is not
        known is None.

    Raises:
        EdgeqError: bad input; the rows that are done are kept.
    """
    for text in budgets:
        Budget.parse(text)
    loaded = load_record(record, listener)
    source = edgeq.Source.from_dict(loaded.network)
    images = labelled_images(source, data, order)
    plans = _plans(loaded, budgets or default_budgets(loaded))
    paths = [output / f"{name}.onnx" for name in plans]
    endings = (".onnx", ".json", ".safetensors", ".unfinished")
    written = [path.with_suffix(ending) for path in paths for ending in endings]
    for path in (output / "sweep.json", output / "sweep.png", *written):
        check_output(path, force)
    report = _Report(output / "sweep.json", source, images, {"effort": effort, "seed": seed}, force, listener)
    report_notices(images, listener)
    count = Counter("sweeping", len(plans), listener)
    with closing(_locked(dict(zip(paths, plans.values(), strict=True)), listener)) as rows:
        for path, widths in rows:
            wanted = _expected_manifest(loaded, widths, effort, seed)
            seconds = None
            if not (found := _finished(path, wanted)):
                started = perf_counter()
                found = export(
                    widths.scheme, record, budget=widths.budget, effort=effort, seed=seed,
                    output=path, force=force, listener=listener,
                )  # fmt: skip
                seconds = round(perf_counter() - started, 1)
            path.with_suffix(".unfinished").unlink(missing_ok=True)  # of an export killed when all of it was done
            report.add(found[0], _facts(found[1], widths), seconds)
            count.add(1)
    for path in _of_other_tools(output, report.names, listener):
        files = model_files(path)
        report.add(path, dict.fromkeys(_facts({}, None)) | {"bytes": size(files), "sha256": digest(files)})
    body = report.finish([path.stem.removesuffix("-missed") for path in paths])
    import_module("edgeq.reports.figures").plot_sweep(body, output / "sweep.png")
    return body


def _locked(
    rows: Mapping[Path, PrecisionPlan], listener: Listener
) -> Generator[tuple[Path, PrecisionPlan], None, None]:
    """Every row once, locked until the next is asked for; last those that another process was at before."""
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
                        with suppress(OSError):  # where a file in use cannot be removed, its lock does it
                            place.unlink()
            except Timeout:
                busy[path] = widths
        if len(busy) == len(waiting):
            if not told:
                listener.notice(f"waiting for other processes, which work on {', '.join(path.stem for path in busy)}")
            told = True
            sleep(_POLL_SECONDS)
        waiting = busy


def default_budgets(record: CalibrationRecord) -> tuple[str, ...]:
    """Six sizes between those of `2bit` and `4bit`, and two between those of `4bit` and `8bit`, evenly spaced."""
    two, four, eight = (edgeq.plan(record, scheme).file_bytes for scheme in ("2bit", "4bit", "8bit"))
    return tuple(dict.fromkeys((*_between(two, four, 6), *_between(four, eight, 2))))


def _between(start: int, end: int, count: int) -> Iterator[str]:
    """Sizes between two numbers of bytes, rounded to a tenth of the power of ten in their distance."""
    unit = max(1, 10 ** (floor(log10(max(abs(end - start), 1))) - 1))
    for i in range(1, count + 1):
        size = round((start + (end - start) * i / (count + 1)) / unit) * unit
        yield f"size={size / 1e6:.12g}MB" if size >= 10**6 else f"size={size / 1e3:.12g}kB"


def _plans(record: CalibrationRecord, budgets: Sequence[str]) -> dict[str, PrecisionPlan]:
    """The plan of each row by the stem of its file."""
    mixed = {f"adaptive-{text.replace('=', '-')}": edgeq.plan(record, "adaptive", budget=text) for text in budgets}
    return {scheme: edgeq.plan(record, scheme) for scheme in FIXED} | mixed


def _expected_manifest(record: CalibrationRecord, widths: PrecisionPlan, effort: str, seed: int) -> dict[str, Any]:
    """What the manifest of a finished export says; the damage of its layers is as good as a digest of the record."""
    planned = widths.to_dict()
    expected = {
        **{key: planned[key] for key in ("scheme", "policy", "budget", "act_bits", "drop", "layers")},
        "effort": effort,
        "seed": seed,
        "input": "float",
        "network": dict(record.network),
        "preprocess": dict(record.preprocess),
        "data": {key: value for key, value in record.data.items() if key != "files"},
        "observer": record.observer,
    }
    normal: dict[str, Any] = json.loads(json.dumps(expected))
    return normal


def _finished(path: Path, expected: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The exported file and its manifest, under either name, if it is there."""
    for candidate in (path, path.with_stem(f"{path.stem}-missed")):
        try:
            manifest = read_manifest(candidate)
        except ArtifactError:  # none yet, or an export killed between its files: the next one replaces them
            continue
        if expected.items() <= manifest.items():
            return candidate, manifest
    return None


def _facts(manifest: Mapping[str, Any], widths: PrecisionPlan | None) -> dict[str, Any]:
    """The part of a row that needs no images."""
    copied = ("scheme", "budget", "missed", "effort", "seed", "bytes", "sha256", "bitops", "damage")
    return {
        **{key: manifest.get(key) for key in copied},
        "predicted_bytes": widths.file_bytes if widths else None,
        "estimated_drop": manifest.get("drop"),
    }


def _of_other_tools(folder: Path, rows: Sequence[str], listener: Listener) -> Iterator[Path]:
    for path in sorted(folder.glob("*.onnx")):
        if path.stem in rows:
            continue
        if is_described(path):
            listener.notice(f"{path}: left out, of another sweep than this one")
        else:
            yield path


class _Report:
    """`sweep.json` while it grows: the rows of this run, and those of the last one that were not reached yet."""

    def __init__(
        self, path: Path, source: Source, images: ImageSet, options: Mapping[str, Any], force: bool, listener: Listener
    ) -> None:
        self._path, self._images, self._source, self._listener = path, images, source, listener
        self._reference = _remembering(float_runner(source.network))
        circumstances = (source.to_dict(), source.preprocess.to_dict(), images.to_dict())
        digest = hashlib.sha256(json.dumps(circumstances).encode()).hexdigest()
        self._body = {"network": source.to_dict(), **options, "data": images.name, "evaluation_sha256": digest}
        self._rows: list[dict[str, Any]] = []
        self._stored: list[dict[str, Any]] = []
        self._seconds: dict[tuple[str, str], float | None] = {}  # by name and digest of a file
        self._replaces = force
        self._read()

    def _read(self) -> None:
        """Take in what is stored."""
        if not self._path.exists() or (self._replaces and kind_of(self._path) != KIND):
            return
        stored = read_json(self._path, KIND, VERSION, FORM)
        self._seconds |= {(row["name"], row["sha256"]): row["seconds"] for row in stored["rows"]}
        if stored.get("evaluation_sha256") == self._body["evaluation_sha256"]:
            self._stored = stored["rows"]
            self._body |= {key: stored[key] for key in ("images", "reference")}

    @property
    def names(self) -> list[str]:
        return [row["name"] for row in self._rows]

    def add(self, path: Path, facts: Mapping[str, Any], seconds: float | None = None) -> None:
        """Append the row of a file, evaluated unless its scores are known, and write all rows."""
        self._read()  # what other processes have added
        known = next((row for row in self._stored + self._rows if row["sha256"] == facts["sha256"]), None)
        scores = {key: known[key] for key in _SCORES} if known else self._evaluate(path)
        if seconds is None:
            seconds = self._seconds.get((path.stem, facts["sha256"]))
        self._rows.append({"name": path.stem, **facts, **scores, "seconds": seconds})
        self._write([*self._rows, *(row for row in self._stored if row["name"] not in self.names)])

    def finish(self, order: Sequence[str]) -> dict[str, Any]:
        """Write the rows of this run only: in the order of their plans, then those of other tools."""
        places = {name: place for place, name in enumerate(order)}
        rows = sorted(self._rows, key=lambda row: places.get(row["name"].removesuffix("-missed"), len(places)))
        return self._write(rows)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        body = {**self._body, "rows": rows, "environment": environment()}
        write_json(self._path, KIND, VERSION, body)
        return body

    def _evaluate(self, path: Path) -> dict[str, Any]:
        preprocess = self._source.preprocess
        report = edgeq.evaluate(
            {path.name: edgeq.onnx_runner(path, preprocess=preprocess)}, self._reference, self._images, preprocess,
            BATCH, progress=lambda done, total: self._listener.progress(f"evaluating {path.stem}", done, total),
        )  # fmt: skip
        reference, score = asdict(report.reference), asdict(report.models[0])
        if "reference" not in self._body:  # said once, as all rows have the same images
            report_unreadable(self._images, self._listener)
            report_doubts(self._images, report, self._source, self._listener)
        self._body |= {"images": report.images, "reference": {key: reference[key] for key in ("top1", "top5")}}
        return {key: reference["top1"] - score["top1"] if key == "drop" else score[key] for key in _SCORES}


def _remembering(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Run each batch of images once; the float network would take most of the time of a sweep."""
    logits: dict[bytes, NDArray[np.float32]] = {}

    def recall(images: NDArray[np.float32]) -> NDArray[np.float32]:
        key = hashlib.sha256(images.tobytes()).digest()
        if key not in logits:
            logits[key] = run(images)
        return logits[key]

    return recall
