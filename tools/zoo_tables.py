"""Tables of other networks: which are converted, which become faster, and what stays in float."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any, Final

from stored import SCHEMES, STATIC, stored, table

_SHOWN: Final = ("8bit", "4bit")
_SETS: Final = {
    "timm": "classifiers of timm", "torchvision": "detection and segmentation of torchvision", "yolo": "YOLO",
    "classifiers": "classifiers of torchvision",
}  # fmt: skip
_REASONS: Final = 4


def _networks(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = stored("zoo")["sets"][kind]["networks"]
    return found


def _speed(network: Mapping[str, Any], scheme: str, runtime: str = "onnxruntime") -> float | None:
    """How many times as fast as the float file; None where one of the two was not run."""
    times = [network["files"].get(name, {}).get(runtime, {}).get("median_ms") for name in ("fp32", scheme)]
    return times[0] / times[1] if all(times) else None


def sets() -> str:
    """How many networks of each set are converted, and how much faster they become."""
    rows = []
    for kind, title in _SETS.items():
        networks = list(_networks(kind).values())
        tried = [network for network in networks if network["failed"] or network["files"]]
        counts = [len(networks), len(tried), sum("trace" not in network["failed"] for network in tried)]
        counts += [sum("bytes" in network["files"].get(scheme, {}) for network in networks) for scheme in _SHOWN]
        speeds = {scheme: [speed for n in networks if (speed := _speed(n, scheme))] for scheme in _SHOWN}
        faster = [f"{statistics.median(found):.2f} x" if found else "" for found in speeds.values()]
        slower = [str(sum(speed < 1 for speed in found)) for found in speeds.values()]
        rows.append([title, *map(str, counts), str(len(speeds["8bit"])), *faster, *slower])
    head = [
        "", "networks", "tried", "traced", *(f"exported at {scheme}" for scheme in _SHOWN), "timed",
        *(f"{scheme}, over float" for scheme in _SHOWN), *(f"slower at {scheme}" for scheme in _SHOWN),
    ]  # fmt: skip
    return table(head, rows)


def failures() -> str:
    """The networks that are not converted, and what edgeq says of them."""
    rows = []
    for kind, title in _SETS.items():
        for name, network in _networks(kind).items():
            files = {scheme: row["failed"] for scheme, row in network["files"].items() if "failed" in row}
            told: dict[str, list[str]] = {}
            for stage, line in (network["failed"] | files).items():
                if stage in ("trace", "export", *_SHOWN):
                    told.setdefault(line.replace("|", "/"), []).append(stage)
            rows += [[f"{name} ({title})", ", ".join(stages), line] for line, stages in told.items()]
    return table(["", "fails", "with"], rows)


def slower() -> str:
    """The networks whose files are slower than in float, and what of them stays in float."""
    rows = []
    for kind in _SETS:
        for name, network in _networks(kind).items():
            speeds = {scheme: _speed(network, scheme) for scheme in _SHOWN}
            slow = [scheme for scheme, speed in speeds.items() if speed and speed < 1]
            if slow:
                found = [f"{speeds[scheme]:.2f} x" if speeds[scheme] else "" for scheme in _SHOWN]
                kernels = network["files"][slow[0]]["kernels"]
                ran = f"{kernels['integer']} of {kernels['integer'] + kernels['float']}"
                reasons = network["files"][slow[0]]
                rows.append([name, *found, ran, _reasons({**reasons["in_float"], **reasons.get("slow_kernels", {})})])
    return table(["", *(f"{scheme}, over float" for scheme in _SHOWN), "integer kernels", "why, in its manifest"], rows)


def _reasons(in_float: Mapping[str, int]) -> str:
    """The most frequent reasons, without what all have in common."""
    found: Counter[str] = Counter()
    for reason, count in in_float.items():
        found[re.sub(r"^aten\.|^an? |, .*", "", reason)] += count
    parts = [f"{count} {reason}" for reason, count in found.most_common(_REASONS)]
    rest = found.total() - sum(count for _, count in found.most_common(_REASONS))
    return ", ".join([*parts, f"{rest} others"] if rest else parts) or "nothing"


def zoo() -> str:
    """Classifiers of torchvision: what runs on integers, how fast, how close to PyTorch at worst."""
    rows = []
    for name, network in _networks("classifiers").items():
        found = network["files"]
        schemes = [found[scheme] for scheme in SCHEMES]
        worst = [
            min(row["parity"][key] for row in schemes)
            for key in ("nodes_within_one_step", "optimized_within_eight_steps")
        ]
        kernels = {scheme: found[scheme].get("kernels") for scheme in ("8bit", STATIC)}
        ran = [f"{made['integer']} of {made['integer'] + made['float']}" if made else "" for made in kernels.values()]
        faster = [
            f"{speed:.2f} x" if (speed := _speed(network, scheme, run)) else ""
            for run, scheme in product(("onnxruntime", "openvino"), ("8bit", STATIC))
        ]
        sizes = [f"{found[scheme]['bytes'] / 1e6:.1f}" for scheme in ("fp32", "8bit", "4bit", "2bit")]
        rows.append([
            name, *ran, str(sum(found["8bit"]["in_float"].values())), *faster, " / ".join(sizes), f"{worst[0]:.2%}",
            f"{worst[1]:.1%}",
        ])  # fmt: skip
    head = [
        "", "integer kernels", f"of {STATIC}", "other ops in float", "8bit, over float", STATIC, "8bit, in OpenVINO",
        STATIC, "MB at 32 / 8 / 4 / 2 bits", "worst node within 1 step", "outputs within 8",
    ]  # fmt: skip
    return table(head, rows)
