"""Write the tables of the README from the stored results.

python tools/benchmark_tables.py            # rewrites README.md
python tools/benchmark_tables.py --check    # exit code 1 if it would change
"""

from __future__ import annotations

import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any, Final

import click

from edgeq.planning.plan import POSITION_RULE

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
EFFORTS: Final = ("fast", "balanced", "best")
SCHEMES: Final = ("8bit", "4bit", "2bit", "adaptive")
STATIC: Final = "quantize_static"


class Results:
    """The stored results of one network."""

    def __init__(self, model: str) -> None:
        self.model, self.folder = model, RESULTS / model
        self.peers = self.json("peers")
        self.environment = self.peers["environment"]

    def json(self, name: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return body


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def setting(results: Results) -> str:
    environment = results.environment
    versions = environment["versions"] | results.peers["versions"]
    tools = ("onnxruntime", "openvino", "torch", "nncf", "ai-edge-litert")
    flags = [flag for flag in environment["cpu_flags"] if flag != "avx512f"]
    return (
        f"{environment['cpu']} with {', '.join(flags)}; "
        f"{', '.join(f'{tool} {versions[tool]}' for tool in tools if versions.get(tool))}."
    )


def peers(results: Results) -> str:
    """Every tool and runtime, fastest first."""
    rows = results.peers["rows"]
    base = {(found["threads"], found["batch"]): found["median_ms"] for found in rows["float"]["latency"]}
    lines = []
    for name, row in sorted(rows.items(), key=lambda item: item[1]["latency"][0]["median_ms"]):
        times = {(found["threads"], found["batch"]): found["median_ms"] for found in row["latency"]}
        memory = row["memory"]
        lines.append([
            name, f"{row['bytes'] / 1e6:.2f} MB", f"{times[1, 1]:.2f}", f"{row['latency'][0]['p90_ms']:.2f}",
            *(f"{base[at] / times[at]:.2f} x" if at in times else "" for at in ((1, 1), (2, 1), (1, 8), (2, 8))),
            f"{memory['load_ms']:.0f}", f"{memory['peak_rss_bytes'] / 1e6:.0f}",
            f"{row['top1']:.2f} %" if "top1" in row else "",
        ])  # fmt: skip
    head = "|file|ms|p90|over float|2 threads|batch 8|2 threads, batch 8|load, ms|peak MB|top-1"
    return table(head.split("|"), lines)


def ratios(results: Results) -> str:
    """How long edgeq's files take beside those of other tools, one thread, one image: the range over its schemes."""
    first = {name: row["latency"][0]["median_ms"] for name, row in results.peers["rows"].items()}

    def beside(peer: str, ending: str) -> str:
        found = [first[f"edgeq {scheme}{ending}"] / first[peer] for scheme in SCHEMES]
        return " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(found), max(found))))

    return (
        f"edgeq's files take {beside('quantize_static', '')} of the time of quantize_static's, "
        f"{beside('quantize_static', ', uint8 in')} where they take pixels,\nwhich is "
        f"{beside('LiteRT', ', uint8 in')} of LiteRT's; in OpenVINO "
        f"{beside('NNCF, OpenVINO', ', OpenVINO')} of NNCF's own."
    )


def pixels(results: Results) -> str:
    """From an image in bytes to its class, by scheme: with NumPy before the file, and with a file that takes pixels."""
    found = {name: statistics.median(times) for name, times in results.peers["raw_to_class_ms"].items()}
    rows = []
    for scheme in SCHEMES:
        before, after = found[f"edgeq {scheme}"], found[f"edgeq {scheme}, uint8 in"]
        rows.append([scheme, f"{before:.2f} ms", f"{after:.2f} ms", f"{after / before:.2f} x"])
    return table(["raw image to class", "NumPy, float input", "`--input uint8`", ""], rows)


def parity(results: Results) -> str:
    rows = [
        [
            name.rpartition("-")[0].replace("-", ", "), f"{found['nodes_within_one_step']:.3%}",
            f"{found['within_one_step']:.2%}", f"{found['within_eight_steps']:.2%}", f"{found['top1']:.2%}",
            f"{found['optimized_top1']:.2%}",
        ]
        for name, found in results.json("accuracy")["parity"].items()
    ]  # fmt: skip
    head = ["", "worst node, within 1 step", "logits within 1 step", "8 steps", "same top-1", "same top-1, optimized"]
    return table(head, rows)


def costs(results: Results) -> str:
    """What making each file took, with a file that several rows share only once."""
    found = {"edgeq calibrate": results.peers["calibrate"]}
    for name, row in results.peers["rows"].items():
        if name.startswith("edgeq") and ", " not in name:
            found[f"edgeq export, {name.removeprefix('edgeq ')}, fast"] = row["cost"]
        elif row["maker"] == name:
            found[name] = row["cost"]
    rows = [[name, f"{cost['seconds']:.0f} s", f"{cost['peak_rss_mb'] / 1e3:.1f} GB"] for name, cost in found.items()]
    (eager,) = (
        found["median_ms"]
        for found in results.peers["rows"]["float, PyTorch eager"]["latency"]
        if (found["threads"], found["batch"]) == (2, 8)
    )
    rows.append(
        ["1000 images through the float network, PyTorch eager, batch 8", f"{eager * 1000 / 8 / 1e3:.0f} s", ""]
    )
    return table(["whole processes, 2 threads", "time", "peak memory"], rows)


def short(stem: str) -> str:
    """What tables call a file."""
    return "quantize_static" if stem == "static" else stem.removeprefix("mobilenet_v2-")


def kernels(_: Results) -> str:
    stored = json.loads((RESULTS / "kernels.json").read_text())["microseconds"]
    found = {short(name): row for name, row in stored.items()}
    kinds = sorted(
        {kind for row in found.values() for kind in row},
        key=lambda kind: (-max(row.get(kind, 0) for row in found.values()), kind),
    )
    rows = [[kind, *(f"{row[kind]:.0f}" if kind in row else "" for row in found.values())] for kind in kinds]
    totals = ["together", *(f"{sum(row.values()):.0f}" for row in found.values())]
    return table(["microseconds", *found], [*rows, totals])


def options(_: Results) -> str:
    body = json.loads((RESULTS / "session_options.json").read_text())
    shown = ("as it is", "neither", "MALLOC_MMAP_THRESHOLD_=65536")
    settings = {"neither": "neither memory arena nor pattern"}
    rows = [
        [
            f"{short(row['file'])}, {settings.get(row['setting'], row['setting'])}", f"{row['load_ms']:.0f} ms",
            f"{row['peak_rss_bytes'] / 1e6:.1f} MB",
            f"{row['uss_bytes'] / 1e6:.1f} MB", f"{row['time_over_as_it_is']:.2f} x" if "samples_ms" in row else "",
        ]
        for row in body["rows"]
        if row["setting"] in shown
    ]  # fmt: skip
    return table(["", "load", "peak memory", "kept", "time of a run"], rows)


def zoo(_: Results) -> str:
    """Other networks: what runs on integers, how fast, how close to PyTorch at worst."""
    rows = []
    for name, found in json.loads((RESULTS / "zoo.json").read_text())["networks"].items():
        schemes = [found[scheme] for scheme in SCHEMES]
        worst = [
            min(row["parity"][key] for row in schemes)
            for key in ("nodes_within_one_step", "optimized_within_eight_steps")
        ]
        kernels = {scheme: found[scheme].get("kernels") for scheme in ("8bit", "quantize_static")}
        ran = [f"{made['integer']} of {made['integer'] + made['float']}" if made else "" for made in kernels.values()]
        faster = [
            f"{found['fp32'][run]['median_ms'] / found[scheme][run]['median_ms']:.2f} x" if run in found[scheme] else ""
            for run, scheme in product(("onnxruntime", "openvino"), ("8bit", STATIC))
        ]
        sizes = [f"{found[scheme]['bytes'] / 1e6:.1f}" for scheme in ("fp32", "8bit", "4bit", "2bit")]
        rows.append([
            name, *ran, str(len(found["8bit"]["in_float"])), *faster, " / ".join(sizes), f"{worst[0]:.2%}",
            f"{worst[1]:.1%}",
        ])  # fmt: skip
    head = [
        "", "integer kernels", "of quantize_static", "other ops in float", "8bit, over float",
        "quantize_static", "8bit, in OpenVINO", "quantize_static", "MB at 32 / 8 / 4 / 2 bits",
        "worst node within 1 step", "outputs within 8",
    ]  # fmt: skip
    return table(head, rows)


def cpus(_: Results) -> str:
    """On how many images a file has the float network's top-1, by CPU."""
    body = json.loads((RESULTS / "other_cpus.json").read_text())
    found = {(row["cpu"], row["file"]): f"{row['same_as_float']:.1f} %" for row in body["rows"]}
    names, files = (list(dict.fromkeys(row[key] for row in body["rows"])) for key in ("cpu", "file"))
    rows = [[short(file), *(found[name, file] for name in names)] for file in files]
    return table(["", *(name.replace("-", " ") for name in names)], rows)


def fuzz(_: Results) -> str:
    """What became of broken files, by reader."""
    rows = [
        [
            row["reader"], f"{row['inputs']:,}", f"{row['accepted']:,}", f"{row['refused']:,}",
            f"{sum(row['failures'].values()):,}",
        ]
        for row in json.loads((RESULTS / "fuzz.json").read_text())["rows"]
    ]  # fmt: skip
    return table(["reader", "inputs", "still make sense", "refused in a line", "anything else"], rows)


def faults(_: Results) -> str:
    """What became of commands that were killed or found the disk full."""
    rows = []
    for name, found in json.loads((RESULTS / "faults.json").read_text())["commands"].items():
        kinds = [found[key] for key in ("killed_at_moments", "killed_at_operations", "full_at_operations")]
        landed = [kind["faults"] - kind["finished"] for kind in kinds]
        mended = [count - len(kind["wrong"]) for count, kind in zip(landed, kinds, strict=True)]
        rows.append([name, *(f"{good} of {count}" for good, count in zip(mended, landed, strict=True))])
    return table(["mended by running it again", "killed at a moment", "at a file operation", "disk full"], rows)


def growth(_: Results) -> str:
    """By how much time and memory grow where a quantity does, from its smallest to its largest value."""
    body, rows = json.loads((RESULTS / "growth.json").read_text()), []
    for quantity, found in body["growth"].items():
        for scheme in ("fp32", "4bit"):
            chosen = [row for row in found if row["scheme"] == scheme]
            first, last = chosen[0], chosen[-1]
            peaks = [row["memory"]["peak_rss_bytes"] / 1e6 for row in (first, last)]
            rows.append([
                f"{quantity} {first[quantity]} to {last[quantity]}, {scheme}",
                f"{first['median_ms']:.2f} to {last['median_ms']:.2f} ms", f"{peaks[0]:.0f} to {peaks[1]:.0f} MB",
            ])  # fmt: skip
    first, last = body["calibration"][0], body["calibration"][-1]
    extra = [row["peak_rss_mb"] - row["imports_mb"] for row in (first, last)]
    rows.append([
        f"calibration on {first['samples']} to {last['samples']} images",
        f"{first['seconds']:.0f} to {last['seconds']:.0f} s", f"{extra[0]} to {extra[1]} MB",
    ])  # fmt: skip
    return table(["", "time", "memory"], rows)


def contention(_: Results) -> str:
    """What another busy process costs: the medians of both, and their ratio."""
    body = json.loads((RESULTS / "contention.json").read_text())
    rows = []
    for work, found in body["samples"].items():
        quiet, beside = (statistics.median(row["seconds"] for row in found[state]) for state in ("quiet", "beside"))
        rows.append([work, f"{quiet:.1f} s", f"{beside:.1f} s", f"{beside / quiet:.2f} x"])
    return table(["", "alone", f"beside a process of {body['load_threads']} threads", ""], rows)


def demo(_: Results) -> str:
    """What `edgeq demo` printed (`edgeq demo > benchmarks/results/demo.txt`), from the last export on."""
    lines = [line.rstrip() for line in (RESULTS / "demo.txt").read_text(encoding="utf-8").splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("exports/mobilenet_v2-adaptive.onnx"))
    return "\n".join(["```text", *lines[start:], "```"])


def rule(_: Results) -> str:
    return f"  {POSITION_RULE}."


def budgets(results: Results) -> str:
    return efforts(results.model)


def squeezenet(_: Results) -> str:
    return efforts("squeezenet1_1")


def embedded(_: Results) -> str:
    return efforts("embedded")


def efforts(model: str) -> str:
    """One row for each size and effort; of several seeds the means, the furthest drop and the middle time."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in json.loads((RESULTS / model / "accuracy.json").read_text())["rows"]:
        found.setdefault((row["row"], row["effort"]), []).append(row)
    rows = []
    order = sorted(found, key=lambda key: (EFFORTS.index(key[1]), -found[key][0]["bytes"]))
    for name, effort in order:
        seeds = found[name, effort]
        drop, top1, agreement = (statistics.mean(row[key] for row in seeds) for key in ("drop", "top1", "agreement"))
        furthest = max(abs(row["drop"] - drop) for row in seeds)
        spread = f" +- {furthest:.2f} ({len(seeds)} seeds)" if len(seeds) > 1 else ""
        first, minutes = seeds[0], statistics.median(row["seconds"] for row in seeds) / 60
        rows.append([
            f"{name}, {effort}" if first["budget"] is None else f"adaptive, {name}, {effort}",
            f"{first['bytes'] / 1e6:.3f} MB", f"{first['bitops'] / 1e9:.2f} G", f"{top1:.2f} %",
            f"{drop:+.2f}{spread}", f"{agreement:.1f} %", f"{minutes:.0f} min",
            f"{max(row['peak_rss_mb'] for row in seeds) / 1e3:.1f} GB",
        ])  # fmt: skip
    return table(["", "file", "BitOps", "top-1", "drop", "same as float", "export, 1 thread", "peak memory"], rows)


def observers(results: Results) -> str:
    notes = {"damage": " (the default)", "percentile": ", 99.99"}
    rows = [
        [
            row["observer"] + notes.get(row["observer"], ""),
            f"{row['divergence']:.4f}",
            f"{row['agreement']:.1f} %",
            f"{row['sqnr_db']:.1f} dB",
        ]
        for row in results.json("observers")["rows"]
    ]
    return indented(table(["", "divergence, nats", "same top-1 as float", "SQNR of the logits"], rows))


def indented(text: str) -> str:
    """As part of a list item."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def correlation(results: Results) -> str:
    body = results.json("sensitivity")
    return f"  {body['predictors'][0]['spearman']:.3f} over {len(body['plans'])} mixes"


def codebooks(_: Results) -> str:
    body = json.loads((RESULTS / "codebooks.json").read_text())
    rows = [
        [
            f"{8 / row['levels_together']:.0f}", f"{row['levels_together']}", f"{row['bits']:.2f} bits",
            f"{row['db']:.1f} dB", f"{row['uniform_db']:.1f} dB",
        ]
        for row in body["codebooks"]
    ]  # fmt: skip
    head = ["bits", "weights in a byte, `K`", "stored", "noise below Gaussian weights", "of the best uniform grid"]
    return table(head, rows)


TABLES: Final = {
    build.__name__: build
    for build in (
        budgets,
        squeezenet,
        embedded,
        demo,
        codebooks,
        observers,
        correlation,
        rule,
        ratios,
        peers,
        setting,
        pixels,
        kernels,
        options,
        growth,
        zoo,
        cpus,
        fuzz,
        faults,
        parity,
        costs,
    )
}


def filled(text: str) -> str:
    """The README with every table between its markers written anew."""
    results = Results("mobilenet_v2")
    for name, build in TABLES.items():
        start = text.index(mark := f"<!-- table: {name} -->\n") + len(mark)
        text = f"{text[:start]}{build(results)}\n{text[text.index('<!-- end -->', start) :]}"
    return text


@click.command()
@click.option("--check", is_flag=True, help="Only say whether the README is up to date.")
def main(check: bool) -> None:
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = filled(before)
    if check and after != before:
        raise click.ClickException(
            "README.md: its tables are not those of benchmarks/results; run tools/benchmark_tables.py"
        )
    path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
