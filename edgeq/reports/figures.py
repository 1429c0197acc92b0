"""Figures for slides: 1920 x 1080 pixels, direct labels, the same colour for a scheme everywhere, the result as title.

Each `plot_*` writes one PNG, and the `*_figure` of the same name builds the figure without writing it. Manifests and
reports are the JSON bodies that edgeq writes. All manifests of a figure must be of one network. All functions raise
`ArtifactError` if there is nothing to draw, a field is missing, or the networks differ; `plot_*` also raise
`OutputError` if the file cannot be written.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from edgeq.artifacts.files import replacing
from edgeq.artifacts.model_names import short_name
from edgeq.errors import ArtifactError
from edgeq.planning.plan import PrecisionPlan
from edgeq.tasks.metrics import Measure, measure
from edgeq.tasks.words import words

Body = Mapping[str, Any]

COLOURS: Final = {"fp32": "#6E6E6E", "8bit": "#0072B2", "4bit": "#56B4E9", "2bit": "#009E73", "adaptive": "#D55E00"}
"""Colours of the schemes, in the order of bars: Okabe and Ito's palette, which colour-blind people can distinguish."""

_WIDTH_COLOURS: Final[dict[float, str]] = {
    8: COLOURS["8bit"], 4: COLOURS["4bit"], 3: "#E69F00", 2: COLOURS["2bit"],
    1.6: "#882255", 1.33: "#44AA99", 1: "#999933",
}  # fmt: skip
_OTHER_COLOUR: Final = "#CC79A7"
_INK: Final = "#222222"
_FAINT: Final = "#595959"
_INCHES: Final = (12.8, 7.2)
_DPI: Final = 150
_TEXT: Final = 15
_SIDES: Final = (
    (14, 0, "left", "center"),
    (0, -14, "center", "top"),
    (0, 14, "center", "bottom"),
    (-14, 0, "right", "center"),
    (12, -12, "left", "top"),
    (0, -58, "center", "top"),
    (-12, -12, "right", "top"),
    (12, -80, "left", "top"),
    (-12, -80, "right", "top"),
    (0, -110, "center", "top"),
)


def plot_bitops(manifests: Sequence[Body], path: Path) -> None:
    """Plot the BitOps of one inference for each configuration, and how many times fewer than fp32 they are."""
    _save(lambda: bitops_figure(manifests), path)


def plot_bits_by_position(manifests: Sequence[Body], path: Path) -> None:
    """Plot bits and bytes of each layer in order of execution: the adaptive scheme as bars, fixed schemes as lines."""
    _save(lambda: bits_by_position_figure(manifests), path)


def plot_size_latency(manifests: Sequence[Body], bench_report: Body, path: Path) -> None:
    """Plot file size and median latency (with a line to the 90th percentile) of each row of a bench report."""
    _save(lambda: size_latency_figure(manifests, bench_report), path)


def plot_accuracy_size(manifests: Sequence[Body], evaluation_report: Body, path: Path) -> None:
    """Plot the score of the task against file size; a dashed line is the score of the fp32 reference."""
    _save(lambda: accuracy_size_figure(manifests, evaluation_report), path)


def plot_sweep(report: Body, path: Path) -> None:
    """Plot the score of the task against file size for a sweep; points that missed their budget are hollow."""
    _save(lambda: sweep_figure(report), path)


def plot_sensitivity(plan: PrecisionPlan, network: str, path: Path) -> None:
    """Plot the sensitivity of each layer at each width, in order of execution, and the widths of a plan."""
    _save(lambda: sensitivity_figure(plan, network), path)


def plot_predictors(report: Body, path: Path) -> None:
    """Plot predicted against measured divergence of random plans, for each predictor of `benchmarks/sensitivity.py`."""
    _save(lambda: predictors_figure(report), path)


