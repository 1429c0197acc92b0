"""Write the tables of the README from the stored results.

python benchmarks/tables.py            # rewrites README.md
python benchmarks/tables.py --check    # exit code 1 if it would change
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

import click

from edgeq.plan import POSITION_RULE

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
SCHEMES: Final = ("fp32", "8bit", "4bit", "adaptive", "2bit")
EFFORTS: Final = ("fast", "balanced", "best")
PEER: Final = "quantize_static"


class Results:
    """The stored results of one network."""

    def __init__(self, model: str) -> None:
        self.model, self.folder = model, RESULTS / model
        self.run, self.evaluation = self.json("run"), self.json("evaluation")
        self.scores = {row["scheme"]: row for row in self.evaluation["models"]}
        self.manifests = {scheme: self.json(f"{model}-{scheme}") for scheme in SCHEMES}

    def json(self, name: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return body

    def bench(self, report: int | str) -> dict[str, dict[str, Any]]:
        """The rows of `bench-<threads>.json` or `bench-<runtime>.json` by scheme."""
        prefix = f"{self.model}-"
        return {row["name"].removeprefix(prefix): row for row in self.json(f"bench-{report}")["rows"]}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def accuracy(results: Results) -> str:
    float_top1 = results.evaluation["reference"]["top1"]
    bench = results.bench(1)
    float_ms = bench["fp32"]["median_ms"]
    rows = []
    for scheme in SCHEMES:
        score, manifest = results.scores[scheme], results.manifests[scheme]
        rows.append([
            scheme, mb(manifest["bytes"]), f"{manifest['bitops'] / 1e9:.2f} G", f"{score['top1']:.2f} %",
            f"{float_top1 - score['top1']:+.2f}", f"{score['agreement']:.1f} %",
            f"{float_ms / bench[scheme]['median_ms']:.2f} x",
        ])  # fmt: skip
    peer = results.run[PEER]
    rows.append([
        "ONNX Runtime quantize_static", mb(peer["bytes"]), f"{results.manifests['8bit']['bitops'] / 1e9:.2f} G",
        f"{peer['top1']:.2f} %", f"{float_top1 - peer['top1']:+.2f}", "",
        f"{float_ms / bench[PEER]['median_ms']:.2f} x",
    ])  # fmt: skip
    return table(["scheme", "file", "BitOps", "top-1", "drop", "same as float", "speed over float"], rows)


def setting(results: Results) -> str:
    environment, evaluation = results.run["environment"], results.evaluation
    versions = environment["versions"]
    return (
        f"Top-1 on {evaluation['images']} validation images, calibrated on {results.run['samples']} others. Speed: "
        f"ONNX Runtime {versions['onnxruntime']}, 1 thread, batch 1, {environment['cpu']} with "
        f"{', '.join(environment['cpu_flags'])}, median of interleaved runs."
    )


def latency(results: Results) -> str:
    rows = []
    one, two = results.bench(1), results.bench(2)
    for name in (*SCHEMES, PEER):
        row = one[name]
        memory = row["memory"]
        rows.append([
            name, f"{row['median_ms']:.2f}", f"{row['p90_ms']:.2f}",
            f"{one['fp32']['median_ms'] / row['median_ms']:.2f} x",
            f"{two[name]['median_ms']:.2f}", f"{memory['load_ms']:.0f}", f"{memory['peak_rss_bytes'] / 1e6:.0f}",
        ])  # fmt: skip
    head = ["ms, batch 1", "median", "p90", "over float", "2 threads", "load", "peak MB over an empty session"]
    return table(head, rows)


def runtimes(results: Results) -> str:
    rows = []
    for runtime in ("openvino", "torch"):
        found = results.bench(runtime)
        times = [f"{found[scheme]['median_ms']:.2f}" if scheme in found else "" for scheme in SCHEMES]
        rows.append([f"{runtime} {results.run['environment']['versions'][runtime]}", *times])
    return table(["median ms, 1 thread, batch 1", *SCHEMES], rows)


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
    base = results.run["costs"]["imports"]["peak_rss_mb"]
    rows = [
        [name, f"{cost['seconds']:.0f} s", f"{cost['peak_rss_mb'] - base} MB"]
        for name, cost in results.run["costs"].items()
        if "peak_rss_mb" in cost and name != "imports"
    ]
    return table(
        [f"{results.run['samples']} images at 224 x 224", "time", "peak memory over the imported libraries"], rows
    )


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
        accuracy,
        setting,
        budgets,
        squeezenet,
        demo,
        codebooks,
        observers,
        correlation,
        rule,
        latency,
        runtimes,
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
            "README.md: its tables are not those of benchmarks/results; run benchmarks/tables.py"
        )
    path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
