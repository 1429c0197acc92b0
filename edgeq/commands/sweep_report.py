"""The report of a sweep, `sweep.json`, written row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.artifacts.files import kind_of, read_json, write_json
from edgeq.artifacts.schema import COUNT, NETWORK, NUMBER, PATH, POSITIVE, TEXT, Schema
from edgeq.commands import defaults
from edgeq.commands.evaluate import report_doubts
from edgeq.commands.image_sets import report_unreadable
from edgeq.data.images import ImageSet
from edgeq.evaluation.accuracy import evaluate
from edgeq.frontends.torchvision import Source
from edgeq.runtimes.jobs import Runner
from edgeq.runtimes.onnxruntime import onnx_runner
from edgeq.runtimes.torch import float_runner
from edgeq.system.environment import environment
from edgeq.system.progress import Progress

KIND: Final = "sweep"
VERSION: Final = 2
SCHEMA: Final[Schema] = {
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
"""The fields that a resumed sweep relies on."""


_SCORES: Final = ("top1", "top5", "drop", "agreement", "sqnr_db")


class SweepReport:
    """The rows of this sweep, followed by those of an earlier one that this one has not reached yet.

    Args:
        path: path of the report.
        source: the float network.
        images: labelled images to evaluate on.
        options: options of the sweep to store in the report.
        force: replace a file that is not a report of a sweep.
        progress: receives the progress of evaluations.
    """

    def __init__(
        self, path: Path, source: Source, images: ImageSet, options: Mapping[str, Any], force: bool, progress: Progress
    ) -> None:
        self._path, self._images, self._source, self._progress = path, images, source, progress
        self._reference = _remembering(float_runner(source.network))
        circumstances = (source.to_dict(), source.preprocess.to_dict(), images.to_dict())
        digest = hashlib.sha256(json.dumps(circumstances).encode()).hexdigest()
        self._body = {"network": source.to_dict(), **options, "data": images.name, "evaluation_sha256": digest}
        self._rows: list[dict[str, Any]] = []
        self._stored: list[dict[str, Any]] = []
        self._seconds: dict[tuple[str, str], float | None] = {}  # by name and digest of the file
        self._replaces = force
        self._read()

    def _read(self) -> None:
        """Read the rows that are stored, and reuse their scores if they are of the same network and images."""
        if not self._path.exists() or (self._replaces and kind_of(self._path) != KIND):
            return
        stored = read_json(self._path, KIND, VERSION, SCHEMA)
        self._seconds |= {(row["name"], row["sha256"]): row["seconds"] for row in stored["rows"]}
        if stored.get("evaluation_sha256") == self._body["evaluation_sha256"]:
            self._stored = stored["rows"]
            self._body |= {key: stored[key] for key in ("images", "reference")}

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
        write_json(self._path, KIND, VERSION, body)
        return body

    def _evaluate(self, path: Path) -> dict[str, Any]:
        preprocess = self._source.preprocess
        report = evaluate(
            {path.name: onnx_runner(path, preprocess=preprocess)}, self._reference, self._images, preprocess,
            defaults.BATCH, progress=self._progress,
        )  # fmt: skip
        reference, score = asdict(report.reference), asdict(report.models[0])
        if "reference" not in self._body:  # report once: all rows have the same images
            report_unreadable(self._images, self._progress)
            report_doubts(self._images, report, self._source.network.graph, self._progress)
        self._body |= {"images": report.images, "reference": {key: reference[key] for key in ("top1", "top5")}}
        return {key: reference["top1"] - score["top1"] if key == "drop" else score[key] for key in _SCORES}


def _remembering(run: Runner) -> Runner:
    """Cache the logits of each batch of images: the float network would take most of the time of a sweep."""
    logits: dict[bytes, NDArray[np.float32]] = {}

    def recall(images: NDArray[np.float32]) -> NDArray[np.float32]:
        key = hashlib.sha256(images.tobytes()).digest()
        if key not in logits:
            logits[key] = run(images)
        return logits[key]

    return recall