def bitops_figure(manifests: Sequence[Body]) -> Figure:
    """Build the figure of `plot_bitops`: all configurations on the left, the quantized ones enlarged on the right."""
    ordered = _ordered(manifests)
    labels, giga = _labels(ordered), [m["bitops"] / 1e9 for m in ordered]
    quantized = [i for i, m in enumerate(ordered) if m["scheme"] != "fp32"]
    fp32 = next((value for m, value in zip(ordered, giga, strict=True) if m["scheme"] == "fp32"), None)
    compared = fp32 is not None and bool(quantized)
    texts = [f"{value:.2f} G" for value in giga]
    title = "BitOps of one inference"
    if fp32 is not None and quantized:
        for i in quantized:
            texts[i] += f"\n{fp32 / giga[i]:.3g}x fewer"
        claims = [f"{labels[i]} {fp32 / giga[i]:.3g}x" for i in quantized]
        title = f"Fewer BitOps than fp32: {', '.join(claims)}"
    figure = _figure(title, f"{_network(manifests)}; BitOps = MACs x weight bits x activation bits")
    groups = [list(range(len(ordered))), quantized] if compared else [list(range(len(ordered)))]
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        colours = [_colour(ordered[i]["scheme"]) for i in group]
        _bars(axes, [labels[i] for i in group], [giga[i] for i in group], colours, [texts[i] for i in group])
        axes.set_xlabel("billion BitOps" + (", quantized only" if len(group) < len(ordered) else ""))
    return figure


def bits_by_position_figure(manifests: Sequence[Body]) -> Figure:
    """Build the figure of `plot_bits_by_position`, without fp32, whose 32 bits would flatten the rest."""
    ordered = [m for m in _ordered(manifests) if m["scheme"] != "fp32"]
    if not ordered:
        raise ArtifactError("bits by position: expected a manifest of a quantized model, found fp32 only; export one")
    labels = _labels(ordered)
    main = next((i for i, m in enumerate(ordered) if m["scheme"] == "adaptive"), 0)
    layers = sorted(ordered[main]["layers"], key=lambda layer: int(layer["position"]))
    figure = _figure(_bits_title(labels[main], layers), _network(manifests))
    top, bottom = figure.subplots(2, 1, sharex=True)
    _layer_bars(top, layers, [layer["bits"] for layer in layers], _colour(ordered[main]["scheme"]))
    _layer_bars(bottom, layers, [layer["bytes"] / 1e3 for layer in layers], _colour(ordered[main]["scheme"]))
    for label, manifest in zip(labels, ordered, strict=True):
        if manifest is not ordered[main]:
            _bits_line(top, label, manifest)
    top.set_ylabel("bits a weight")
    top.set_yticks([2, 4, 8])
    top.set_ylim(0, 9.9)
    top.set_xlim(layers[0]["position"] - 1, layers[-1]["position"] + 1)
    _note(top, "stem", (layers[0]["position"] - 0.4, layers[0]["bits"]), (0, 6), ha="left")
    bottom.legend(
        fontsize=_TEXT,
        loc="upper left",
        title=labels[main],
        title_fontsize=_TEXT,
        alignment="left",
        edgecolor="white",
        framealpha=1,
    )
    bottom.set_ylabel("kB")
    bottom.set_xlabel("layer, in order of execution")
    largest = max(layers, key=lambda layer: int(layer["bytes"]))
    text = f"{largest['name']}: {largest['bytes'] / 1e3:.1f} kB"
    _note(bottom, text, (largest["position"], largest["bytes"] / 1e3), (-14, -12), ha="right")
    return figure


def size_latency_figure(manifests: Sequence[Body], bench_report: Body) -> Figure:
    """Build the figure of `plot_size_latency`."""
    rows = _ordered(bench_report["rows"])
    labels, colours = _labels(rows), [_colour(row["scheme"]) for row in rows]
    sizes, medians = [row["bytes"] / 1e6 for row in rows], [row["median_ms"] for row in rows]
    texts = [f"{row['median_ms']:.2f} ms" for row in rows]
    title = "File size and latency"
    baseline = next((row for row in rows if row["scheme"] == "fp32"), None)
    others = [row for row in rows if row["scheme"] not in ("fp32", None)]
    if baseline is not None and others:
        texts = [t if r is baseline else f"{t}\n{r['speedup']:.2f}x as fast" for t, r in zip(texts, rows, strict=True)]
        smaller = _span([baseline["bytes"] / row["bytes"] for row in others])
        title = f"{smaller} smaller than fp32, and {_span([row['speedup'] for row in others])} as fast"
    figure = _figure(title, f"{_machine(bench_report)}; {_network(manifests)}")
    left, right = figure.subplots(1, 2)
    _bars(left, labels, sizes, colours, [f"{size:.2f} MB" for size in sizes])
    left.set_xlabel("file size, MB")
    _bars(right, labels, medians, colours, texts, ends=[row["p90_ms"] for row in rows])
    right.set_xlabel("median ms (line: to p90)")
    return figure


