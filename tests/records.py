"""Calibration records built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeq.artifacts.record import CalibrationRecord, LayerInfo

DAMAGE: Mapping[float, float] = {8: 0.001, 4: 0.02, 3: 0.1, 2: 0.4, 1.6: 0.7, 1.33: 1.0, 1: 1.7}
DROPS = ((0.0, 0.0), (0.1, 1.0), (0.5, 20.0))


def layer(
    position: int = 0,
    kind: str = "conv",
    sensitivity: Mapping[float, float] = DAMAGE,
    shape: tuple[int, ...] = (4, 16, 1, 1),
    macs: int = 640,
) -> LayerInfo:
    scales = dict.fromkeys(DAMAGE, (0.1,) * shape[0])
    return LayerInfo(f"layer{position}", kind, position, shape, macs, scales, sensitivity, f"layer{position}")


def record_of(
    layers: Sequence[LayerInfo], *, graph_bytes: int = 1000, drops: tuple[tuple[float, float], ...] = DROPS
) -> CalibrationRecord:
    """A record of these layers, each of which takes 30 bytes for its decode below 8 bits."""
    return CalibrationRecord(
        network={}, preprocess={}, data={}, observer="percentile", layers=tuple(layers), activations={}, outputs=(),
        in_float={}, graph_bytes=graph_bytes, packed_layer_bytes=30, cut_layer_bytes=0, drops=drops,
    )  # fmt: skip
