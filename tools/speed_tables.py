"""Tables of time and memory, beside other tools, and of what making the files takes."""

from __future__ import annotations

import statistics
from typing import Any, Final

from quality_tables import short
from stored import SCHEMES, STATIC, prose, stored, table, to

PEERS: Final = "mobilenet_v2/peers"
RUNTIMES: Final = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "litert": "LiteRT"}


def _rows() -> dict[str, Any]:
    found: dict[str, Any] = stored(PEERS)["rows"]
    return found


def _facts(name: str, row: dict[str, Any]) -> list[str]:
    """Size, top-1, drop, latency, time to load and memory of a row; of edgeq's, size and top-1 are of today's files."""
    memory, accuracy = row["memory"], stored("mobilenet_v2/accuracy")
    today = {f"edgeq {one['row']}": one for one in accuracy["rows"] if (one["effort"], one["seed"]) == ("fast", 0)}
    scored = today.get(name.removesuffix(", OpenVINO"), row)
    return [
        f"{scored['bytes'] / 1e6:.2f} MB", f"{scored['top1']:.2f} %",
        f"{accuracy['reference']['top1'] - scored['top1']:.2f}",
        f"{row['latency'][0]['median_ms']:.2f} ms", f"{memory['load_ms']:.0f} ms",
        f"{memory['peak_rss_bytes'] / 1e6:.0f} MB",
    ]  # fmt: skip


_FACTS: Final = ["file", "top-1", "drop", "latency", "load", "peak memory"]


def summary() -> str:
    """The float file and the four schemes, in ONNX Runtime."""
    names = {"float": "float", **{scheme: f"edgeq {scheme}" for scheme in ("8bit", "4bit", "adaptive", "2bit")}}
    return table(["", *_FACTS], [[name, *_facts(row, _rows()[row])] for name, row in names.items()])


def tools() -> str:
    """The other tools, fastest first, between edgeq's files in the same runtimes."""
    chosen = (
        "edgeq 8bit", "edgeq 4bit", "edgeq 4bit, OpenVINO", STATIC, "LiteRT", "NNCF, OpenVINO", "NNCF",
        f"{STATIC}, INT4",
    )  # fmt: skip
    rows = [(name, _rows()[name]) for name in chosen]
    rows.sort(key=lambda item: item[1]["latency"][0]["median_ms"])
    head = ["", "runs in", *_FACTS]
    return table(
        head, [[name.removesuffix(", OpenVINO"), RUNTIMES[row["runtime"]], *_facts(name, row)] for name, row in rows]
    )


def setting() -> str:
    environment = stored(PEERS)["environment"]
    versions = environment["versions"] | stored(PEERS)["versions"]
    packages = ("onnxruntime", "openvino", "torch", "nncf", "ai-edge-litert")
    flags = [flag for flag in environment["cpu_flags"] if flag != "avx512f"]
    return prose(
        f"Machine: {environment['cpu']} with {', '.join(flags)}. Software: "
        f"{', '.join(f'{name} {versions[name]}' for name in packages if versions.get(name))}."
    )


def peers() -> str:
    """Every tool and runtime, fastest first."""
    base = {(found["threads"], found["batch"]): found["median_ms"] for found in _rows()["float"]["latency"]}
    lines = []
    for name, row in sorted(_rows().items(), key=lambda item: item[1]["latency"][0]["median_ms"]):
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


def ratios() -> str:
    """How long edgeq's files take beside those of other tools, one thread, one image: the range over its schemes."""
    first = {name: row["latency"][0]["median_ms"] for name, row in _rows().items()}

    def beside(peer: str, ending: str) -> str:
        found = [first[f"edgeq {scheme}{ending}"] / first[peer] for scheme in SCHEMES]
        return to(f"{min(found):.2f}", f"{max(found):.2f}")

    return prose(
        f"edgeq's files take {beside(STATIC, '')} of the time of quantize_static's file; with `--input uint8` they "
        f"take {beside(STATIC, ', uint8 in')} of it, and {beside('LiteRT', ', uint8 in')} of the time of LiteRT's. "
        f"In OpenVINO they take {beside('NNCF, OpenVINO', ', OpenVINO')} of the time of NNCF's own file."
    )


def loading() -> str:
    """What packed weights cost when a file is loaded."""
    found = {name: row["memory"] for name, row in _rows().items()}
    packed = [found[f"edgeq {scheme}"] for scheme in ("4bit", "2bit", "adaptive")]
    times = [row["load_ms"] / found["edgeq 8bit"]["load_ms"] for row in packed]
    more = [(row["peak_rss_bytes"] - found[STATIC]["peak_rss_bytes"]) / 1e6 for row in packed]
    return prose(
        f"A file below 8 bits takes {to(f'{min(times):.1f}', f'{max(times):.1f}')} times as long to load as the 8-bit "
        f"one, and its peak memory is {to(f'{min(more):.0f}', f'{max(more):.0f}')} MB above that of quantize_static's "
        "file."
    )


