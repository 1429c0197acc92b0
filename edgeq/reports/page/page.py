"""Puts the page together: everything in it is text of the artifacts, their numbers, and the libraries of `vendor/`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.reports.page.chart import Spec
from edgeq.reports.page.file_sections import (
    accuracy_figures,
    bench_table,
    cost_figures,
    files_table,
    latency_figures,
    scores_table,
)
from edgeq.reports.page.files import File, files_of, scores_of
from edgeq.reports.page.folder import Folder, belongs
from edgeq.reports.page.layer_section import export_of, histograms_of, layer_figures
from edgeq.reports.page.table import number
from edgeq.tasks.words import words

_VENDOR: Final = Path(__file__).with_name("vendor")
LIBRARIES: Final = {
    "vega.min.js": ("Vega 6.4.0", "8f6a3587cf8d4f42c7e08120e3eb05d067e746d554e39d2dcf52acc0bd5ba28f"),
    "vega-lite.min.js": ("Vega-Lite 6.4.3", "35a9821df838825b05a6a73e9414b58747a1b18321583858ed903c66393a5c7e"),
    "vega-embed.min.js": ("Vega-Embed 7.3.0", "b1455caba2fb1a72fb46025ba0ba1316e2dbc7f0dd40a3f6040172bf9c08ba91"),
}
"""The files of `vendor/` in the order in which they load: what each is, as npm has it, and its SHA-256."""


def page(folder: Folder, record: CalibrationRecord | None) -> str:
    """Return the HTML of the report.

    Args:
        folder: what there is to report.
        record: what exports of the folder were made with; of those made with another one, only what their manifests say
            is shown.
    """
    scores = scores_of(folder)
    files = files_of(folder, scores)
    unit = words(one.task for one in record.outputs) if record else words(_tasks(files[0].manifest))
    exports = [export_of(file, record if record and belongs(record, file.manifest) else None, unit) for file in files]
    specs: dict[str, Spec] = {}
    drawn = {
        "accuracy": accuracy_figures(scores, specs),
        "costs": cost_figures(files, specs),
        "latency": latency_figures(folder, specs),
        "layers": layer_figures(unit, record is not None, specs),
    }
    data = {
        "specs": specs,
        "layers": {export.file.path: export.rows for export in exports},
        "histograms": histograms_of(record) if record else {},
    }
    environment = Environment(
        loader=PackageLoader("edgeq.reports.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        folder=folder,
        facts=_facts(folder, record),
        files=files_table(files),
        scores=[(one, scores_table(one)) for one in scores],
        benches=[(name, body, bench_table(name, body)) for name, body in folder.benches.items()],
        exports=exports,
        chosen=_chosen(files),
        figures=drawn,
        words=unit,
        record=record,
        libraries=", ".join(name for name, _ in LIBRARIES.values()),
        data=Markup(_embedded(data)),
        scripts=[Markup(_script(name)) for name in LIBRARIES],
    )


def _embedded(data: object) -> str:
    """JSON that nothing in it can end early, in a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _script(name: str) -> str:
    """A library, without the comment that names a file for debuggers."""
    return re.sub(r"//# sourceMappingURL=\S+", "", (_VENDOR / name).read_text(encoding="utf-8"))


def _tasks(manifest: Manifest) -> Iterable[str]:
    return (output["task"] for output in manifest["outputs"])


def _chosen(files: Sequence[File]) -> str:
    """The export whose layers are shown first: the smallest adaptive one, or else the smallest."""
    adaptive = [file for file in files if file.manifest["scheme"] == "adaptive"]
    return (adaptive or files)[-1].path


def _facts(folder: Folder, record: CalibrationRecord | None) -> list[tuple[str, str]]:
    """Where all this came from."""
    first = next(iter(folder.exports.values()))
    network, found = folder.network, []
    if network:
        found += [("network", f"{network['model']}"), ("weights", f"{network['weights']} ({network['sha256'][:12]})")]
    found.append(("layers", f"{len(first['layers'])}, {number(first['macs'], 1, 1e6)} M MACs an image"))
    if record:
        images = record.data.get("samples") or len(record.data.get("files", ()))
        source = record.data.get("root") or record.data.get("source") or "given"
        found.append(("calibrated on", f"{source} images, {images}; ranges by {record.observer}"))
    versions = {name: version for name, version in first["versions"].items() if version}
    found.append(("made with", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return found
