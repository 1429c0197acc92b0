"""The tables of the native engine."""

from __future__ import annotations

import re
from typing import Any

from stored import prose, stored, table


def native() -> str:
    """Every file in ONNX Runtime and in the engine: time, memory, load, and whether every bit is the same."""
    report = stored("native")
    rows = []
    for name, found in report["files"].items():
        theirs, ours, parity = found["onnxruntime"], found["native"], found["parity"]
        rows.append([
            name,
            f"{theirs['median_ms']:.2f} ms", f"{ours['median_ms']:.2f} ms",
            f"{ours['median_ms'] / theirs['median_ms']:.2f} x",
            f"{theirs['memory']['peak_rss_bytes'] / 1e6:.1f} MB", f"{ours['memory']['peak_rss_bytes'] / 1e6:.1f} MB",
            f"{theirs['memory']['load_ms']:.0f} ms", f"{ours['memory']['load_ms']:.1f} ms",
            f"{parity['arena_bytes'] / 1000:.0f} kB", f"{parity['different']:,} of {parity['values']:,}",
        ])  # fmt: skip
    head = [
        "", "ONNX Runtime", "native", "", "peak memory", "native", "load", "native", "arena", "values that differ",
    ]  # fmt: skip
    return table(head, rows)


def native_setting() -> str:
    """The machine, the code for a small processor, and how many images were compared."""
    report = stored("native")
    where, first = report["environment"], next(iter(report["files"].values()))["parity"]
    code, steps = (first[key] for key in ("m7_code_bytes", "steps_bytes"))
    small = f" For a Cortex-M7 at -Os, code takes {code / 1000:.1f} kB and steps {steps / 1000:.1f} kB." if code else ""
    return prose(
        f"One image, one thread, {report['runs']} runs of each in turns, medians. {where['cpu']} with "
        f"{', '.join(where['cpu_flags'])}; onnxruntime {where['versions']['onnxruntime']}. Values are the logits of "
        f"{first['images']:,} images.{small}"
    )


def _cells() -> list[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """What `native_checks.py` found: a network, one of its variants, a target, and what came of it there."""
    networks = stored("native_checks")["networks"]
    return [
        (name, row, target, found)
        for name, network in networks.items()
        for row in network["rows"]
        for target, found in row.get("targets", {}).items()
    ]


def _differing(cells: list[dict[str, Any]]) -> str:
    """How many values differ in some cells, of how many."""
    ran = [cell for cell in cells if "failed" not in cell]
    return f"{sum(cell['different'] for cell in ran):,} of {sum(cell['values'] for cell in ran):,}"


def _same(cells: list[dict[str, Any]]) -> str:
    """In how many cells every bit is the same; nothing is where a build failed."""
    return f"{sum(cell.get('different') == 0 for cell in cells)} of {len(cells)}"


def native_checks() -> str:
    """Of every target, how many networks in integers have ONNX Runtime's bits, and how far those with floats are."""
    cells, rows = _cells(), []
    for name in dict.fromkeys(target for _, _, target, _ in cells):
        here = [(row, found) for _, row, target, found in cells if target == name]
        whole = [found for row, found in here if row["exact"]]
        partly = [found for row, found in here if not row["exact"]]
        apart = max((found["largest"] / found["of"] for found in partly if found.get("different")), default=0.0)
        images = min(found["images"] for _, found in here if "failed" not in found)
        rows.append([name, f"{images}", _same(whole), _differing(whole), _differing(partly), f"{apart:.1%}"])
    head = ["target", "images", "same bits", "values that differ", "with floats within", "by at most"]
    return table(head, rows)


def native_networks() -> str:
    """Every network on all targets."""
    cells, rows = _cells(), []
    for name in dict.fromkeys(name for name, _, _, _ in cells):
        here = [(row, found) for network, row, _, found in cells if network == name]
        found = [cell for _, cell in here]
        first = here[0][0]
        rows.append([
            name, " x ".join(map(str, first["shape"])), f"{first['steps']}", "no" if first["exact"] else "yes",
            _same(found), _differing(found),
        ])  # fmt: skip
    head = ["network", "input", "steps", "floats within", "builds with the same bits", "values that differ"]
    return table(head, rows)


def native_checks_setting() -> str:
    """Compilers and emulators."""
    found = next(iter(stored("native_checks")["networks"].values()))
    version = re.compile(r"(?:version |\) )([\d.]+)")
    tools = ", ".join(f"{name} {version.findall(line)[0]}" for name, line in found["tools"].items())
    where = found["environment"]
    return prose(
        f"{where['cpu']} with {', '.join(where['cpu_flags'])}; {tools}; onnxruntime {where['versions']['onnxruntime']}."
    )
