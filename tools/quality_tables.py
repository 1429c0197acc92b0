"""Tables of what quantization does to the answers: accuracy, parity, ranges, sensitivity, trellis codes, other CPUs."""

from __future__ import annotations

import statistics
from typing import Any, Final

from stored import SCHEMES, STATIC, prose, stored, table

from edgeq.numerics.weights import WIDTHS
from edgeq.planning.plan import POSITION_RULE

EFFORTS: Final = ("fast", "balanced", "best")


def budgets() -> str:
    return accuracy("mobilenet_v2")


def squeezenet() -> str:
    return accuracy("squeezenet1_1")


def embedded() -> str:
    return accuracy("embedded")


def accuracy(model: str) -> str:
    """One row for each size and effort; of several seeds the means, the largest deviation and the median time."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in stored(f"{model}/accuracy")["rows"]:
        found.setdefault((row["row"], row["effort"]), []).append(row)
    rows = []
    order = sorted(found, key=lambda key: (EFFORTS.index(key[1]), -found[key][0]["bytes"]))
    for name, effort in order:
        seeds = found[name, effort]
        drop, top1, agreement = (statistics.mean(row[key] for row in seeds) for key in ("drop", "top1", "agreement"))
        furthest = max(abs(row["drop"] - drop) for row in seeds)
        spread = f" ± {furthest:.2f} ({len(seeds)} seeds)" if len(seeds) > 1 else ""
        first = seeds[0]
        minutes = statistics.median(row.get("cpu_seconds", row["seconds"]) for row in seeds) / 60
        rows.append([
            f"{name}, {effort}" if first["budget"] is None else f"adaptive, {name}, {effort}",
            f"{first['bytes'] / 1e6:.3f} MB", f"{first['bitops'] / 1e9:.2f} G", f"{top1:.2f} %",
            f"{drop:.2f}{spread}", f"{agreement:.1f} %", f"{minutes:.0f} min",
            f"{max(row['peak_rss_mb'] for row in seeds) / 1e3:.1f} GB",
        ])  # fmt: skip
    return table(["", "file", "BitOps", "top-1", "drop", "same as float", "export, one core", "peak memory"], rows)


def efforts() -> str:
    """What more effort makes of some sizes."""
    rows = [row for row in stored("mobilenet_v2/accuracy")["rows"] if row["effort"] == "balanced"]
    minutes = statistics.median(row["cpu_seconds"] for row in rows) / 60
    four, two, mixed, small = (
        f"{statistics.mean(row['drop'] for row in rows if row['row'] == name):.2f}"
        for name in ("4bit", "2bit", "1.1MB", "0.9MB")
    )
    return prose(
        f"With `--effort balanced`, {minutes:.0f} minutes of one core, 4bit loses {four} points and 2bit {two}; an "
        f"adaptive file of 1.1 MB loses {mixed}, and one of 0.9 MB, which is smaller than 2bit, {small}."
    )


def altered() -> str:
    """Today's files on images as they are and altered: what they lose against the float network on the same images."""
    found = stored("mobilenet_v2/altered_images")["images"]
    names = [name for name in found["as they are"] if name != "float"]
    rows = [["float, top-1", "", "", *(f"{one['float']:.2f} %" for one in found.values())]]
    for name in names:
        clean = found["as they are"][name]
        size = f"{clean['bytes'] / 1e6:.3f} MB"
        lost = [f"{one['float'] - one[name]['top1']:.2f}" for one in found.values()]
        rows.append([f"{', '.join(name.split('-')[:2])}", size, f"{clean['agreement']:.1f} %", *lost])
    return table(["", "file", "same as float", *found], rows)


def parity() -> str:
    rows = [
        [
            name.rpartition("-")[0].replace("-", ", "), f"{found['nodes_within_one_step']:.3%}",
            f"{found['within_one_step']:.2%}", f"{found['within_eight_steps']:.2%}", f"{found['top1']:.2%}",
            f"{found['optimized_top1']:.2%}",
        ]
        for name, found in stored("mobilenet_v2/accuracy")["parity"].items()
    ]  # fmt: skip
    head = ["", "worst node, within 1 step", "logits within 1 step", "8 steps", "same top-1", "same top-1, optimized"]
    return table(head, rows)


