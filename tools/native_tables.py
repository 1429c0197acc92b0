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


def native_settings() -> str:
    """Several threads and several images at once."""
    rows = []
    for name, found in stored("native")["files"].items():
        for one in found["others"]:
            theirs, ours = (one[runtime]["median_ms"] for runtime in ("onnxruntime", "native"))
            alone = found["native"]["median_ms"] * one["batch"]
            rows.append([
                name, str(one["threads"]), str(one["batch"]), f"{theirs:.2f} ms", f"{ours:.2f} ms",
                f"{ours / theirs:.2f} x", f"{alone / ours:.2f} x",
            ])  # fmt: skip
    return table(["", "threads", "images", "ONNX Runtime", "native", "", "faster than one by one"], rows)


def native_limit() -> str:
    """Time by kind of layer, beside what its products alone take at this processor's highest rate."""
    report = stored("native_limit")
    rows = []
    for name, found in report["files"].items():
        layers, most = found["layers"], found["products_a_ns"] * 1e3
        everything = {key: sum(one[key] for one in layers.values()) for key in ("us", "products")}
        for layer, one in [*sorted(layers.items(), key=lambda item: -item[1]["us"]), ("all", everything)]:
            limit = one["products"] / most
            rows.append([
                f"{name}, {layer}", f"{one['us']:.0f} us", f"{one['us'] / everything['us']:.0%}",
                f"{one['products'] / 1e6:.1f} M", f"{limit:.0f} us" if limit else "",
                f"{limit / one['us']:.0%}" if limit else "",
            ])  # fmt: skip
    return table(["", "time", "of all", "products", "products alone", "of the limit"], rows)


def native_limit_setting() -> str:
    """What the limit is."""
    report = stored("native_limit")
    first = next(iter(report["files"].values()))
    return prose(
        f"{report['environment']['cpu']}, {first['kernels']}: its dot-product instruction makes "
        f"{first['products_a_ns']:.0f} products of bytes a nanosecond, measured beside these times. {report['runs']} "
        f"runs, medians of each step."
    )


def native_growth() -> str:
    """Resolution and width, at 4 bits."""
    rows = []
    for row in stored("native_growth")["rows"]:
        theirs, ours = (row[runtime]["median_ms"] for runtime in ("onnxruntime", "native"))
        rows.append([
            f"{row['quantity']} {row[row['quantity']]}", f"{theirs:.2f} ms", f"{ours:.2f} ms", f"{ours / theirs:.2f} x",
        ])  # fmt: skip
    return table(["", "ONNX Runtime", "native", ""], rows)


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
