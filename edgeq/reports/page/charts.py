"""The charts of the page as Vega-Lite specifications; colours are variables of the style sheet, for light and dark.

Charts of layers read the dataset of their export, and highlight the layer that the parameter `picked` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeq.numerics.weights import WIDTHS
from edgeq.planning.cost import FLOAT_BITS
from edgeq.reports.page.files import Scores
from edgeq.reports.page.folder import Body
from edgeq.reports.page.table import plain

Spec = dict[str, Any]

_BITS: Final = [FLOAT_BITS, *(width.bits for width in WIDTHS)]
_BY_BITS: Final[Spec] = {
    "type": "ordinal",
    "scale": {"domain": _BITS, "range": [f"var(--bits{plain(bits)})" for bits in _BITS]},
    "legend": {"title": "bits", "orient": "top", "symbolOpacity": 1},
}
_KINDS: Final = ("adaptive", "fixed scheme", "float", "other tool")
_BITS_ALONE: Final[Spec] = {"field": "bits", **_BY_BITS, "legend": None}
_BY_KIND: Final[Spec] = {
    "field": "kind",
    "type": "nominal",
    "scale": {"domain": _KINDS, "range": ["var(--accent)", "var(--bits8)", "var(--bits32)", "var(--other)"]},
    "legend": {"title": None, "orient": "top"},
}
_POSITION: Final[Spec] = {
    "field": "position",
    "type": "ordinal",
    "axis": {"title": "layer, in order of execution", "labelOverlap": True, "labelAngle": 0},
}
_PICKED: Final = "picked < 0 || datum.position === picked"
_FADED: Final[Spec] = {"condition": {"test": _PICKED, "value": 1}, "value": 0.3}


def _chart(height: int, data: Any, layers: Sequence[Spec], **more: Any) -> Spec:
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": data,
        "layer": list(layers),
        **more,
    }


def _number(field: str, title: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _said(**titles: str) -> list[Spec]:
    """What is said of a mark that is pointed at."""
    return [{"field": field, "title": title} for field, title in titles.items()]


# --- files ----------------------------------------------------------------------------------------------------------


def kind_of(row: Body) -> str:
    """What the colour of a file says."""
    scheme = row["scheme"]
    return "other tool" if scheme is None else {"fp32": "float", "adaptive": "adaptive"}.get(scheme, "fixed scheme")


def accuracy(scores: Scores) -> Spec:
    """Size against a score, with the front, and the float network as a line."""
    title = f"{scores.measure.label}{scores.measure.unit and f', {scores.measure.unit.strip()}'}"
    front = {row["name"] for row in scores.front()}
    points = [
        {"name": row["name"], "MB": row["bytes"] / 1e6, "value": scores.value(row), "kind": kind_of(row)}
        | {"drop": scores.drop(row), "front": row["name"] in front}
        for row in scores.rows
        if scores.value(row) is not None and row["scheme"] != "fp32"
    ]
    x = _number("MB", "size of the file, MB", scale={"zero": False, "nice": True})
    y = _number("value", title, scale={"zero": False, "nice": True})
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
                "tooltip": _said(name="file", MB="MB", value=title, drop="drop"),
            },
        },
        {
            "mark": {"type": "text", "dy": -12, "color": "var(--ink)", "fontSize": 11, "limit": 150},
            "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            "transform": [{"filter": "datum.kind !== 'adaptive' || !datum.front"}],
        },
    ]
    reference = scores.measure.of(scores.reference)
    if reference is not None:
        line = {"data": {"values": [{"value": reference}]}, "encoding": {"y": y}}
        layers.insert(0, {**line, "mark": {"type": "rule", "color": "var(--bits32)", "strokeDash": [5, 4]}})
        label = {"type": "text", "align": "left", "x": 4, "dy": -6, "text": "float network", "color": "var(--muted)"}
        layers.insert(1, {**line, "mark": label})
    return _chart(330, {"values": points}, layers)


def bars(rows: Sequence[Mapping[str, Any]], title: str) -> Spec:
    """One number of every file: rows have a `name`, a `kind`, a `value`, and the `text` behind its bar."""
    y = {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "labelLimit": 170, "ticks": False}}
    room = 1.15 * max(row["value"] for row in rows)  # for the numbers behind the bars
    x = _number("value", title, axis={"tickCount": 4}, scale={"domainMax": room})
    legend = {**_BY_KIND, "legend": None}
    return _chart(
        26 * len(rows),
        {"values": list(rows)},
        [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 2, "height": {"band": 0.65}},
                "encoding": {"x": x, "y": y, "color": legend, "tooltip": _said(name="file", value=title)},
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
    y = {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "labelLimit": 170, "ticks": False}}
    color = {**_BY_KIND, "legend": None}
    x = {"scale": {"domainMax": 1.5 * max((row["p90_ms"] for row in body["rows"]), default=1.0), "domainMin": 0}}
    return _chart(
        30 * len(body["rows"]),
        {"values": samples},
        [
            {
                "mark": {"type": "tick", "clip": True, "opacity": 0.35, "thickness": 1.5, "bandSize": 14},
                "encoding": {
                    "x": _number("ms", "milliseconds; a stroke is a run, the dot their median", **x),
                    "y": y,
                    "color": color,
                    "tooltip": _said(name="file", ms="this run, ms", median="median, ms"),
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1, "stroke": "var(--paper)"},
                "encoding": {"x": _number("median", "", aggregate="max", **x), "y": y, "color": color},
            },
        ],
    )


# --- layers ---------------------------------------------------------------------------------------------------------

_NAMED: Final = _said(name="layer", bits="bits")


def _by_layer(height: int, layers: Sequence[Spec], **more: Any) -> Spec:
    """A chart of layers; a transparent bar makes the whole height of a layer answer to the pointer."""
    target: Spec = {
        "mark": {"type": "rect", "opacity": 0, "width": {"band": 1}},
        "encoding": {"x": _POSITION, "y": {"value": 0}, "y2": {"value": "height"}, "tooltip": more.pop("tooltip")},
    }
    parameters = [{"name": "picked", "value": -1}]
    return _chart(height, {"name": "layers"}, [*layers, target], params=parameters, **more)


def _layer_bars(field: str, title: str) -> Spec:
    color = {"field": "bits", **_BY_BITS}
    mark = {"type": "bar", "width": {"band": 0.86}, "cornerRadiusEnd": 1}
    y = _number(field, title, axis={"tickCount": 4})
    encoding = {"x": _POSITION, "y": y, "color": color, "opacity": _FADED}
    return _by_layer(150, [{"mark": mark, "encoding": encoding}], tooltip=[*_NAMED, *_said(**{field: title})])


def _sensitivity(unit: str) -> Spec:
    """The sensitivity of every layer at every width; that of its own is filled."""
    fold: list[Spec] = [{"fold": [f"at{plain(width.bits)}" for width in WIDTHS], "as": ["at", "value"]}]
    fold += [
        {"calculate": "toNumber(replace(slice(datum.at, 2), '_', '.'))", "as": "width"},
        {"filter": "datum.value > 0"},
    ]
    y = _number("value", f"sensitivity, {unit}", scale={"type": "log"}, axis={"tickCount": 5, "format": "~e"})
    color = {"field": "width", **_BY_BITS}
    shown = {"x": _POSITION, "y": y, "color": color}
    return _by_layer(
        220,
        [
            {
                "transform": fold,
                "mark": {"type": "point", "size": 22, "strokeWidth": 1.2},
                "encoding": shown | {"opacity": {"condition": {"test": _PICKED, "value": 0.75}, "value": 0.15}},
            },
            {
                "transform": [*fold, {"filter": "datum.width === datum.bits"}],
                "mark": {"type": "point", "filled": True, "size": 62},
                "encoding": shown | {"opacity": _FADED},
            },
        ],
        tooltip=[
            *_NAMED,
            *(one for width in WIDTHS for one in _said(**{f"at{plain(width.bits)}": f"at {width.bits} bits"})),
        ],
    )


def _sqnr() -> Spec:
    """The error of every layer's output."""
    y = _number("sqnr", "SQNR of the output, dB", axis={"tickCount": 4}, scale={"zero": False})
    line = {"type": "line", "color": "var(--muted)", "strokeWidth": 1, "opacity": 0.6}
    known = [{"filter": "isValid(datum.sqnr)"}]
    return _by_layer(
        170,
        [
            {"transform": known, "mark": line, "encoding": {"x": _POSITION, "y": y}},
            {
                "transform": known,
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {"x": _POSITION, "y": y, "color": _BITS_ALONE, "opacity": _FADED},
            },
        ],
        tooltip=[*_NAMED, *_said(sqnr="SQNR, dB")],
    )


