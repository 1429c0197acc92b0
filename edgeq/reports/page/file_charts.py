"""The charts of whole files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeq.reports.page.chart import Spec, chart, number, said
from edgeq.reports.page.files import Scores
from edgeq.reports.page.folder import Body

_KINDS: Final = ("adaptive", "fixed scheme", "float", "other tool")
_BY_KIND: Final[Spec] = {
    "field": "kind",
    "type": "nominal",
    "scale": {"domain": _KINDS, "range": ["var(--accent)", "var(--bits8)", "var(--bits32)", "var(--other)"]},
    "legend": {"title": None, "orient": "top"},
}
_NAMES: Final[Spec] = {  # exports differ at the ends of their names, so these are shown
    "title": None,
    "labelExpr": "length(datum.label) > 26 ? '…' + slice(datum.label, -25) : datum.label",
    "labelLimit": 190,
    "ticks": False,
}
_NAMED: Final = 12  # most files of which all are named in a chart of points; of more, those of the front are left out


def kind_of(row: Body) -> str:
    """What the colour of a file says."""
    scheme = row["scheme"]
    return "other tool" if scheme is None else {"fp32": "float", "adaptive": "adaptive"}.get(scheme, "fixed scheme")


def accuracy(scores: Scores) -> Spec:
    """Size against a score, with the front, and the float network as a line."""
    title = f"{scores.measure.label}{scores.measure.unit and f', {scores.measure.unit.strip()}'}"
    front, few = {row["name"] for row in scores.front()}, len(scores.rows) <= _NAMED
    points = [
        {"name": row["name"], "MB": row["bytes"] / 1e6, "value": scores.value(row), "kind": kind_of(row)}
        | {"drop": scores.drop(row), "front": row["name"] in front}
        | {"named": few or row["scheme"] != "adaptive" or row["name"] not in front}
        for row in scores.rows
        if scores.value(row) is not None and row["scheme"] != "fp32"
    ]
    x = number("MB", "size of the file, MB", scale={"zero": False, "nice": True})
    y = number("value", title, scale={"zero": False, "nice": True})
    layers: list[Spec] = [
        {
            "transform": [{"filter": "datum.front"}],
            "mark": {"type": "line", "color": "var(--accent)", "strokeWidth": 1.5, "opacity": 0.6},
            "encoding": {"x": x, "y": y, "order": {"field": "MB", "type": "quantitative"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1, "stroke": "var(--paper)"},
            "encoding": {
                "x": x,
                "y": y,
                "color": _BY_KIND,
                "shape": {**_BY_KIND, "scale": {"domain": _KINDS, "range": ["circle", "square", "cross", "diamond"]}},
                "tooltip": said(name="file", MB="MB", value=title, drop="drop"),
            },
        },
        {
            "mark": {"type": "text", "dy": -12, "color": "var(--ink)", "fontSize": 11, "limit": 220},
            "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            "transform": [{"filter": "datum.named"}],
        },
    ]
    reference = scores.measure.of(scores.reference)
    if reference is not None:
        line = {"data": {"values": [{"value": reference}]}, "encoding": {"y": y}}
        layers.insert(0, {**line, "mark": {"type": "rule", "color": "var(--bits32)", "strokeDash": [5, 4]}})
        label = {"text": "float network", "align": "right", "x": "width", "dy": 10, "color": "var(--muted)"}
        layers.insert(1, {**line, "mark": {"type": "text", **label}})
    return chart(330, {"values": points}, layers)


def bars(rows: Sequence[Mapping[str, Any]], title: str) -> Spec:
    """One number of every file: rows have a `name`, a `kind`, a `value`, and the `text` behind its bar."""
    y = {"field": "name", "type": "nominal", "sort": None, "axis": _NAMES}
    room = 1.6 * max(row["value"] for row in rows)  # for the numbers behind the bars
    x = number("value", title, axis={"tickCount": 4}, scale={"domainMax": room})
    legend = {**_BY_KIND, "legend": None}
    return chart(
        26 * len(rows),
        {"values": list(rows)},
        [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 2, "height": {"band": 0.65}},
                "encoding": {"x": x, "y": y, "color": legend, "tooltip": said(name="file", value=title)},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 4, "color": "var(--ink)", "fontSize": 11},
                "encoding": {"x": x, "y": y, "text": {"field": "text"}},
            },
        ],
    )


def latency(body: Body) -> Spec:
    """All latencies of every file, and their medians."""
    samples = [
        {"name": row["name"], "ms": sample, "median": row["median_ms"], "kind": kind_of(row)}
        for row in body["rows"]
        for sample in row["samples_ms"]
    ]
    y = {"field": "name", "type": "nominal", "sort": None, "axis": _NAMES}
    color = {**_BY_KIND, "legend": None}
    x = {"scale": {"domainMax": 1.5 * max((row["p90_ms"] for row in body["rows"]), default=1.0), "domainMin": 0}}
    return chart(
        30 * len(body["rows"]),
        {"values": samples},
        [
            {
                "mark": {"type": "tick", "clip": True, "opacity": 0.35, "thickness": 1.5, "bandSize": 14},
                "encoding": {
                    "x": number("ms", "milliseconds; a stroke is a run, the dot their median", **x),
                    "y": y,
                    "color": color,
                    "tooltip": said(name="file", ms="this run, ms", median="median, ms"),
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1, "stroke": "var(--paper)"},
                "encoding": {"x": number("median", "", aggregate="max", **x), "y": y, "color": color},
            },
        ],
    )
