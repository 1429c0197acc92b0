"""What `zoo.py` found: a summary in Markdown, and a figure of the speeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgeq.reports.figures import COLOURS

Found = Mapping[str, Mapping[str, Any]]
"""What is known of every network, by set and name."""

_SHOWN: Final = ("8bit", "4bit")
_STATIC: Final = "quantize_static"
_ROWS: Final = (("timm",), ("torchvision", "yolo", "classifiers"))
_TITLES: Final = {
    "timm": "timm", "torchvision": "torchvision: detection and segmentation", "yolo": "YOLO",
    "classifiers": "torchvision: classifiers",
}  # fmt: skip


def speed(network: Mapping[str, Any], scheme: str, runtime: str = "onnxruntime") -> float | None:
    """How many times as fast as the float file; None where one of the two was not run."""
    times = [network["files"].get(name, {}).get(runtime, {}).get("median_ms") for name in ("fp32", scheme)]
    return times[0] / times[1] if all(times) else None


def summary(found: Found) -> str:
    """How many networks of each set are traced and exported, what fails and why, and what is slower than float."""
    head = ["set", "networks", "traced", *(f"exported at {scheme}" for scheme in _SHOWN)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for kind, networks in found.items():
        traced = sum("layers" in network for network in networks.values())
        exported = [sum(_exported(network, scheme) for network in networks.values()) for scheme in _SHOWN]
        lines.append([kind, *(str(count) for count in (len(networks), traced, *exported))])
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    for title, named in (("Failed", _failed(found)), ("Slower than float", _slower(found))):
        if named:
            parts.append("\n".join([f"## {title}", "", *(f"- {line}" for line in named)]))
    return "\n\n".join(parts)


def _exported(network: Mapping[str, Any], scheme: str) -> bool:
    return "bytes" in network["files"].get(scheme, {})


def _failed(found: Found) -> list[str]:
    return [
        f"{kind}, {name}, {stage}: {problem}"
        for kind, networks in found.items()
        for name, network in networks.items()
        for stage, problem in {
            **network["failed"],
            **{scheme: row["failed"] for scheme, row in network["files"].items() if "failed" in row},
        }.items()
    ]


def _slower(found: Found) -> list[str]:
    lines = []
    for kind, networks in found.items():
        for name, network in networks.items():
            speeds = {scheme: speed(network, scheme) for scheme in _SHOWN}
            slow = [f"{scheme} {value:.2f} x" for scheme, value in speeds.items() if value and value < 1]
            if slow:
                reasons = network["files"][slow[0].split()[0]]["in_float"]
                why = "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
                lines.append(f"{kind}, {name}: {', '.join(slow)}. In float: {why or 'nothing'}")
    return lines


def figure(found: Found) -> Figure:
    """How much faster than float every network is, in ONNX Runtime on one thread, in order of that; a panel a set."""
    drawn = Figure(figsize=(26, 15), layout="constrained", dpi=100)
    parts = drawn.subfigures(len(_ROWS), 1, squeeze=False)[:, 0]
    for part, kinds in zip(parts, _ROWS, strict=True):
        panels = part.subplots(
            1, len(kinds), squeeze=False, width_ratios=[len(found[kind]) + 2 for kind in kinds], sharey=True
        )[0]
        for axes, kind in zip(panels, kinds, strict=True):
            _panel(axes, found[kind])
            axes.set_title(_TITLES[kind], fontsize=18)
        panels[0].set_ylabel("times as fast as the float file", fontsize=14)
        panels[0].legend(fontsize=14, frameon=False, loc="upper left")
    drawn.suptitle("Networks that people deploy, ONNX Runtime on one thread", fontsize=24, fontweight="bold")
    return drawn


def _panel(axes: Axes, networks: Mapping[str, Any]) -> None:
    """A bar for 8 bits, a mark for the others; a network without a file has its name alone, on the left."""
    schemes = (*_SHOWN, _STATIC)
    speeds = {name: {scheme: speed(found, scheme) for scheme in schemes} for name, found in networks.items()}
    names = sorted(speeds, key=lambda name: speeds[name]["8bit"] or 0)

    def heights(scheme: str) -> list[float]:
        return [speeds[name][scheme] or np.nan for name in names]

    places = np.arange(len(names))
    axes.bar(places, heights("8bit"), 0.8, color=COLOURS["8bit"], label="edgeq 8bit")
    axes.plot(places, heights("4bit"), "o", color=COLOURS["4bit"], markeredgecolor="white", label="edgeq 4bit")
    axes.plot(places, heights(_STATIC), "_", color="black", markersize=9, markeredgewidth=2, label=_STATIC)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(places, names, rotation=90, fontsize=10)
    axes.set_xlim(-1, len(names))
    axes.spines[["top", "right"]].set_visible(False)