def accuracy_size_figure(manifests: Sequence[Body], evaluation_report: Body) -> Figure:
    """Build the figure of `plot_accuracy_size`.

    Rows are matched to manifests by the stem of the file name, or else by scheme. Rows of other tools, which have no
    manifest, are drawn, too.
    """
    main = measure(evaluation_report["metric"])
    reference = main.of(evaluation_report["reference"])
    if reference is None and main.key != "sqnr_db":
        raise ArtifactError("accuracy: expected an evaluation with labels, found none; evaluate a folder of classes")
    known = {m["scheme"]: m for m in manifests} | {Path(m["file"]).stem: m for m in manifests}
    rows = [row if row.get("scheme", "") is None else known.get(row["name"]) for row in evaluation_report["models"]]
    if None in rows:
        unknown = evaluation_report["models"][rows.index(None)]["name"]
        raise ArtifactError(f"accuracy: expected a manifest for every evaluated model, found none for {unknown}")
    scored = zip(rows, evaluation_report["models"], strict=True)
    valued = [{**row, "value": main.of(scores)} for row, scores in scored if row]
    # SQNR of fp32 is that of rounding errors, far above all others
    shown = [m for m in valued if m["value"] is not None and not (reference is None and m["scheme"] == "fp32")]
    found = _ordered(shown)
    labels, points = _labels(found), [(m["bytes"] / 1e6, m["value"]) for m in found]
    note = f"{evaluation_report['images']} images of {Path(evaluation_report['data']).name}; {_network(manifests)}"
    figure = _figure(_accuracy_title(labels, found, reference, main), note)
    axes = _size_axes(figure, [x for x, _ in points], reference, main)
    axes.scatter(
        [x for x, _ in points], [y for _, y in points], s=220, c=[_colour(m["scheme"]) for m in found], zorder=6
    )
    texts = [f"{label}\n{_valued(y, main)}, {x:.2f} MB" for label, (x, y) in zip(labels, points, strict=True)]
    notes = [_note(axes, text, point) for text, point in zip(texts, points, strict=True)]
    for note_of_point, manifest in zip(notes, found, strict=True):  # `_spread` may move it away from its point
        note_of_point.set(color=_colour(manifest["scheme"]), weight="bold")
    _spread(figure, axes, reference, notes)
    return figure


