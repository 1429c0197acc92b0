"""Text of artifacts: tables that fit a terminal of 100 columns, and the lines below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.table import Table

from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.model_names import short_name
from edgeq.artifacts.record import CalibrationRecord
from edgeq.data.preprocess import Preprocess
from edgeq.planning.cost import bitops, layer_bytes
from edgeq.planning.plan import POSITION_RULE, PrecisionPlan
from edgeq.tasks.metrics import Measure, measure
from edgeq.tasks.words import words

Body = Mapping[str, Any]

_DASH: Final = "-"
_MEASURED: Final = ("8", "4", "2", "1")  # widths whose sensitivities are not from those beside them
_NAMES: Final = {
    "record": "a calibration record",
    "manifest": "the manifest of an exported model",
    "model": "an exported model",
    "onnx": "an ONNX file without a manifest",
    "packed": "a packed PyTorch network",
}


def plan_table(plan: PrecisionPlan) -> Table:
    """Return the bits of every layer with their cost, the sensitivity at this and other widths, and the reason."""
    widths, unit = (8, 4, 2), words(plan.tasks).unit
    table = _table(
        "#", "layer", ">bits", ">bytes", ">M BitOps", f">{unit}", *(f">at {bits}" for bits in widths), "reason",
        footer=True,
    )  # fmt: skip
    worst = plan.worst
    for item in plan.layers:
        layer, mark = item.layer, "*" if item.layer.name in worst else ""
        table.add_row(
            str(layer.position), layer.name, str(item.bits), f"{layer_bytes(layer, item.bits):,}",
            _millions(bitops(layer.macs, item.bits, plan.act_bits)), f"{mark}{item.sensitivity:.1e}",
            *(f"{layer.sensitivity[bits]:.0e}" for bits in widths), item.reason,
        )  # fmt: skip
    sums = {"bytes": f"{plan.bytes:,}", "M BitOps": _millions(plan.bitops), unit: f"{plan.sensitivity:.1e}"}
    _total(table, {"layer": "total", **sums})
    return table


def plan_text(plan: PrecisionPlan) -> str:
    """Return a legend for the table of a plan, and the plan in one line."""
    unit, divergence, points = words(plan.tasks)
    lines = [f"{unit}: sensitivity, {divergence} when only this layer is rounded; *: half of the sum"]
    if plan.policy == "position":
        lines.append(f"position: {POSITION_RULE}")
    lines.append(
        f"{plan.recipe.scheme}: a file of {_megabytes(plan.file_bytes)} MB, {giga(plan.bitops)} BitOps, "
        f"estimated drop {plan.drop:.1f} {points}"
    )
    return "\n".join(lines)


def evaluation_table(body: Body) -> Table:
    """Return the scores of every model, below them those of each output if there are several.

    The first row is the reference, the float network.
    """
    reference = body["reference"]
    columns, several = _score_columns(body), len(reference["outputs"]) > 1
    table = _table("model", "scheme", ">MB", *(f">{header}" for header in columns))
    for row in ({**reference, "scheme": "float"}, *body["models"]):
        size = _megabytes(row["bytes"]) if "bytes" in row else _DASH
        table.add_row(row["name"], row["scheme"] or _DASH, size, *(show(row) for show in columns.values()))
        for name, found in row["outputs"].items() if several and "bytes" in row else ():
            alike = {"SQNR dB": _or_dash(found["sqnr_db"], 1), "cosine": _or_dash(found["cosine"], 4)}
            table.add_row(f"  {name}", "", "", *(alike.get(header, "") for header in columns))
    return table


def evaluation_text(body: Body) -> str:
    """Return what models were evaluated on, and a line for each output that could not be compared."""
    lines = [f"{body['images']} images of {body['data']}"]
    lines += [
        f"{row['name']}: output {name} not compared, another shape than the reference's in {found['other_shape']} runs"
        for row in body["models"]
        for name, found in row["outputs"].items()
        if found["other_shape"]
    ]
    return "\n".join(lines)


def _score_columns(body: Body) -> dict[str, Callable[[Body], str]]:
    """Return the columns of a report's scores by header: the text of a model's row."""
    main, reference = measure(body["metric"]), body["reference"]
    columns: dict[str, Callable[[Body], str]] = {}
    if main.key != "sqnr_db":
        digits = 2 if main.unit else 4
        columns[f"{main.label}{main.unit}"] = lambda row: _or_dash(main.of(row), digits)
        columns["drop"] = lambda row: _or_dash(_drop(main.of(reference), main.of(row)), digits)
    others = ["top5"] if main.key == "top1" else [key for key in reference["metrics"] if key != main.key]
    for other in map(measure, others):
        columns[f"{other.label}{other.unit}"] = partial(_percentage, other)
    if reference["agreement"] is not None:
        columns["agree %"] = lambda row: f"{row['agreement']:.2f}"
    columns["SQNR dB"] = lambda row: _or_dash(row["sqnr_db"], 1)
    if main.key != "top1" or len(reference["outputs"]) > 1:
        columns["cosine"] = lambda row: _or_dash(
            min((one["cosine"] for one in row["outputs"].values() if one["cosine"] is not None), default=None), 4
        )
    return columns


def _percentage(score: Measure, row: Body) -> str:
    return _or_dash(score.of(row), 2)


def _drop(reference: float | None, value: float | None) -> float | None:
    return None if reference is None or value is None else reference - value


def bench_table(body: Body) -> Table:
    """Return latency and memory of every model."""
    table = _table(
        "model", "scheme", ">MB", ">G BitOps", ">median ms", ">p90", ">min", ">vs fp32", ">load ms", ">peak MB"
    )
    for row in body["rows"]:
        table.add_row(
            row["name"], row["scheme"] or _DASH, _megabytes(row["bytes"]),
            _DASH if row["bitops"] is None else f"{row['bitops'] / 1e9:.2f}",
            f"{row['median_ms']:.2f}", f"{row['p90_ms']:.2f}", f"{row['min_ms']:.2f}",
            _DASH if row["speedup"] is None else f"{row['speedup']:.2f}x",
            f"{row['memory']['load_ms']:.0f}", _megabytes(row["memory"]["peak_rss_bytes"]),
        )  # fmt: skip
    return table


def sweep_table(body: Body) -> Table:
    """Return size and accuracy of every file of a sweep; files of other tools have no plan."""
    main = measure(body["metric"])
    scored, classified = main.key != "sqnr_db", main.key == "top1"
    headers = [f">{main.label}{main.unit}", ">drop"] * scored
    table = _table(
        "file", ">MB", ">G BitOps", *headers, ">est.", *[">top-5 %", ">agree %"] * classified, ">dB", ">s"
    )  # fmt: skip
    for row in body["rows"]:
        digits = 2 if main.unit else 4
        own = [_or_dash(main.of(row), digits), _or_dash(row["drop"], digits)] * scored
        more = [_or_dash(row["top5"], 2), _or_dash(row["agreement"], 2)] * classified
        table.add_row(
            row["name"], _megabytes(row["bytes"]), _or_dash(row["bitops"], 2, 1e9), *own,
            _or_dash(row["estimated_drop"], 1), *more, _or_dash(row["sqnr_db"], 1), _or_dash(row["seconds"], 0),
        )  # fmt: skip
    return table


def content_table(kind: str, body: Body) -> Table:
    """Return the content of a file, as `edgeq.commands.inspect.inspect` describes it."""
    return {"record": _record_table, "onnx": _tensor_table}.get(kind, _layer_table)(body)


def record_text(record: CalibrationRecord) -> str:
    """Return a line about a record."""
    images = record.data.get("samples") or len(record.data.get("files", ()))
    macs = sum(layer.macs for layer in record.layers)
    network = short_name(record.network.get("model", "a network of the API"))
    return (
        f"{network}, {len(record.layers)} layers, {macs / 1e6:.1f} M MACs, {images} images, observer {record.observer}"
    )


def export_text(path: Path, manifest: Manifest) -> str:
    """Return a few lines about an exported file: its cost, its parity with PyTorch, and what is not quantized."""
    floats = sum(4 * (layer["weights"] + layer["shape"][0]) for layer in manifest["layers"])
    size, parity = manifest["bytes"], manifest["parity"]
    names = _named("computed in float, the manifest says why", manifest["in_float"])
    names += _named("integer kernels slower than float ones, the manifest says why", manifest["slow_kernels"])
    return (
        f"{path}: {_megabytes(size)} MB (float weights: {_megabytes(floats)} MB, {floats / size:.1f}x), "
        f"{giga(manifest['bitops'])} BitOps\n"
        f"parity with PyTorch, node by node: at least {parity['nodes_within_one_step']:.2%} of values within 1 step\n"
        f"{_parity_text(parity)}{names}"
    )


def c_text(folder: Path, about: Body) -> str:
    """Return a few lines about a folder of C."""
    equal: dict[str, float] = about["equal"] or {}
    shares = ", ".join(f"{share:.2%} of the {name}" for name, share in equal.items())
    known = f"the same bits as in ONNX Runtime: {shares}" if equal else "make check compares it with ONNX Runtime"
    known += "; the rest differs by rounding" * (min(equal.values(), default=1) < 1)
    sizes = f"{about['weights'] / 1000:,.0f} kB of weights, {about['arena'] / 1000:,.0f} kB of memory while it runs"
    return f"{folder}: {about['name']}_run in C99, {sizes}\n{known}"


def web_text(page: Path) -> str:
    """Return a few lines about a page for browsers: a file or a folder."""
    if page.is_file():
        return f"{page}: {page.stat().st_size / 1e6:.2f} MB in one file; open it in a browser"
    size = sum(path.stat().st_size for path in page.iterdir())
    return f"{page}: {size / 1e6:.2f} MB; serve it with python -m http.server --directory {page}"


def page_table(page: Body) -> Table:
    """Return the networks of a page for browsers."""
    table = _table("network", ">kB", ">kB of arena", ">classes", "engine", "the same bits as in ONNX Runtime")
    for name, about in page["about"].items():
        equal, arena = about["equal"] or {}, about["arena"]
        table.add_row(
            name, f"{about['bytes'] / 1000:,.0f}", _DASH if arena is None else f"{arena / 1000:,.0f}",
            str(about["classes"] or _DASH), about["engine"],
            ", ".join(f"{share:.2%} of the {output}" for output, share in equal.items()) or _DASH,
        )  # fmt: skip
    return table


def _named(what: str, reasons: Mapping[str, str]) -> str:
    """A line of the nodes that something is said of; none if there are none."""
    names = list(reasons)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"\n{what}: {', '.join(names[:3])}{more}" if names else ""


def _parity_text(parity: Body) -> str:
    """Return a line about every output."""
    return "\n".join(
        f"parity of the {name} on {parity['images']} images: {found['within_one_step']:.1%} within 1 step, "
        + (
            f"{found['optimized_within_eight_steps']:.1%} within 8 steps optimized"
            if found["top1"] is None
            else f"top-1 equal on {found['top1']:.1%} ({found['optimized_top1']:.1%} optimized)"
        )
        for name, found in parity["outputs"].items()
    )


def sweep_text(body: Body) -> str:
    """Return a legend for the table of a sweep, and what it was measured on."""
    main = measure(body["metric"])
    value = main.of(body["reference"])
    outputs = "logits" if main.key == "top1" else "worst output"
    drop = f"drop: from the float network's {main.label}, " if main.key != "sqnr_db" else ""
    known = "" if value is None else f", float network {value:.{2 if main.unit else 4}f}{main.unit}"
    engine = ", in the native engine" if body.get("runtime") == "native" else ""  # reports of older versions have none
    return (
        f"{drop}est.: as planned; dB: SQNR of the {outputs}; s: of the export\n"
        f"{body['images']} images of {body['data']}{known}{engine}, effort {body['effort']}, seed {body['seed']}"
    )


def bench_text(body: Body) -> str:
    """Return the settings and the CPU of a measurement in one line."""
    settings = f"{body['runs']} runs, {body['runtime']}, threads {body['threads']}, batch {body['batch']}"
    return f"{settings}, {body['environment']['cpu']}"


def content_text(kind: str, body: Body) -> str:
    """Return the kind of a file and its main facts in one line."""
    facts = [_NAMES[kind]]
    if "bytes" in body:
        facts.append(f"{body['bytes']:,} bytes")
    if "bitops" in body:
        facts.append(f"{giga(body['bitops'])} BitOps")
    if "activations" in body:
        facts.append(f"scales of {len(body['activations'])} activations")
    return ", ".join(facts)


def images_text(body: Body) -> str | None:
    """Return the preprocessing of the images of a record or a file in one line; None if it is unknown.

    Raises:
        ArtifactError: a damaged preprocessing.
    """
    if not body.get("preprocess"):
        return None
    preprocess = Preprocess.from_dict(body["preprocess"])
    pixels = " (uint8, rows x columns x channels)" if body.get("input") == "uint8" else ""
    return f"images: {preprocess}{pixels}"


def giga(count: float) -> str:
    """Format a count in units of 10^9."""
    return f"{count / 1e9:.2f} G"


def _record_table(body: Body) -> Table:
    first, *others = _MEASURED
    unit = words(output["task"] for output in body["outputs"]).unit
    headers = [f">{unit} at {first}", *(f">{bits}" for bits in others)]
    table = _table("#", "layer", "kind", "shape", ">M MACs", *headers, ">8-bit scales")
    for layer in body["layers"]:
        table.add_row(
            str(layer["position"]), layer["name"], layer["kind"], _shape(layer["shape"]), _millions(layer["macs"]),
            *(f"{layer['damage'][bits]:.0e}" for bits in (first, *others)), _span(layer["scales"]["8"]),
        )  # fmt: skip
    return table


def _layer_table(body: Body) -> Table:
    """Return the layers of a manifest, an ONNX file with one, or a packed network."""
    table = _table("#", "layer", "kind", "shape", ">bits", ">bytes", ">M BitOps", ">scales", footer=True)
    for layer in body["layers"]:
        table.add_row(
            str(layer["position"]), layer["name"], layer["kind"], _shape(layer["shape"]), str(layer["bits"]),
            f"{layer['bytes']:,}", _millions(layer["bitops"]), _span(layer.get("scales")),
        )  # fmt: skip
    layer_bytes = sum(layer["bytes"] for layer in body["layers"])
    _total(table, {"layer": "total", "bytes": f"{layer_bytes:,}", "M BitOps": _millions(body["bitops"])})
    return table


def _tensor_table(body: Body) -> Table:
    table = _table("tensor", "type", "shape", ">bytes", footer=True)
    for tensor in body["tensors"]:
        table.add_row(tensor["name"], tensor["dtype"], _shape(tensor["shape"]), f"{tensor['bytes']:,}")
    _total(table, {"tensor": "total", "bytes": f"{sum(tensor['bytes'] for tensor in body['tensors']):,}"})
    return table


def _table(*headers: str, footer: bool = False) -> Table:
    """Return an empty table; `>` before a header marks a column of numbers, right-aligned and never wrapped."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_footer=footer)
    for header in headers:
        number = header.startswith(">")
        table.add_column(
            header.removeprefix(">"), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table


def _total(table: Table, texts: Mapping[str, str]) -> None:
    for column in table.columns:
        column.footer = texts.get(str(column.header), "")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def _span(scales: Sequence[float] | None) -> str:
    return f"{min(scales):.0e}..{max(scales):.0e}" if scales else _DASH


def _millions(count: float) -> str:
    return f"{count / 1e6:,.1f}"


def _or_dash(value: float | None, digits: int, unit: float = 1.0) -> str:
    return _DASH if value is None else f"{value / unit:.{digits}f}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"
