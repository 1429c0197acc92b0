"""The charts of layers: they read the dataset of their export, and highlight the layer that `picked` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from edgeq.numerics.weights import WIDTHS
from edgeq.planning.cost import FLOAT_BITS
from edgeq.reports.page.chart import Spec, chart, number, said
from edgeq.reports.page.table import plain

_BITS: Final = [FLOAT_BITS, *(width.bits for width in WIDTHS)]
_BY_BITS: Final[Spec] = {
    "type": "ordinal",
    "scale": {"domain": _BITS, "range": [f"var(--bits{plain(bits)})" for bits in _BITS]},
    "legend": {"title": "bits", "orient": "top", "symbolOpacity": 1},
}
_BITS_ALONE: Final[Spec] = {"field": "bits", **_BY_BITS, "legend": None}
_POSITION: Final[Spec] = {
    "field": "position",
    "type": "ordinal",
    "axis": {"title": "layer, in order of execution", "labelOverlap": True, "labelAngle": 0},
}
_PICKED: Final = "picked < 0 || datum.position === picked"
_FADED: Final[Spec] = {"condition": {"test": _PICKED, "value": 1}, "value": 0.3}
_NAMED: Final = said(name="layer", bits="bits")


def _by_layer(height: int, layers: Sequence[Spec], **more: Any) -> Spec:
    """A chart of layers; a transparent bar makes the whole height of a layer answer to the pointer."""
    target: Spec = {
        "mark": {"type": "rect", "opacity": 0, "width": {"band": 1}},
        "encoding": {"x": _POSITION, "y": {"value": 0}, "y2": {"value": "height"}, "tooltip": more.pop("tooltip")},
    }
    parameters = [{"name": "picked", "value": -1}]
    return chart(height, {"name": "layers"}, [*layers, target], params=parameters, **more)


def _layer_bars(field: str, title: str) -> Spec:
    color = {"field": "bits", **_BY_BITS}
    mark = {"type": "bar", "width": {"band": 0.86}, "cornerRadiusEnd": 1}
    y = number(field, title, axis={"tickCount": 4})
    encoding = {"x": _POSITION, "y": y, "color": color, "opacity": _FADED}
    return _by_layer(150, [{"mark": mark, "encoding": encoding}], tooltip=[*_NAMED, *said(**{field: title})])


def _sensitivity(unit: str) -> Spec:
    """The sensitivity of every layer at every width; that of its own is filled."""
    fold: list[Spec] = [{"fold": [f"at{plain(width.bits)}" for width in WIDTHS], "as": ["at", "value"]}]
    fold += [
        {"calculate": "toNumber(replace(slice(datum.at, 2), '_', '.'))", "as": "width"},
        {"filter": "datum.value > 0"},
    ]
    y = number("value", f"sensitivity, {unit}", scale={"type": "log"}, axis={"tickCount": 5, "format": "~e"})
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
            *(one for width in WIDTHS for one in said(**{f"at{plain(width.bits)}": f"at {width.bits} bits"})),
        ],
    )


def _sqnr() -> Spec:
    """The error of every layer's output."""
    y = number("sqnr", "SQNR of the output, dB", axis={"tickCount": 4}, scale={"zero": False})
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
        tooltip=[*_NAMED, *said(sqnr="SQNR, dB")],
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
                "encoding": {"x": _POSITION, "y": number("least", title), "y2": {"field": "most"}, "opacity": _FADED},
            },
            {
                "transform": known,
                "mark": {"type": "bar", "color": "var(--accent)", "width": {"band": 0.6}},
                "encoding": {"x": _POSITION, "y": number("low", title), "y2": {"field": "high"}, "opacity": _FADED},
            },
        ],
        tooltip=[*_NAMED, *said(low="stored from", high="to", least="seen from", most="to ")],
    )


def _widening(unit: str) -> Spec:
    """What the next wider width of every layer would cost and gain."""
    x = number("widerKB", "more kB, at the next wider width", axis={"tickCount": 5})
    y = number("saved", f"{unit} saved", axis={"tickCount": 5, "format": "~e"})
    tooltip = [*_NAMED, *said(wider="next width", widerKB="more kB", saved=f"{unit} saved", points="points saved")]
    return {
        **chart(
            220,
            {"name": "layers"},
            [
                {
                    "transform": [{"filter": "isValid(datum.widerKB)"}],
                    "mark": {"type": "point", "filled": True, "size": 70},
                    "encoding": {"x": x, "y": y, "color": {"field": "bits", **_BY_BITS}, "opacity": _FADED}
                    | {"tooltip": tooltip},
                }
            ],
        ),
        "params": [{"name": "picked", "value": -1}],
    }


def histogram() -> Spec:
    """The values of one layer's output, and the ends of the range that they are stored in.

    Its datasets are `bins`, rows of `from`, `to` and `count`, and `ends`, rows of `end`.
    """
    x = number("from", "value of the output, before it is clipped", scale={"zero": False, "nice": False})
    y = number(
        "count", "sampled values", scale={"type": "symlog"}, axis={"values": [0, *(10**i for i in range(1, 10, 2))]}
    )
    return chart(
        190,
        {"name": "bins"},
        [
            {
                "mark": {"type": "bar", "color": "var(--accent)", "opacity": 0.75},
                "encoding": {"x": {**x, "bin": "binned"}, "x2": {"field": "to"}, "y": y}
                | {"tooltip": said(**{"from": "from", "to": "to", "count": "sampled values"})},
            },
            {
                "data": {"name": "ends"},
                "mark": {"type": "rule", "color": "var(--other)", "strokeWidth": 2},
                "encoding": {"x": number("end", "")},
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