def _ranges() -> Spec:
    """What the output of every layer spans, and the part of it that is stored in 8 bits."""
    known = [{"filter": "isValid(datum.low)"}]
    title = "values of the output"
    return _by_layer(
        170,
        [
            {
                "transform": [{"filter": "isValid(datum.least)"}],
                "mark": {"type": "rule", "color": "var(--other)", "strokeWidth": 1.5},
                "encoding": {"x": _POSITION, "y": _number("least", title), "y2": {"field": "most"}, "opacity": _FADED},
            },
            {
                "transform": known,
                "mark": {"type": "bar", "color": "var(--accent)", "width": {"band": 0.6}},
                "encoding": {"x": _POSITION, "y": _number("low", title), "y2": {"field": "high"}, "opacity": _FADED},
            },
        ],
        tooltip=[*_NAMED, *_said(low="stored from", high="to", least="seen from", most="to ")],
    )


def _widening(unit: str) -> Spec:
    """What the next wider width of every layer would cost and gain."""
    x = _number("widerKB", "more kB, at the next wider width", axis={"tickCount": 5})
    y = _number("saved", f"{unit} saved", axis={"tickCount": 5, "format": "~e"})
    said = [*_NAMED, *_said(wider="next width", widerKB="more kB", saved=f"{unit} saved", points="points saved")]
    return {
        **_chart(
            220,
            {"name": "layers"},
            [
                {
                    "transform": [{"filter": "isValid(datum.widerKB)"}],
                    "mark": {"type": "point", "filled": True, "size": 70},
                    "encoding": {"x": x, "y": y, "color": {"field": "bits", **_BY_BITS}, "opacity": _FADED}
                    | {"tooltip": said},
                }
            ],
        ),
        "params": [{"name": "picked", "value": -1}],
    }


