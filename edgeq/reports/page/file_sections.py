"""The sections about whole files: their tables, and their charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from edgeq.artifacts.manifest import Manifest
from edgeq.planning.cost import FLOAT_BITS
from edgeq.reports.page import file_charts
from edgeq.reports.page.chart import Spec
from edgeq.reports.page.figure import Figure
from edgeq.reports.page.files import File, Scores
from edgeq.reports.page.folder import Body, Folder
from edgeq.reports.page.table import NOTHING, Cell, Column, Table, number, quantity, signed, table


def files_table(files: Sequence[File]) -> Table:
    """Every export and what was measured of it."""
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


def scores_table(scores: Scores) -> Table:
    """The scores of files on the same images, below the float network's."""
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


def bench_table(name: str, body: Body) -> Table:
    """Latency and memory in a bench, by the name of its file."""
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


def accuracy_figures(scores: Sequence[Scores], specs: dict[str, Spec]) -> list[Figure]:
    """Size against score, one chart for each set of images; their specifications are added to `specs`."""
    found = []
    for i, one in enumerate(scores):
        if any(one.value(row) is not None for row in one.rows):
            specs[f"accuracy{i}"] = file_charts.accuracy(one)
            text = f"{one.images} images of {one.data}. The line joins the files that no other one beats in both."
            found.append(Figure(f"accuracy{i}", f"Size against {one.measure.label}", text))
    return found


def cost_figures(files: Sequence[File], specs: dict[str, Spec]) -> list[Figure]:
    """One chart of bars for each number that files differ in; their specifications are added to `specs`."""
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
                {
                    "name": file.name,
                    "kind": file_charts.kind_of(file.manifest),
                    "value": value,
                    "text": quantity(value, 1),
                }
                for file, value in values
            ]
            specs[name] = file_charts.bars(rows, axis)
            found.append(Figure(name, title, ""))
    return found


def latency_figures(folder: Folder, specs: dict[str, Spec]) -> list[Figure]:
    """All runs of each bench; the specifications of the charts are added to `specs`."""
    found = []
    for i, (name, body) in enumerate(folder.benches.items()):
        specs[f"bench{i}"] = file_charts.latency(body)
        text = f"{body['runtime']}, threads {body['threads']}, batch {body['batch']}, {body['environment']['cpu']}. "
        text += "Runs far beyond the slowest 90th percentile are outside the chart."
        found.append(Figure(f"bench{i}", f"Every run of {name}", text))
    return found
