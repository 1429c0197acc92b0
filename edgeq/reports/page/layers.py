"""The layers of one export in order of execution: what each costs and hurts, and what other widths would change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.record import Bins, CalibrationRecord
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import WIDTHS
from edgeq.planning.budget import estimated_drop
from edgeq.planning.cost import FLOAT_BITS, stored_bytes, trellis_bytes
from edgeq.planning.plan import in_larger_steps

_WIDER: Final = (*sorted(width.bits for width in WIDTHS), FLOAT_BITS)


@dataclass(frozen=True)
class Change:
    """What another width of one layer changes, the others kept.

    Attributes:
        bits: the other width.
        bytes: more bytes of the file.
        damage: more sensitivity, summed over all layers; less is negative.
        drop: more points of estimated drop.
    """

    bits: float
    bytes: int
    damage: float
    drop: float


@dataclass(frozen=True)
class Layer:
    """One layer of an export.

    Attributes:
        row: its fields in the manifest, see docs/formats.md.
        share: of the sensitivity of all layers at their widths; 0 if that is 0.
        sqnr: of its output against the float network, dB; None if there is no noise, or it is unknown.
        float_reason: why its output, or the layer itself, is computed in float; None in integers.
        slow_reason: why its integer kernel is slower than the float one; None otherwise.
        sensitivity: at every width; None without a record.
        range: of the values that its output is stored as; None without a record, or in float.
        seen: histogram of these values in the float network; None without a record.
        changes: to every wider width, the next one first; empty without a record.
    """

    row: Mapping[str, Any]
    share: float
    sqnr: float | None
    float_reason: str | None
    slow_reason: str | None
    sensitivity: Mapping[float, float] | None = None
    range: ActivationRange | None = None
    seen: Bins | None = None
    changes: tuple[Change, ...] = ()

    @property
    def wider(self) -> Change | None:
        """To the next wider width."""
        return self.changes[0] if self.changes else None

    @property
    def excluded(self) -> Change | None:
        """To float."""
        return self.changes[-1] if self.changes else None


def layers_of(manifest: Manifest, record: CalibrationRecord | None) -> list[Layer]:
    """The layers of an export, with what its record says of them, if there is one."""
    costs = _Costs(manifest, record) if record else None
    total = sum(row["damage"] for row in manifest["layers"])
    found = []
    for row in manifest["layers"]:
        name = row["name"]
        layer = Layer(
            row=row,
            share=row["damage"] / total if total else 0.0,
            sqnr=manifest["layer_sqnr_db"].get(name),
            float_reason="kept in float" if row["bits"] == FLOAT_BITS else manifest["in_float"].get(name),
            slow_reason=manifest["slow_kernels"].get(name),
        )
        found.append(costs.added(layer) if costs else layer)
    return found


class _Costs:
    """What a record says of the layers of one export."""

    def __init__(self, manifest: Manifest, record: CalibrationRecord) -> None:
        self.record = in_larger_steps(record) if manifest["portable"] else record
        self.bits = {row["name"]: row["bits"] for row in manifest["layers"]}
        self.damage = sum(row["damage"] for row in manifest["layers"])
        self.quantized = manifest["act_bits"] != FLOAT_BITS
        self._shared: dict[frozenset[float], int] = {}

    @cached_property
    def infos(self) -> dict[str, Any]:
        return {layer.name: layer for layer in self.record.layers}

    def added(self, layer: Layer) -> Layer:
        """A layer with what the record says of it."""
        info = self.infos[layer.row["name"]]
        stored = self.record.activations.get(info.output) if self.quantized else None
        return replace(
            layer,
            sensitivity=info.sensitivity,
            range=stored,
            seen=self.record.histograms.get(info.output),
            changes=tuple(self._change(info.name, bits) for bits in _WIDER if bits > self.bits[info.name]),
        )

    def _change(self, name: str, bits: float) -> Change:
        info, now = self.infos[name], self.bits[name]
        others = [width for other, width in self.bits.items() if other != name]
        size = stored_bytes(self.record, info, bits) - stored_bytes(self.record, info, now)
        size += self._tables((*others, bits)) - self._tables((*others, now))
        damage = info.sensitivity.get(bits, 0.0) - info.sensitivity.get(now, 0.0)
        before, after = (estimated_drop(self.record, total) for total in (self.damage, self.damage + damage))
        return Change(bits, size, damage, after - before)

    def _tables(self, widths: tuple[float, ...]) -> int:
        key = frozenset(widths)
        if key not in self._shared:
            self._shared[key] = trellis_bytes(self.record.layers, key)
        return self._shared[key]
