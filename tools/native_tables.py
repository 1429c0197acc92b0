"""The tables of the native engine."""

from __future__ import annotations

import re
from statistics import median
from typing import Any, Final

from stored import prose, stored, table

BASE: Final = "8bit, ONNX Runtime"


def native() -> str:
    """Every file in ONNX Runtime and in the engine: time, memory, load, and whether every bit is the same."""
    return _beside_onnx_runtime("native")


def native_avx2() -> str:
    """The same on a processor without VNNI."""
    return _beside_onnx_runtime("native_avx2")


def _beside_onnx_runtime(result: str) -> str:
    report = stored(result)
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
    return _measured_on("native")


def native_avx2_setting() -> str:
    """The same of the other processor."""
    return _measured_on("native_avx2")


def _measured_on(result: str) -> str:
    report = stored(result)
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


def browser() -> str:
    """The engines of a page beside onnxruntime-web: time, loading, memory, and whether every bit is the same."""
    rows = []
    for scheme, found in stored("web")["networks"].items():
        theirs = median(found["onnxruntime-web"]["times"])
        for who, named in (("plain", "edgeq"), ("relaxed", "edgeq, relaxed SIMD"), ("onnxruntime-web",) * 2):
            one = found[who]
            time = median(one["times"])
            memory = f"{one['memory'] / 1e6:.2f} MB" if "memory" in one else ""
            equal = f"{100 * one['equal']:.2f} %"
            rows.append([
                f"{scheme}, {named}", f"{time:.1f} ms", f"{time / theirs:.2f} x", f"{median(one['loads']):.0f} ms",
                memory, equal,
            ])  # fmt: skip
    return table(["", "time", "", "load", "memory", "bits as in ONNX Runtime"], rows)


def browser_setting() -> str:
    """The machine, and what the code takes."""
    report = stored("web")
    where, code = report["environment"], report["code"]
    plain, relaxed, script = (code[name] / 1000 for name in ("edgeq.wasm", "edgeq-relaxed.wasm", "edgeq.js"))
    checked = [median(found["loads_with_check"]) for found in report["networks"].values()]
    return prose(
        f"{where['cpu']} with {', '.join(where['cpu_flags'])}, Chromium {report['chromium']}, onnxruntime-web "
        f"{report['onnxruntime_web']}. One image, one thread, {report['rounds']} runs of each in turns, medians; loads "
        "are of a page that has loaded the engine before. By itself, a page tries relaxed SIMD on known answers first: "
        f"a load then takes {min(checked):.0f} to {max(checked):.0f} ms. Bits are those of the logits of "
        f"{report['images']} images. An engine takes {plain:.1f} kB, with relaxed SIMD {relaxed:.1f}, and the script "
        f"around it {script:.1f}; onnxruntime-web takes {report['peer_code'] / 1e6:.1f} MB."
    )