def pixels() -> str:
    """From an image in bytes to its class, by scheme: with NumPy before the file, and with a file that takes pixels."""
    found = {name: statistics.median(times) for name, times in stored(PEERS)["raw_to_class_ms"].items()}
    rows = []
    for scheme in SCHEMES:
        before, after = found[f"edgeq {scheme}"], found[f"edgeq {scheme}, uint8 in"]
        rows.append([scheme, f"{before:.2f} ms", f"{after:.2f} ms", f"{after / before:.2f} x"])
    return table(["raw image to class", "NumPy, float input", "`--input uint8`", ""], rows)


def costs() -> str:
    """What making each file took, with a file that several rows share only once."""
    found = {"edgeq calibrate": stored(PEERS)["calibrate"]}
    for name, row in _rows().items():
        if name.startswith("edgeq") and ", " not in name:
            found[f"edgeq export, {name.removeprefix('edgeq ')}, fast"] = row["cost"]
        elif row["maker"] == name:
            found[name] = row["cost"]
    rows = [[name, f"{cost['seconds']:.0f} s", f"{cost['peak_rss_mb'] / 1e3:.1f} GB"] for name, cost in found.items()]
    (eager,) = (
        found["median_ms"]
        for found in _rows()["float, PyTorch eager"]["latency"]
        if (found["threads"], found["batch"]) == (2, 8)
    )
    rows.append(
        ["1000 images through the float network, PyTorch eager, batch 8", f"{eager * 1000 / 8 / 1e3:.0f} s", ""]
    )
    return table(["whole processes, 2 threads", "time", "peak memory"], rows)


def commands() -> str:
    """What today's commands take: medians."""
    body = stored("mobilenet_v2/commands")
    rows = []
    for name, runs in body["commands"].items():
        keys = ("seconds", "cpu_seconds", "peak_rss_mb")
        time, cpu, memory = (statistics.median(run[key] for run in runs) for key in keys)
        rows.append([f"edgeq {name}", f"{time:.0f} s", f"{cpu:.0f} s", f"{memory / 1e3:.1f} GB"])
    return table(["", "time", "CPU time", "peak memory"], rows)


def versions() -> str:
    """Load time and peak memory of packed files, over those of the version before trellis codes: medians."""
    body, rows = stored("loading"), []
    for scheme, found in body["memory"].items():
        facts = []
        for key, unit, name in (("load_ms", 1, "ms"), ("peak_rss_bytes", 1e6, "MB")):
            before, after = (statistics.median(one[key] for one in found[v]) / unit for v in ("before", "after"))
            facts += [f"{before:.0f} {name}", f"{after:.0f} {name}", f"{after / before:.2f} x"]
        rows.append([scheme, *facts])
    return table(["", "load before", "now", "", "peak before", "now", ""], rows)


def contention() -> str:
    """What another busy process costs: the medians of both, and their ratio."""
    body = stored("contention")
    rows = []
    for work, found in body["samples"].items():
        quiet, beside = (statistics.median(row["seconds"] for row in found[state]) for state in ("quiet", "beside"))
        rows.append([work, f"{quiet:.1f} s", f"{beside:.1f} s", f"{beside / quiet:.2f} x"])
    return table(["", "alone", f"beside a process of {body['load_threads']} threads", ""], rows)


def kernels() -> str:
    found = {short(name): row for name, row in stored("kernels")["microseconds"].items()}
    kinds = sorted(
        {kind for row in found.values() for kind in row},
        key=lambda kind: (-max(row.get(kind, 0) for row in found.values()), kind),
    )
    rows = [[kind, *(f"{row[kind]:.0f}" if kind in row else "" for row in found.values())] for kind in kinds]
    totals = ["together", *(f"{sum(row.values()):.0f}" for row in found.values())]
    return table(["microseconds", *found], [*rows, totals])


def grouped() -> str:
    """Grouped convolutions in float and in integers, by the channels of a group."""
    found = stored("grouped")["microseconds"]
    ways = list(next(iter(found.values())))
    rows = [[depth, *(f"{row[way]:.0f}" if way in row else "" for way in ways)] for depth, row in found.items()]
    return table(["channels of a group", "float", *(f"in groups of {way}" for way in ways[1:])], rows)


def sessions() -> str:
    """Settings of ONNX Runtime and of the allocator."""
    shown = ("as it is", "neither", "MALLOC_MMAP_THRESHOLD_=65536")
    settings = {"as it is": "default", "neither": "neither memory arena nor pattern"}
    rows = [
        [
            f"{short(row['file'])}, {settings.get(row['setting'], row['setting'])}", f"{row['load_ms']:.0f} ms",
            f"{row['peak_rss_bytes'] / 1e6:.1f} MB",
            f"{row['uss_bytes'] / 1e6:.1f} MB", f"{row['time_over_as_it_is']:.2f} x" if "samples_ms" in row else "",
        ]
        for row in stored("session_options")["rows"]
        if row["setting"] in shown
    ]  # fmt: skip
    return table(["", "load", "peak memory", "kept", "time of a run"], rows)


def growth() -> str:
    """By how much time and memory grow where a quantity does, from its smallest to its largest value."""
    body, rows = stored("growth"), []
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
