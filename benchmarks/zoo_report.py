"""A figure of the speeds that `zoo.py` found. What else it found is in the tables of docs/results.md."""

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