def sweep_figure(report: Body) -> Figure:
    """Build the figure of `plot_sweep`: a line joins budgets, a dashed one is fp32, other tools are diamonds."""
    main = measure(report["metric"])
    reference = main.of(report["reference"])
    valued: list[Body] = [{**row, "value": main.of(row)} for row in report["rows"] if row["scheme"] != "fp32"]
    rows = [row for row in valued if row["value"] is not None]
    ours = _ordered([row for row in rows if row["scheme"] is not None])
    note = f"{report['images']} images of {Path(report['data']).name}; effort {report['effort']}; {_network([report])}"
    model = f"{short_name(report['network']['model'])}-"
    labels = {row["name"]: "adaptive" if row["budget"] else row["name"].removeprefix(model) for row in rows}
    figure = _figure(_accuracy_title([labels[row["name"]] for row in ours], ours, reference, main), note)
    axes = _size_axes(figure, [row["bytes"] / 1e6 for row in rows], reference, main)
    front = sorted((row for row in ours if row["budget"]), key=lambda row: int(row["bytes"]))
    corners = [(row["bytes"] / 1e6, row["value"]) for row in front]
    axes.plot([x for x, _ in corners], [y for _, y in corners], color=COLOURS["adaptive"], linewidth=2.5, zorder=5)
    for row in rows:
        marker, colour = "o" if row["scheme"] else "D", _colour(row["scheme"])
        face = "white" if row["missed"] else colour
        axes.scatter(
            row["bytes"] / 1e6, row["value"], s=130, marker=marker, c=face, edgecolors=colour, linewidths=2.5, zorder=6
        )
    labelled = [row for row in rows if not row["budget"]] + front[len(front) // 2 :][:1]
    notes = []
    for row in labelled:
        size, label = row["bytes"] / 1e6, labels[row["name"]]
        notes.append(_note(axes, f"{label}\n{_valued(row['value'], main)}, {size:.2f} MB", (size, row["value"])))
        notes[-1].set(color=_colour(row["scheme"]), weight="bold")
    _spread(figure, axes, reference, notes, corners)
    return figure


def sensitivity_figure(plan: PrecisionPlan, network: str) -> Figure:
    """Build the figure of `plot_sensitivity`; sensitivities of 0 are drawn at the bottom of the log scale."""
    label = " ".join(filter(None, (plan.recipe.scheme, plan.recipe.budget)))
    unit, divergence, _ = words(plan.tasks)
    worst = sorted((item for item in plan.layers if item.layer.name in plan.worst), key=lambda item: -item.sensitivity)
    names = ", ".join(f"{item.layer.name} ({item.layer.position})" for item in worst[:3])
    title = f"{label}: {len(worst)} of {len(plan.layers)} layers have half of the sensitivity" if worst else label
    figure = _figure(
        title,
        f"{network}; each mark is {divergence} when only this layer is rounded; large: the plan"
        + f"; edged in red: half of its sum, most of all {names}" * bool(worst),
    )
    axes = figure.subplots()
    _style(axes, "y")
    axes.set_yscale("log")
    bottom = min((d for item in plan.layers for d in item.layer.sensitivity.values() if d > 0), default=1.0)
    for bits, colour in _WIDTH_COLOURS.items():
        x = [item.layer.position for item in plan.layers]
        y = [max(item.layer.sensitivity[bits], bottom) for item in plan.layers]
        axes.scatter(x, y, s=30, color=colour, alpha=0.6)
        chosen = [i for i, item in enumerate(plan.layers) if item.bits == bits]
        edges = [COLOURS["adaptive"] if plan.layers[i] in worst else _INK for i in chosen]
        axes.scatter(
            [x[i] for i in chosen], [y[i] for i in chosen], s=180, c=colour, edgecolors=edges, linewidths=2.5,
            label=f"{bits} bits",
        )  # fmt: skip
    axes.margins(y=0.12)
    axes.set_ylabel(f"sensitivity of one layer, {unit}")
    axes.set_xlabel("layer, in order of execution")
    axes.legend(fontsize=_TEXT, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(_WIDTH_COLOURS), frameon=False)
    return figure


def predictors_figure(report: Body) -> Figure:
    """Build the figure of `plot_predictors`: the first predictor large, the others beside it."""
    kept, *others = report["predictors"]
    title = f"Divergence of {len(report['plans'])} random plans, predicted by {kept['name']}"
    figure = _figure(
        f"{title}: rank correlation {kept['spearman']:.3f}",
        f"{_network([report])}; KL divergence on {report['images']['held_out']} held-out images",
    )
    grid = figure.add_gridspec(max(len(others), 1), 3)
    places = [grid[:, :2], *(grid[row, 2] for row in range(len(others)))]
    for place, predictor in zip(places, (kept, *others), strict=True):
        axes = figure.add_subplot(place)
        _style(axes, "both")
        predicted = [plan["predicted"][predictor["name"]] for plan in report["plans"]]
        axes.loglog(predicted, [plan["divergence"] for plan in report["plans"]], "o", color=COLOURS["adaptive"])
        axes.minorticks_off()  # within a decade they would be labelled, one over the other
        if predictor is kept:
            axes.axline((1, 1), (2, 2), color=COLOURS["fp32"], linestyle="--", linewidth=2)
            axes.set_xlabel("sum of the layers' sensitivities, nats (dashed: as measured)")
            axes.set_ylabel("measured, nats")
        else:
            axes.set_title(f"{predictor['name']}: {predictor['spearman']:.3f}", fontsize=_TEXT, color=_INK)
    return figure


def _save(build: Callable[[], Figure], path: Path) -> None:
    try:
        figure = build()
    except KeyError as error:
        raise ArtifactError(f"{path}: a manifest or report lacks {error}; write it again with this edgeq") from error
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": "edgeq"})


def _ordered(items: Sequence[Body]) -> list[Body]:
    """Sort manifests or rows in the order of `COLOURS`, unknown schemes last."""
    if not items:
        raise ArtifactError("nothing to draw: expected at least one model, found none; export one first")
    order = list(COLOURS)
    return sorted(items, key=lambda item: order.index(item["scheme"]) if item["scheme"] in order else len(order))


def _labels(items: Sequence[Body]) -> list[str]:
    """Label each manifest or row by its scheme, or by the name of the model if the scheme is None or not unique."""
    times = Counter(item["scheme"] for item in items)
    names = [item["name"] if "name" in item else Path(item["file"]).stem for item in items]
    return [
        name if item["scheme"] is None or times[item["scheme"]] > 1 else item["scheme"]
        for item, name in zip(items, names, strict=True)
    ]


def _network(manifests: Sequence[Body]) -> str:
    """Describe the one network that all manifests are of."""
    found = {_described(manifest["network"]) for manifest in manifests}
    if len(found) != 1:
        raise ArtifactError(f"expected manifests of one network, found {' and '.join(sorted(found)) or 'none'}")
    return found.pop()


def _described(network: Body) -> str:
    model, weights = network["model"], network["weights"]
    parts = [short_name(model)]
    if network["classes"] is not None:
        parts.append(f"{network['classes']} classes")
    if weights not in (model, "own"):
        parts.append(f"{Path(weights).name} weights")
    return ", ".join(parts)


def _machine(report: Body) -> str:
    where = report["environment"]
    part_of = {"native": "edgeq"}.get(report["runtime"], report["runtime"])
    runtime = f"{report['runtime']} {where['versions'][part_of]}"
    threads = f"{report['threads']} thread" + "s" * (report["threads"] > 1)
    return f"{where['cpu']}, {where['logical_cores']} cores, {runtime}, {threads}, batch {report['batch']}"


def _bits_title(label: str, layers: Sequence[Body]) -> str:
    """Return a title with the average width and the share of weights in the widest layers."""
    widest = max(layer["bits"] for layer in layers)
    chosen = [layer for layer in layers if layer["bits"] == widest]
    if len(chosen) == len(layers):
        return f"{label}: all {len(layers)} layers at {widest} bits"
    weights = sum(layer["weights"] for layer in layers)
    mean = sum(layer["weights"] * layer["bits"] for layer in layers) / weights
    share = sum(layer["weights"] for layer in chosen) / weights
    return f"{label}: {mean:.2f} bits a weight, {share:.0%} of them in {len(chosen)} layers at {widest} bits"


def _accuracy_title(labels: Sequence[str], found: Sequence[Body], reference: float | None, main: Measure) -> str:
    """Return a title that names the smallest file within a point of fp32, or else the most accurate one.

    Points are those of percentages; of other scores, the closest file is the one with the value of fp32 or, for SQNR,
    the largest.
    """
    quantized = [i for i, m in enumerate(found) if m["scheme"] != "fp32"] or list(range(len(found)))
    if reference is None:
        best = max(quantized, key=lambda i: found[i]["value"])
        size, value = found[best]["bytes"] / 1e6, _valued(found[best]["value"], main)
        return f"{labels[best]} is closest to fp32: {size:.2f} MB, {value}"
    close = [i for i in quantized if main.unit and reference - found[i]["value"] <= 1.0]
    lost = [reference - m["value"] if main.unit else abs(reference - m["value"]) for m in found]
    nearest = min(quantized, key=lost.__getitem__)
    best = min(close, key=lambda i: found[i]["bytes"]) if close else nearest
    size, change = found[best]["bytes"] / 1e6, found[best]["value"] - reference
    claim = "the smallest within 1 point of fp32" if close else "closest to fp32"
    return f"{labels[best]} is {claim}: {size:.2f} MB, " + (f"{change:+.2f} points" if main.unit else f"{change:+.4g}")


def _valued(value: float, main: Measure) -> str:
    """Format a score."""
    return f"{value:.2f}{main.unit}" if main.unit else f"{value:.4g}"


def _span(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    return f"{low}x" if low == high else f"{low} to {high}x"


def _colour(scheme: str | None) -> str:
    return COLOURS.get(scheme or "", _OTHER_COLOUR)


def _figure(title: str, footnote: str) -> Figure:
    figure = Figure(figsize=_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15))
    figure.suptitle(textwrap.fill(title, 74), x=0.016, ha="left", fontsize=20, fontweight="bold", color=_INK)
    figure.supxlabel(textwrap.fill(footnote, 105), x=0.016, ha="left", fontsize=14, color=_FAINT)
    return figure


def _style(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_TEXT, colors=_INK)
    axes.xaxis.label.set_fontsize(_TEXT)
    axes.yaxis.label.set_fontsize(_TEXT)


def _size_axes(figure: Figure, megabytes: Sequence[float], reference: float | None, main: Measure) -> Axes:
    """Add axes of a score against size, wide enough for labels at these sizes, with a line for fp32 if it has one."""
    axes = figure.subplots()
    _style(axes, "both")
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(megabytes) / 1.7, max(megabytes) * 1.7)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.15)
    axes.set_xlabel("file size, MB (each step doubles it)")
    axes.set_ylabel(f"{main.label},{main.unit}" if main.unit else main.label)
    if reference is not None:
        axes.axhline(reference, color=COLOURS["fp32"], linestyle="--", linewidth=2)
        place = (axes.get_xlim()[0], reference)
        _note(axes, f"fp32 reference {_valued(reference, main)}", place, (6, 5), ha="left")
    return axes


