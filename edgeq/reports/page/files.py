"""What was measured of whole files, put together from evaluations, sweeps and benches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.artifacts.manifest import Manifest
from edgeq.reports.page.folder import Body, Folder
from edgeq.tasks.metrics import Measure, measure


@dataclass(frozen=True)
class Scores:
    """Scores of files on the same images.

    Attributes:
        measure: the score that they are judged by.
        data: name of the images.
        images: how many.
        reference: the float network's.
        rows: what evaluations and sweeps have of each file: at least `name`, `bytes`, `scheme` and the scores; those of
            files of other tools have no scheme.
    """

    measure: Measure
    data: str
    images: int
    reference: Body
    rows: Sequence[Body]

    def value(self, row: Body) -> float | None:
        """The score of a file."""
        return self.measure.of(row)

    def drop(self, row: Body) -> float | None:
        """How much lower it is than the float network's; None of SQNR, which the float network has none of."""
        value, reference = self.value(row), self.measure.of(self.reference)
        return None if value is None or reference is None else reference - value

    def of(self, name: str, size: int) -> Body | None:
        """The row of a file by its name and size."""
        return next((row for row in self.rows if (row["name"], row["bytes"]) == (name, size)), None)

    def front(self) -> list[Body]:
        """The files that no other one beats in both size and score, from small to large."""
        found: list[Body] = []
        best = float("-inf")
        valued = [(row["bytes"], value, row) for row in self.rows if (value := self.value(row)) is not None]
        for _, value, row in sorted(valued, key=lambda item: (item[0], -item[1])):
            if row["scheme"] is not None and value > best:
                best = value
                found.append(row)
        return found


def scores_of(folder: Folder) -> list[Scores]:
    """The scores in evaluations and sweeps; those on the same images, by the same score, are together."""
    groups: dict[tuple[str, str, int], tuple[Body, dict[tuple[str, int], Body]]] = {}
    for body in (*folder.sweeps.values(), *folder.evaluations.values()):
        key = (body["metric"], body["data"], body["images"])
        _, rows = groups.setdefault(key, (body["reference"], {}))
        for row in body["rows" if "rows" in body else "models"]:
            rows.setdefault((row["name"], row["bytes"]), row)
    return [
        Scores(measure(metric), data, images, reference, list(rows.values()))
        for (metric, data, images), (reference, rows) in groups.items()
    ]


@dataclass(frozen=True)
class File:
    """One export and what was measured of it.

    Attributes:
        name: stem of its file name.
        path: relative to the folder.
        manifest: what it is.
        score: its score and drop on the first images that it was judged on.
        timed: its row in the first bench that has one, in ONNX Runtime if there is one.
    """

    name: str
    path: str
    manifest: Manifest
    score: tuple[Scores, Body] | None
    timed: Body | None


def files_of(folder: Folder, scores: Sequence[Scores]) -> list[File]:
    """All exports, from large to small."""
    benches = sorted(folder.benches.values(), key=lambda body: body["runtime"] != "onnxruntime")
    found = []
    for path, manifest in folder.exports.items():
        name, size = Path(path).stem, manifest["bytes"]
        judged = next(((group, row) for group in scores if (row := group.of(name, size))), None)
        found.append(File(name, path, manifest, judged, next(_timed(benches, name, size), None)))
    return sorted(found, key=lambda file: (-file.manifest["bytes"], file.path))


def _timed(benches: Sequence[Body], name: str, size: int) -> Iterator[Mapping[str, Any]]:
    for body in benches:
        yield from (row for row in body["rows"] if (row["name"], row["bytes"]) == (name, size))
