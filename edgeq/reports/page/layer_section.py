"""The section about the layers of each export: its tables, the data of its charts, and what these are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from edgeq.artifacts.record import CalibrationRecord
from edgeq.numerics.weights import WIDTHS
from edgeq.reports.page import layer_charts
from edgeq.reports.page.chart import Spec
from edgeq.reports.page.figure import Figure
from edgeq.reports.page.files import File
from edgeq.reports.page.layers import Change, Layer, layers_of
from edgeq.reports.page.table import NOTHING, Cell, Column, Table, number, plain, quantity, scientific, signed, table
from edgeq.tasks.words import Words

_WORST: Final = 8
"""Layers that are named as those that hurt most."""


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


def export_of(file: File, record: CalibrationRecord | None, unit: Words) -> Export:
    """What the page says of the layers of an export, with its record if there is one."""
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
    return Cell(str(layer.row["bits"]), f"bits bits{plain(layer.row['bits'])}")


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
    def at(bits: float, layer: Layer) -> Cell:
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
        datum |= {f"at{plain(bits)}": value for bits, value in layer.sensitivity.items()}
    if layer.range:
        datum |= {"low": layer.range.low, "high": layer.range.high}
    if ends:
        datum |= {"least": ends[0], "most": ends[1]}
    if wider:
        datum |= {"wider": wider.bits, "widerKB": wider.bytes / 1e3, "saved": -wider.damage, "points": -wider.drop}
    return datum


def histograms_of(record: CalibrationRecord) -> dict[str, Any]:
    """Start, width and counts of the bins of every layer's output, by the layer's name."""
    found = {layer.name: record.histograms.get(layer.output) for layer in record.layers}
    return {name: [bins.start, bins.width, bins.counts] for name, bins in found.items() if bins}


def layer_figures(unit: Words, recorded: bool, specs: dict[str, Spec]) -> list[Figure]:
    """The charts of layers; those that need a record come where there is one."""
    specs |= layer_charts.of_layers(unit.unit) | {"histogram": layer_charts.histogram()}
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
        f"{divergence} when only this layer is rounded, at every width; filled at its own.",
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