def _bars(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    texts: Sequence[str],
    *,
    ends: Sequence[float] | None = None,
) -> None:
    """Draw horizontal bars, the first on top, each with a text after it and a thin line up to its end, if given."""
    _style(axes, "x")
    rows, ends = range(len(values)), ends or values
    axes.barh(rows, values, color=colours, height=0.62)
    axes.hlines(rows, values, ends, color=_INK, linewidth=2)
    axes.set_yticks(rows, [label.replace("-", "-\n", 1) for label in labels])  # file names are long
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(ends))
    for row, end, text in zip(rows, ends, texts, strict=True):
        _note(axes, text, (end, row), (8, 0), ha="left", va="center")


def _layer_bars(axes: Axes, layers: Sequence[Body], values: Sequence[float], colour: str) -> None:
    """Draw a bar for each layer; depthwise layers are hatched."""
    _style(axes, "y")
    for depthwise, hatch in ((False, ""), (True, "////")):
        chosen = [i for i, layer in enumerate(layers) if (layer["kind"] == "depthwise") == depthwise]
        axes.bar(
            [layers[i]["position"] for i in chosen],
            [values[i] for i in chosen],
            color="white" if depthwise else colour,
            edgecolor=colour,
            hatch=hatch,
            label="depthwise convolution" if depthwise else "convolution, linear",
        )


