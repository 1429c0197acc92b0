"""The report of a sweep, `sweep.json`, written row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from edgeq.artifacts.files import kind_of, write_json
from edgeq.artifacts.manifest import is_described, read_manifest
from edgeq.artifacts.measured import SWEEP
from edgeq.commands.evaluate import report_doubts
from edgeq.commands.image_sets import report_unreadable
from edgeq.commands.judging import Setting, opened, reference_of
from edgeq.evaluation.accuracy import score
from edgeq.frontends.sources import Source
from edgeq.runtimes.jobs import Inputs, Model, Outputs
from edgeq.system.environment import environment
from edgeq.system.progress import Progress
from edgeq.tasks.metrics import measure

_SCORES: Final = ("top1", "top5", "drop", "agreement", "sqnr_db", "metrics")
_CACHED_BYTES: Final = 2**30  # of the float network's outputs


class SweepReport:
    """The rows of this sweep, followed by those of an earlier one that this one has not reached yet.

    Args:
        path: path of the report.
        source: the float network.
        setting: what files are evaluated on.
        options: options of the sweep to store in the report. `runtime` runs the files; in the native engine, which has
            no packed network of others, only those of edgeq with integers.
        force: replace a file that is not a report of a sweep.
        progress: receives the progress of evaluations.
    """

    def __init__(
        self, path: Path, source: Source, setting: Setting, options: Mapping[str, Any], force: bool, progress: Progress
    ) -> None:
        self._path, self._setting, self._source, self._progress = path, setting, source, progress
        self._reference = reference_of(source)
        self._cached = _remembering(self._reference)
        images, metric = setting.images, setting.metric
        circumstances = (source.to_dict(), images.to_dict(), setting.task)
        judged_by = (metric.name, metric.digest()) if metric else ()
        run_by = () if options["runtime"] == "onnxruntime" else (options["runtime"],)
        digest = hashlib.sha256(json.dumps([*circumstances, *judged_by, *run_by]).encode()).hexdigest()
        self._body = {"network": source.to_dict(), **options, "data": images.name, "evaluation_sha256": digest}
        self._rows: list[dict[str, Any]] = []
        self._stored: list[dict[str, Any]] = []
        self._seconds: dict[tuple[str, str], float | None] = {}  # by name and digest of the file
        self._replaces = force
        self._read()

    def _read(self) -> None:
        """Read the rows that are stored, and reuse their scores if they are of the same network and images."""
        if not self._path.exists() or (self._replaces and kind_of(self._path) != SWEEP.name):
            return
        stored = SWEEP.read(self._path)
        self._seconds |= {(row["name"], row["sha256"]): row["seconds"] for row in stored["rows"]}
        if stored.get("evaluation_sha256") == self._body["evaluation_sha256"]:
            self._stored = stored["rows"]
            self._body |= {key: stored[key] for key in ("images", "metric", "reference")}

    @property
    def names(self) -> list[str]:
        """Names of the rows so far."""
        return [row["name"] for row in self._rows]

    def add(self, path: Path, facts: Mapping[str, Any], seconds: float | None = None) -> None:
        """Append the row of a file, evaluated unless its scores are known, and write all rows."""
        self._read()  # rows that other processes have added
        known = next((row for row in self._stored + self._rows if row["sha256"] == facts["sha256"]), None)
        scores = {key: known[key] for key in _SCORES} if known else self._evaluate(path)
        if seconds is None:
            seconds = self._seconds.get((path.stem, facts["sha256"]))
        self._rows.append({"name": path.stem, **facts, **scores, "seconds": seconds})
        self._write([*self._rows, *(row for row in self._stored if row["name"] not in self.names)])

    def finish(self, order: Sequence[str]) -> dict[str, Any]:
        """Write only the rows of this sweep: in the order of their plans, then those of other tools."""
        places = {name: place for place, name in enumerate(order)}
        rows = sorted(self._rows, key=lambda row: places.get(row["name"].removesuffix("-missed"), len(places)))
        return self._write(rows)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        body = {**self._body, "rows": rows, "environment": environment()}
        write_json(self._path, SWEEP.name, SWEEP.version, body)
        return body

    def _evaluate(self, path: Path) -> dict[str, Any]:
        manifest = read_manifest(path) if is_described(path) else None
        runtime = self._body["runtime"] if manifest and manifest["scheme"] != "fp32" else "onnxruntime"
        model = opened(runtime, path, manifest, self._source.preprocess)
        test = self._setting.test(self._source, [self._reference, model])
        report = score({path.name: model}, self._cached, test, self._progress)
        reference, found = asdict(report.reference), asdict(report.models[0])
        if "reference" not in self._body:  # report once: all rows have the same images
            report_unreadable(self._setting.images, self._progress)
            report_doubts(self._setting.images, report, self._source.network.graph, self._progress)
        kept = ("top1", "top5", "sqnr_db", "metrics")
        self._body |= {"images": report.images, "metric": report.metric}
        self._body |= {"reference": {key: reference[key] for key in kept}}
        values = [measure(report.metric).of(scores) for scores in (reference, found)]
        drop = None if None in values else float(values[0] or 0) - float(values[1] or 0)
        return {key: drop if key == "drop" else found[key] for key in _SCORES}


def _remembering(run: Model) -> Model:
    """Cache the outputs of each run, up to a gigabyte: the float network would take most of the time of a sweep."""
    known: dict[bytes, NDArray[Any] | Outputs] = {}
    room = [_CACHED_BYTES]

    def recall(inputs: Inputs) -> NDArray[Any] | Outputs:
        arrays = inputs.values() if isinstance(inputs, Mapping) else [inputs]
        key = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest()
        if key in known:
            return known[key]
        found = run(inputs)
        size = sum(array.nbytes for array in found.values()) if isinstance(found, Mapping) else found.nbytes
        if size <= room[0]:
            room[0] -= size
            known[key] = found
        return found

    return recall
