"""The tables of the native engine."""

from __future__ import annotations

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


def in_torch() -> str:
    """The float network in PyTorch, and every packed one by the engine, as it is saved, and by PyTorch alone."""
    rows, found = [], stored("packed_torch")["rows"]
    for name, row in sorted(found.items(), key=lambda item: item[1]["runtime"] != "eager"):
        memory = row["memory"]
        ratios = (
            one["median_ms"] / base["median_ms"]
            for one, base in zip(row["latency"], found["float"]["latency"], strict=True)
        )
        rows.append([
            name.replace("torch-reference", "reference").replace(", torch", ""),
            f"{row['latency'][0]['median_ms']:.2f} ms", *(f"{ratio:.2f} x" for ratio in ratios),
            f"{memory['peak_rss_bytes'] / 1e6:.0f} MB", f"{memory['uss_bytes'] / 1e6:.0f} MB",
            f"{memory['load_ms']:.0f} ms",
        ])  # fmt: skip
    batches = [one["batch"] for one in found["float"]["latency"]]
    return table(
        ["", "one image", *(f"of {batch}, over float" for batch in batches), "peak memory", "kept", "load"], rows
    )