def _bits_line(axes: Axes, label: str, manifest: Body) -> None:
    """Draw the widths of a configuration as a line over all layers, with a label at its end."""
    layers = sorted(manifest["layers"], key=lambda layer: int(layer["position"]))
    positions, bits = [layer["position"] for layer in layers], [layer["bits"] for layer in layers]
    axes.step(positions, bits, where="mid", color=_colour(manifest["scheme"]), linewidth=3)
    _note(axes, label, (positions[-1] + 1, bits[-1]), (6, 0), ha="left", va="center")


def _note(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float] = (0, 0),
    *,
    ha: Literal["left", "center", "right"] = "center",
    va: Literal["bottom", "center", "top"] = "bottom",
) -> Annotation:
    """Write a text at `offset` typographic points from a data point."""
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # hides grid lines behind the text
    return axes.annotate(
        text,
        point,
        offset,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=_TEXT,
        color=_INK,
        annotation_clip=False,
        bbox=behind,
    )


def _spread(
    figure: Figure,
    axes: Axes,
    level: float | None,
    notes: Sequence[Annotation],
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Move each note to the first side of its point where it overlaps no point, text or edge, nor the line at `level`.

    `others` are points without a note.
    """
    figure.draw_without_rendering()  # fixes the layout, which the positions below depend on
    points = [axes.transData.transform(point) for point in (*(note.xy for note in notes), *others)]
    taken = [Bbox.from_bounds(x - 14, y - 14, 28, 28) for x, y in points]
    if level is not None:
        y_level = axes.transData.transform((1.0, level))[1]
        taken.append(Bbox.from_extents(axes.bbox.x0, y_level - 3, axes.bbox.x1, y_level + 3))
    taken += [text.get_window_extent() for text in axes.texts if text not in notes]
    for note in notes:
        for x, y, ha, va in _SIDES:
            note.set(position=(x, y), ha=ha, va=va)
            box = note.get_window_extent()
            inside = (
                axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 <= box.y1 <= axes.bbox.y1
            )
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
