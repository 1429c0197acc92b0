"""The tables of the native engine."""

from __future__ import annotations

from typing import Any, Final

from stored import prose, stored, table

BASE: Final = "8bit, ONNX Runtime"


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


def native_peers() -> str:
    """Every engine, the fastest first, beside ONNX Runtime; with the other settings, memory, load and answers."""
    rows = sorted(stored("native_peers")["rows"].items(), key=lambda row: float(row[1]["latency"][0]["median_ms"]))
    base = stored("native_peers")["rows"][BASE]["latency"]
    lines = [[name, *_facts(row, base)] for name, row in rows]
    head = [
        "", "1 thread", "beside ONNX Runtime", *(_setting(latency) for latency in base[1:]),
        "load", "peak memory", "file", "code", "same as float",
    ]  # fmt: skip
    return table(head, lines)


def _setting(latency: dict[str, Any]) -> str:
    threads = "1 thread" if latency["threads"] == 1 else f"{latency['threads']} threads"
    return threads if latency["batch"] == 1 else f"{threads}, batch {latency['batch']}"


def _facts(row: dict[str, Any], base: list[dict[str, Any]]) -> list[str]:
    taken = {_setting(latency): latency["median_ms"] for latency in row["latency"]}
    first = row["latency"][0]["median_ms"]
    others = [taken.get(_setting(latency)) for latency in base[1:]]
    return [
        f"{first:.2f} ms", f"{first / base[0]['median_ms']:.2f} x",
        *("" if found is None else f"{found:.2f} ms" for found in others),
        f"{row['memory']['load_ms']:.1f} ms", f"{row['memory']['peak_rss_bytes'] / 1e6:.1f} MB",
        f"{row['bytes'] / 1e6:.2f} MB", f"{row['code_bytes'] / 1000:.0f} kB" if row["code_bytes"] else "",
        f"{row['same_top1']:.0%}",
    ]  # fmt: skip


def native_peers_setting() -> str:
    """The machine, the versions, and what could not run."""
    report = stored("native_peers")
    where = report["environment"]
    versions = {name: where["versions"][name] for name in ("onnxruntime", "openvino")} | report["versions"]
    refused = "".join(f" Not run: {name} ({reason})." for name, reason in report["not_run"].items())
    return prose(
        f"MobileNetV2 at 224 x 224, {report['runs']} runs of each in turns, medians; a batch takes one image after the "
        f"other where an engine has no batches. `same as float` is the share of {report['images']:,} images with the "
        f"float network's top-1. {where['cpu']} with {', '.join(where['cpu_flags'])}; "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}.{refused}"
    )
