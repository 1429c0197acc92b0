"""How many bits each layer gets, and why. Needs a calibration record, neither the network nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeq.cost import FLOAT_BITS, bitops, bitops_with_accumulator, layer_bytes
from edgeq.errors import UnsupportedError
from edgeq.record import CalibrationRecord, LayerInfo

VERSION: Final = 1
FIXED: Final = {"fp32": FLOAT_BITS, "8bit": 8, "4bit": 4, "2bit": 2}
SCHEMES: Final = (*FIXED, "adaptive")

HIGH_UNTIL: Final = 1 / 4  # of the depth: 8 bits before
LOW_FROM: Final = 15 / 16  # of the depth: 2 bits from here
POSITION_RULE: Final = (
    "stem and depthwise layers 8 bits (they are 2 % of the bytes and the most sensitive); the others by position: "
    "the first quarter 8 bits, the last sixteenth 2 bits, those between 4 bits"
)


@dataclass(frozen=True)
class LayerPlan:
    """The width of one layer and the reason for it."""

    layer: LayerInfo
    bits: int
    reason: str


@dataclass(frozen=True)
class PrecisionPlan:
    """Widths for a whole network.

    Attributes:
        scheme: one of `SCHEMES`.
        act_bits: 8, or 32 for float activations.
        layers: in order of execution.
    """

    scheme: str
    act_bits: int
    layers: tuple[LayerPlan, ...]

    @property
    def bits(self) -> Mapping[str, int]:
        """Width of each layer by name."""
        return {item.layer.name: item.bits for item in self.layers}

    @property
    def bytes(self) -> int:
        """Bytes of all weights, scales and biases."""
        return sum(layer_bytes(item.layer, item.bits) for item in self.layers)

    @property
    def bitops(self) -> int:
        """MACs x weight bits x activation bits, summed."""
        return sum(bitops(item.layer, item.bits, self.act_bits) for item in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "scheme": self.scheme,
            "act_bits": self.act_bits,
            "macs": sum(item.layer.macs for item in self.layers),
            "bitops": self.bitops,
            "bitops_with_accumulator": sum(
                bitops_with_accumulator(item.layer, item.bits, self.act_bits) for item in self.layers
            ),
            "bytes": self.bytes,
            "layers": [
                {
                    "name": item.layer.name,
                    "kind": item.layer.kind,
                    "shape": list(item.layer.shape),
                    "position": item.layer.position,
                    "bits": item.bits,
                    "act_bits": self.act_bits,
                    "macs": item.layer.macs,
                    "weights": item.layer.weights,
                    "bytes": layer_bytes(item.layer, item.bits),
                    "bitops": bitops(item.layer, item.bits, self.act_bits),
                    "error": item.layer.errors.get(item.bits, 0.0),
                    "reason": item.reason,
                }
                for item in self.layers
            ],
        }


def plan(record: CalibrationRecord, scheme: str, act_bits: int = 8) -> PrecisionPlan:
    """Choose the width of every layer.

    Args:
        record: of the network.
        scheme: `8bit`, `4bit`, `2bit`: that width everywhere; `fp32`: nothing is quantized; `adaptive`: by position,
            see `POSITION_RULE`.
        act_bits: 8 for uint8 activations, 32 for float ones.

    Raises:
        UnsupportedError: unknown scheme or activation width.
    """
    if scheme not in SCHEMES:
        raise UnsupportedError(f"unknown scheme {scheme!r}; expected one of {', '.join(SCHEMES)}")
    if act_bits not in (8, FLOAT_BITS):
        raise UnsupportedError(f"activations of {act_bits} bits; expected 8 or 32")
    if scheme == "adaptive":
        return PrecisionPlan(scheme, act_bits, _by_position(record.layers))
    bits = FIXED[scheme]
    layers = tuple(LayerPlan(layer, bits, f"every layer {bits} bits") for layer in record.layers)
    return PrecisionPlan(scheme, FLOAT_BITS if scheme == "fp32" else act_bits, layers)


def _by_position(layers: tuple[LayerInfo, ...]) -> tuple[LayerPlan, ...]:
    free = [layer for layer in layers if layer.kind != "depthwise" and layer.position > 0]
    depth = {layer.name: i / len(free) for i, layer in enumerate(free)}
    planned = []
    for layer in layers:
        if layer.name not in depth:
            bits, reason = 8, "stem" if layer.position == 0 else "depthwise"
        else:
            bits = 8 if depth[layer.name] < HIGH_UNTIL else 4 if depth[layer.name] < LOW_FROM else 2
            reason = f"at {depth[layer.name]:.0%} of the depth"
        planned.append(LayerPlan(layer, bits, reason))
    return tuple(planned)