def random_networks() -> str:
    """Random networks: the worst file of each scheme."""
    rows = []
    found = stored("random_networks")["rows"]
    for scheme in SCHEMES:
        drawn = [row for row in found if row["scheme"] == scheme]
        made = [row for row in drawn if "refused" not in row]
        ends = [
            min(row[key] for row in made if row[key] is not None)
            for key in ("within_eight_steps", "optimized_within_eight_steps", "openvino_within_eight_steps")
        ]
        rows.append([
            scheme, str(len(drawn)), str(len(drawn) - len(made)),
            f"{min(row['nodes_within_one_step'] for row in made):.2%}",
            f"{max(row['worst_channel'] for row in made):.2f}", *(f"{end:.1%}" for end in ends),
        ])  # fmt: skip
    head = [
        "worst of all files", "networks", "refused", "node, within 1 step", "channel, steps (RMS)",
        "outputs within 8 steps", "optimized", "OpenVINO",
    ]  # fmt: skip
    return table(head, rows)


def detector() -> str:
    """A detector whose boxes and scores are one output: how close each comes to float, and what it finds."""
    rows = []
    for name, found in stored("detector")["rows"].items():
        exact = "boxes_db" not in found
        ratios = ["" if exact else f"{found[key]:.1f} dB" for key in ("boxes_db", "scores_db")]
        speed = f"{found['median_ms']:.2f} ms"
        rows.append([name, f"{found['bytes'] / 1e6:.2f} MB", f"{found['average_precision']:.1f}", *ratios, speed])
    return table(["", "file", "average precision", "boxes", "scores", "latency"], rows)


def cpus() -> str:
    """On how many images a file has the float network's top-1, by CPU."""
    stored_rows = stored("other_cpus")["rows"]
    found = {(row["cpu"], row["file"]): f"{row['same_as_float']:.1f} %" for row in stored_rows}
    names, files = (list(dict.fromkeys(row[key] for row in stored_rows)) for key in ("cpu", "file"))
    rows = [[short(file), *(found[name, file] for name in names)] for file in files]
    return table(["", *(name.replace("-", " ") for name in names)], rows)


def short(stem: str) -> str:
    """What tables call a file."""
    return STATIC if stem == "static" else stem.removeprefix("mobilenet_v2-")


def preflight() -> str:
    """What the look at calibration images says, by what it was fed and by network."""
    rows = stored("preflight")["rows"]
    names = list(dict.fromkeys(row["network"] for row in rows))
    found = {(row["fed"], row["network"]): row for row in rows}
    made = []
    for fed in dict.fromkeys(row["fed"] for row in rows):
        cells = [_warned(found[fed, name]) if (fed, name) in found else "" for name in names]
        made.append([fed, *cells])
    return table(["given", *names], made)


def _warned(row: dict[str, Any]) -> str:
    kinds = ", ".join(row["warned"]) or "nothing"
    return f"{kinds}, {row['runs']} times" if row["runs"] > 1 else kinds


def observers() -> str:
    notes = {"damage": " (the default)", "percentile": ", 99.99"}
    rows = [
        [
            row["observer"] + notes.get(row["observer"], ""), f"{row['divergence']:.4f}", f"{row['agreement']:.1f} %",
            f"{row['sqnr_db']:.1f} dB",
        ]
        for row in stored("mobilenet_v2/observers")["rows"]
    ]  # fmt: skip
    return table(["`--observer`", "KL divergence, nats", "same top-1 as float", "SQNR of the logits"], rows)


def sensitivity() -> str:
    """How well each measure of a layer's sensitivity foretells the divergence of mixed plans."""
    body = stored("mobilenet_v2/sensitivity")
    rows = [
        [row["name"], f"{row['spearman']:.3f}", f"{row['log_pearson']:.3f}", f"{row['seconds']:.0f} s"]
        for row in body["predictors"]
    ]
    return table([f"{len(body['plans'])} mixed plans", "rank correlation", "of the logarithms", "time"], rows)


def trellises() -> str:
    names = {width.per_byte: width.bits for width in WIDTHS}
    rows = [
        [
            f"{names[row['weights_a_byte']]}", f"{row['weights_a_byte']}", f"{row['bits']:.2f} bits",
            f"{row['db']:.1f} dB", f"{row['uniform_db']:.1f} dB",
        ]
        for row in stored("trellises")["trellises"]
    ]  # fmt: skip
    head = ["bits", "weights in a byte, `K`", "stored", "SQNR of Gaussian weights", "of the best uniform grid"]
    return table(head, rows)


def rule() -> str:
    """The rule of `--policy position`."""
    return f"> {POSITION_RULE}."