def histogram() -> Spec:
    """The values of one layer's output, and the ends of the range that they are stored in.

    Its datasets are `bins`, rows of `from`, `to` and `count`, and `ends`, rows of `end`.
    """
    x = _number("from", "value of the output, before it is clipped", scale={"zero": False, "nice": False})
    y = _number(
        "count", "sampled values", scale={"type": "symlog"}, axis={"values": [0, *(10**i for i in range(1, 10, 2))]}
    )
    return _chart(
        190,
        {"name": "bins"},
        [
            {
                "mark": {"type": "bar", "color": "var(--accent)", "opacity": 0.75},
                "encoding": {"x": {**x, "bin": "binned"}, "x2": {"field": "to"}, "y": y}
                | {"tooltip": _said(**{"from": "from", "to": "to", "count": "sampled values"})},
            },
            {
                "data": {"name": "ends"},
                "mark": {"type": "rule", "color": "var(--other)", "strokeWidth": 2},
                "encoding": {"x": _number("end", "")},
            },
        ],
    )


def of_layers(unit: str) -> dict[str, Spec]:
    """The charts of the layers of an export, by name."""
    return {
        "bytes": _layer_bars("kB", "weights, kB"),
        "macs": _layer_bars("macs", "M MACs"),
        "sensitivity": _sensitivity(unit),
        "sqnr": _sqnr(),
        "ranges": _ranges(),
        "widening": _widening(unit),
    }
