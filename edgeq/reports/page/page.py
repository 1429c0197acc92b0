"""Puts the page together: everything in it is text of the artifacts, their numbers, and the libraries of `vendor/`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.numerics.weights import WIDTHS
from edgeq.planning.cost import FLOAT_BITS
from edgeq.reports.page import charts
from edgeq.reports.page.files import File, Scores, files_of, scores_of
from edgeq.reports.page.folder import Body, Folder, belongs
from edgeq.reports.page.layers import Change, Layer, layers_of
from edgeq.reports.page.table import NOTHING, Cell, Column, Table, number, quantity, scientific, signed, table
from edgeq.tasks.words import Words, words

_VENDOR: Final = Path(__file__).with_name("vendor")
LIBRARIES: Final = {
    "vega.min.js": ("Vega 6.4.0", "8f6a3587cf8d4f42c7e08120e3eb05d067e746d554e39d2dcf52acc0bd5ba28f"),
    "vega-lite.min.js": ("Vega-Lite 6.4.3", "35a9821df838825b05a6a73e9414b58747a1b18321583858ed903c66393a5c7e"),
    "vega-embed.min.js": ("Vega-Embed 7.3.0", "b1455caba2fb1a72fb46025ba0ba1316e2dbc7f0dd40a3f6040172bf9c08ba91"),
}
"""The files of `vendor/` in the order in which they load: what each is, as npm has it, and its SHA-256."""

_WORST: Final = 8
"""Layers that are named as those that hurt most."""


@dataclass(frozen=True)
class Figure:
    """A chart and what it says, for those who see it and those who do not.

    Attributes:
        chart: name of its specification.
        title: its heading.
        text: what it shows, and how to read it.
    """

    chart: str
    title: str
    text: str


@dataclass(frozen=True)
class Export:
    """What the page says of one export."""

    file: File
    facts: Sequence[tuple[str, str]]
    worst: Table
    layers: Table
    in_float: Mapping[str, str]
    drawn: Collection[str]
    rows: Sequence[Mapping[str, Any]]


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
    exports = [_export(file, record if record and belongs(record, file.manifest) else None, unit) for file in files]
    specs: dict[str, charts.Spec] = {}
    drawn = {
        "accuracy": _accuracy(scores, specs),
        "costs": _costs(files, specs),
        "latency": _latency(folder, specs),
        "layers": _layer_figures(unit, record is not None, specs),
    }
    data = {
        "specs": specs,
        "layers": {export.file.path: export.rows for export in exports},
        "histograms": _histograms(record) if record else {},
    }
    environment = Environment(
        loader=PackageLoader("edgeq.reports.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        folder=folder,
        facts=_facts(folder, record),
        files=_files_table(files),
        scores=[(one, _scores_table(one)) for one in scores],
        benches=[(name, body, _bench_table(name, body)) for name, body in folder.benches.items()],
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


# --- files ----------------------------------------------------------------------------------------------------------


def _files_table(files: Sequence[File]) -> Table:
    largest = max((file.manifest["bytes"] for file in files if file.manifest["scheme"] == "fp32"), default=None)

    def smaller(file: File) -> str:
        return f"{largest / file.manifest['bytes']:.1f}" if largest else NOTHING

    def scored(file: File) -> str:
        return number(file.score[0].value(file.score[1])) if file.score else NOTHING

    def lost(file: File) -> str:
        return signed(file.score[0].drop(file.score[1])) if file.score else NOTHING

    def timed(name: str, digits: int = 2) -> Callable[[File], str]:
        return lambda file: number(file.timed[name], digits) if file.timed else NOTHING

    def memory(name: str, digits: int, unit: float = 1.0) -> Callable[[File], str]:
        return lambda file: number(file.timed["memory"][name], digits, unit) if file.timed else NOTHING

    score = next((file.score[0].measure for file in files if file.score), None)
    return table(
        "Every export in the folder",
        [
            Column("file", lambda file: Cell(file.name, title=file.path), number=False),
            Column("scheme", lambda file: _scheme(file.manifest), number=False),
            Column("MB", lambda file: quantity(file.manifest["bytes"], 1e6), "size of the ONNX file"),
            Column("times smaller", smaller, "than the float file"),
            Column(f"{score.label}{score.unit}", scored, "of the first images it was judged on") if score else None,
            Column("drop", lost, "below the float network") if score else None,
            Column("planned drop", lambda file: number(file.manifest["drop"]), "estimated from the record, no images"),
            Column("ms", timed("median_ms"), "median latency of one run"),
            Column("times faster", timed("speedup"), "than the float file, by medians"),
            Column("load ms", memory("load_ms", 0), "from the file to a session"),
            Column("peak MB", memory("peak_rss_bytes", 1, 1e6), "memory while loading and running"),
            Column("G BitOps", lambda file: quantity(file.manifest["bitops"], 1e9), "MACs x weight x activation bits"),
            Column(
                "parity %", lambda file: number(file.manifest["parity"]["nodes_within_one_step"], 2, 0.01),
                "values of the worst node within one step of PyTorch",
            ),
        ],
        files,
    )  # fmt: skip


def _scheme(manifest: Manifest) -> str:
    parts = [manifest["scheme"], manifest["budget"] or "", "missed" if manifest["missed"] else ""]
    parts += ["float activations" * (manifest["act_bits"] == FLOAT_BITS and manifest["scheme"] != "fp32")]
    parts += ["reduced range" * manifest["portable"], manifest["effort"] * (manifest["effort"] != "fast")]
    return ", ".join(filter(None, parts))


def _scores_table(scores: Scores) -> Table:
    score = scores.measure
    digits = 2 if score.unit else 4
    reference = {**scores.reference, "name": "float network", "scheme": "reference", "bytes": None}
    others = ["top5"] if score.key == "top1" else [key for key in scores.reference["metrics"] if key != score.key]
    return table(
        f"Scores on {scores.images} images of {scores.data}",
        [
            Column("file", lambda row: row["name"], number=False),
            Column("scheme", lambda row: row["scheme"] or "other tool", number=False),
            Column("MB", lambda row: quantity(row["bytes"], 1e6)),
            Column(f"{score.label}{score.unit}", lambda row: number(score.of(row), digits)),
            Column("drop", lambda row: signed(scores.drop(row), digits), "below the float network"),
            *(Column(f"{name} %", partial(_other, name)) for name in others),
            Column("agree %", lambda row: number(row.get("agreement")), "images with the float network's class"),
            Column("SQNR dB", lambda row: number(row["sqnr_db"], 1), "signal to noise of the worst output"),
        ],
        [reference, *sorted(scores.rows, key=lambda row: -row["bytes"])],
    )


def _other(name: str, row: Body) -> str:
    return number(row.get(name, row["metrics"].get(name)))


def _bench_table(name: str, body: Body) -> Table:
    return table(
        f"{name}: {body['runtime']}, threads {body['threads']}, batch {body['batch']}, {body['environment']['cpu']}",
        [
            Column("file", lambda row: row["name"], number=False),
            Column("scheme", lambda row: row["scheme"] or "other tool", number=False),
            Column("median ms", lambda row: number(row["median_ms"])),
            Column("p90 ms", lambda row: number(row["p90_ms"])),
            Column("times faster", lambda row: number(row["speedup"]), "than the float file, by medians"),
            Column("load ms", lambda row: number(row["memory"]["load_ms"], 0)),
            Column("peak MB", lambda row: number(row["memory"]["peak_rss_bytes"], 1, 1e6)),
            Column("", lambda row: "unstable" if row["unstable"] else NOTHING, number=False),
        ],
        body["rows"],
    )


# --- layers ---------------------------------------------------------------------------------------------------------


def _export(file: File, record: CalibrationRecord | None, unit: Words) -> Export:
    found = layers_of(file.manifest, record)
    names = {layer.row["name"] for layer in found}
    hurting = sorted((layer for layer in found if layer.share), key=lambda layer: -layer.share)[:_WORST]
    facts = [
        ("size", f"{quantity(file.manifest['bytes'], 1e6)} MB"),
        ("planned drop", f"{number(file.manifest['drop'])} {unit.points}"),
        ("BitOps", f"{quantity(file.manifest['bitops'], 1e9)} G"),
    ]
    if file.score and (value := file.score[0].value(file.score[1])) is not None:
        facts.insert(1, (file.score[0].measure.label, f"{number(value)}{file.score[0].measure.unit}"))
    if file.timed:
        facts.append(("latency", f"{number(file.timed['median_ms'])} ms"))
    return Export(
        file,
        facts,
        table(f"Layers of {file.name} that hurt most", _hurting_columns(unit), hurting, _key),
        table(f"Layers of {file.name}, in order of execution", _layer_columns(unit), found, _key),
        {name: reason for name, reason in file.manifest["in_float"].items() if name not in names},
        _drawn(found),
        [_datum(layer) for layer in found],
    )


def _drawn(layers: Sequence[Layer]) -> list[str]:
    """The charts whose numbers are known of some layer, and in which layers differ."""
    known = {
        "bytes": True,
        "macs": True,
        "sensitivity": any(layer.sensitivity for layer in layers),
        "widening": any(layer.changes for layer in layers),
        "sqnr": any(layer.sqnr is not None for layer in layers),
        "ranges": any(layer.range or layer.seen for layer in layers),
        "histogram": any(layer.seen for layer in layers),
    }
    return [name for name, shown in known.items() if shown]


def _key(layer: Layer) -> str:
    return str(layer.row["position"])


def _name(layer: Layer) -> Cell:
    return Cell(layer.row["name"], "layer")


def _bits(layer: Layer) -> Cell:
    return Cell(str(layer.row["bits"]), f"bits bits{layer.row['bits']}")


def _arithmetic(layer: Layer) -> Cell:
    reason = layer.float_reason or layer.slow_reason
    return Cell("float" if layer.float_reason else "integer, slow" if reason else "integer", title=reason or "")


def _hurting_columns(unit: Words) -> list[Column | None]:
    return [
        Column("layer", _name, number=False),
        Column("bits", _bits),
        Column(unit.unit, lambda layer: scientific(layer.row["damage"]), unit.divergence),
        Column("% of all", lambda layer: number(layer.share, 1, 0.01), "share of the sum over all layers"),
        Column("SQNR dB", lambda layer: number(layer.sqnr, 1), "signal to noise of its output"),
        *_change_columns(unit),
    ]


def _change_columns(unit: Words) -> list[Column | None]:
    def next_width(layer: Layer) -> str:
        return str(layer.wider.bits) if layer.wider else NOTHING

    return [
        Column("next bits", next_width, "the next wider width; 32 is float"),
        *_changed("wider", lambda layer: layer.wider, "what the next wider width adds to", unit),
        *_changed("float", lambda layer: layer.excluded, "what keeping the layer in float adds to", unit),
    ]


def _changed(label: str, change: Callable[[Layer], Change | None], adds: str, unit: Words) -> Iterator[Column]:
    def of(shown: Callable[[Change], str]) -> Callable[[Layer], str]:
        return lambda layer: shown(found) if (found := change(layer)) else NOTHING

    yield Column(f"{label}: kB", of(lambda found: signed(found.bytes, 1, 1e3)), f"{adds} the file")
    yield Column(f"{label}: {unit.unit}", of(lambda found: f"{found.damage:+.1e}"), f"{adds} the sensitivity of all")
    yield Column(f"{label}: drop", of(lambda found: signed(found.drop, 3)), f"{adds} the planned drop, in points")


def _layer_columns(unit: Words) -> list[Column | None]:
    def at(bits: int, layer: Layer) -> Cell:
        value = layer.sensitivity[bits] if layer.sensitivity else None
        return Cell(scientific(value), "own" if layer.row["bits"] == bits else "")

    def span(layer: Layer) -> str:
        return f"{layer.range.low:.3g} … {layer.range.high:.3g}" if layer.range else NOTHING

    def seen(layer: Layer) -> str:
        ends = _ends(layer)
        return f"{ends[0]:.3g} … {ends[1]:.3g}" if ends else NOTHING

    return [
        Column("layer", _name, number=False),
        Column("#", _key, "place in the order of execution"),
        Column("kind", lambda layer: layer.row["kind"], number=False),
        Column("shape", lambda layer: "x".join(map(str, layer.row["shape"])), "of the weights", number=False),
        Column("bits", _bits, "of the weights"),
        Column("kB", lambda layer: number(layer.row["bytes"], 1, 1e3), "weights, scales and biases"),
        Column("M MACs", lambda layer: number(layer.row["macs"], 2, 1e6), "for one image"),
        Column("M BitOps", lambda layer: number(layer.row["bitops"], 1, 1e6)),
        *(
            Column(f"{unit.unit} at {width.bits}", partial(at, width.bits), f"{unit.divergence} at {width.bits} bits")
            for width in WIDTHS
        ),
        Column("SQNR dB", lambda layer: number(layer.sqnr, 1), "signal to noise of its output, beside the float one"),
        Column("stored range", span, "what its output is clipped to", number=False),
        Column("seen range", seen, "of its output on the calibration images", number=False),
        Column("computed in", _arithmetic, number=False),
        *_change_columns(unit),
    ]


def _ends(layer: Layer) -> tuple[float, float] | None:
    """The ends of the bins of its output."""
    bins = layer.seen
    return (bins.start, bins.start + bins.width * len(bins.counts)) if bins and bins.counts else None


def _datum(layer: Layer) -> dict[str, Any]:
    """A layer as the charts read it."""
    row, wider, ends = layer.row, layer.wider, _ends(layer)
    datum = {
        "position": row["position"], "name": row["name"], "bits": row["bits"], "kB": row["bytes"] / 1e3,
        "macs": row["macs"] / 1e6, "sqnr": layer.sqnr, "share": layer.share,
    }  # fmt: skip
    if layer.sensitivity:
        datum |= {f"at{bits}": value for bits, value in layer.sensitivity.items()}
    if layer.range:
        datum |= {"low": layer.range.low, "high": layer.range.high}
    if ends:
        datum |= {"least": ends[0], "most": ends[1]}
    if wider:
        datum |= {"wider": wider.bits, "widerKB": wider.bytes / 1e3, "saved": -wider.damage, "points": -wider.drop}
    return datum


def _histograms(record: CalibrationRecord) -> dict[str, Any]:
    """Start, width and counts of the bins of every layer's output, by the layer's name."""
    found = {layer.name: record.histograms.get(layer.output) for layer in record.layers}
    return {name: [bins.start, bins.width, bins.counts] for name, bins in found.items() if bins}


# --- figures --------------------------------------------------------------------------------------------------------


def _accuracy(scores: Sequence[Scores], specs: dict[str, charts.Spec]) -> list[Figure]:
    found = []
    for i, one in enumerate(scores):
        if any(one.value(row) is not None for row in one.rows):
            specs[f"accuracy{i}"] = charts.accuracy(one)
            text = f"{one.images} images of {one.data}. The line joins the files that no other one beats in both."
            found.append(Figure(f"accuracy{i}", f"Size against {one.measure.label}", text))
    return found


def _costs(files: Sequence[File], specs: dict[str, charts.Spec]) -> list[Figure]:
    """One chart of bars for each number that files differ in."""
    timed = [(file, file.timed) for file in files if file.timed]
    wanted: dict[str, tuple[str, str, list[tuple[File, float]]]] = {
        "size": ("Size", "MB", [(file, file.manifest["bytes"] / 1e6) for file in files]),
        "bitops": ("BitOps", "G BitOps", [(file, file.manifest["bitops"] / 1e9) for file in files]),
        "latency": ("Latency", "median, ms", [(file, row["median_ms"]) for file, row in timed]),
        "load": ("Load", "ms", [(file, row["memory"]["load_ms"]) for file, row in timed]),
        "peak": ("Peak memory", "MB", [(file, row["memory"]["peak_rss_bytes"] / 1e6) for file, row in timed]),
    }
    found = []
    for name, (title, axis, values) in wanted.items():
        if values:
            rows = [
                {"name": file.name, "kind": charts.kind_of(file.manifest), "value": value, "text": quantity(value, 1)}
                for file, value in values
            ]
            specs[name] = charts.bars(rows, axis)
            found.append(Figure(name, title, ""))
    return found


def _latency(folder: Folder, specs: dict[str, charts.Spec]) -> list[Figure]:
    found = []
    for i, (name, body) in enumerate(folder.benches.items()):
        specs[f"bench{i}"] = charts.latency(body)
        text = f"{body['runtime']}, threads {body['threads']}, batch {body['batch']}, {body['environment']['cpu']}. "
        text += "Runs far beyond the slowest 90th percentile are outside the chart."
        found.append(Figure(f"bench{i}", f"Every run of {name}", text))
    return found


def _layer_figures(unit: Words, recorded: bool, specs: dict[str, charts.Spec]) -> list[Figure]:
    """The charts of layers; those that need a record come where there is one."""
    specs |= charts.of_layers(unit.unit) | {"histogram": charts.histogram()}
    weights = Figure("bytes", "Weights", "What each layer takes in the file, by the bits of its weights.")
    work = Figure("macs", "Work", "Multiply-accumulates for one image.")
    errors = Figure(
        "sqnr", "Error of the outputs",
        "Signal to noise of each layer's output, beside the float network's, all layers before it quantized as well.",
    )  # fmt: skip
    if not recorded:
        return [weights, work, errors]
    divergence = unit.divergence[0].upper() + unit.divergence[1:]
    sensitivity = Figure(
        "sensitivity", "Sensitivity",
        f"{divergence} when only this layer is rounded, at 8, 4, 3 and 2 bits; filled at its own width.",
    )  # fmt: skip
    widening = Figure(
        "widening", "What widening one layer buys",
        "Each layer at its next wider width: more bytes to the right, less sensitivity upwards; best at the top left.",
    )  # fmt: skip
    ranges = Figure(
        "ranges", "Ranges of the outputs",
        "Thick: what 8 bits span. Thin: the float network's values on the calibration images; the rest is clipped.",
    )  # fmt: skip
    return [weights, work, sensitivity, widening, errors, ranges]
