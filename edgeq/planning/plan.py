"""How many bits each layer gets, and why. Needs a calibration record, neither the network nor torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from edgeq.artifacts.record import CalibrationRecord, LayerInfo
from edgeq.errors import UnsupportedError
from edgeq.numerics.weights import BitWidth
from edgeq.planning.allocate import allocate
from edgeq.planning.budget import Budget, estimated_drop
from edgeq.planning.cost import FLOAT_BITS, bitops, bitops_with_accumulator, file_bytes, layer_bytes

VERSION: Final = 2
FIXED: Final = {"fp32": FLOAT_BITS, "8bit": 8, "4bit": 4, "2bit": 2}
SCHEMES: Final = (*FIXED, "adaptive")
POLICIES: Final = ("mix", "position")

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

    @property
    def damage(self) -> float:
        """What the width of this layer alone does to the output, in nats; see `LayerInfo.damage`."""
        return self.layer.damage.get(self.bits, 0.0)


@dataclass(frozen=True)
class PrecisionPlan:
    """Widths for a whole network.

    Attributes:
        scheme: one of `SCHEMES`.
        act_bits: 8, or 32 for float activations.
        layers: in order of execution.
        file_bytes: of the ONNX file, as `edgeq.planning.cost.file_bytes` predicts it.
        drop: estimated loss of top-1 accuracy in points, without training; see `edgeq.planning.budget.estimated_drop`.
        policy: one of `POLICIES`, None for a fixed scheme.
        budget: as the user wrote it, if there is one.
        missed: where no widths meet the budget, what was expected and what is possible, in one line.
        portable: whether 8-bit weights are to be within -63..63; see `edgeq.numerics.weights.BitWidth`.
    """

    scheme: str
    act_bits: int
    layers: tuple[LayerPlan, ...]
    file_bytes: int
    drop: float
    policy: str | None = None
    budget: str | None = None
    missed: str | None = None
    portable: bool = False

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

    @property
    def damage(self) -> float:
        """Damage of all layers, in nats, summed."""
        return sum(item.damage for item in self.layers)

    @property
    def worst(self) -> frozenset[str]:
        """The fewest layers that do at least half of the damage together."""
        return frozenset(self._worst())

    def _worst(self) -> Iterator[str]:
        left = self.damage / 2
        for item in sorted(self.layers, key=lambda item: -item.damage):
            if left <= 0:
                return
            left -= item.damage
            yield item.layer.name

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "scheme": self.scheme,
            "policy": self.policy,
            "budget": self.budget,
            "missed": self.missed,
            "portable": self.portable,
            "act_bits": self.act_bits,
            "macs": sum(item.layer.macs for item in self.layers),
            "bitops": self.bitops,
            "bitops_with_accumulator": sum(
                bitops_with_accumulator(item.layer, item.bits, self.act_bits) for item in self.layers
            ),
            "bytes": self.bytes,
            "file_bytes": self.file_bytes,
            "damage": self.damage,
            "drop": self.drop,
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
                    "damage": item.damage,
                    "reason": item.reason,
                }
                for item in self.layers
            ],
        }


def plan(
    record: CalibrationRecord,
    scheme: str,
    act_bits: int = 8,
    budget: str | None = None,
    policy: str = "mix",
    portable: bool = False,
) -> PrecisionPlan:
    """Choose the width of every layer.

    Args:
        record: of the network.
        scheme: `8bit`, `4bit`, `2bit`: that width everywhere; `fp32`: nothing is quantized; `adaptive`: by policy.
        act_bits: 8 for uint8 activations, 32 for float ones.
        budget: see `edgeq.planning.budget.Budget.parse`; None, for the policy `mix`, is the file size of the policy
            `position`.
        policy: `mix`: the widths that do the least damage within the budget, see `edgeq.planning.allocate`; `position`:
            see `POSITION_RULE`.
        portable: keep 8-bit weights within -63..63, for CPUs whose kernels overflow beyond.

    Returns:
        The width of every layer, and what the network costs then. If no widths meet the budget, the closest ones, and
        `missed` says by how much.

    Raises:
        UnsupportedError: unknown scheme, policy, budget or activation width, or ones that do not go together.

    Example:
        >>> edgeq.plan(record, "4bit").bits
        {'0': 4, '4': 4}
        >>> edgeq.plan(record, "adaptive", budget="size=1B").missed is None
        False
    """
    check_options(scheme, act_bits, budget, policy, portable)
    if portable:
        return replace(plan(_in_larger_steps(record), scheme, act_bits, budget, policy), portable=True)
    if scheme != "adaptive":
        bits = FIXED[scheme]
        layers = tuple(LayerPlan(layer, bits, f"all at {bits} bits") for layer in record.layers)
        return _plan(record, scheme, FLOAT_BITS if scheme == "fp32" else act_bits, layers)
    by_position = _plan(record, scheme, act_bits, _by_position(record.layers), policy="position")
    if policy == "position":
        return by_position
    limit = Budget.parse(budget) if budget else Budget("", "size", by_position.file_bytes)
    chosen, met = allocate(record, act_bits, limit)
    layers = tuple(_mixed(layer, chosen[layer.name], act_bits, limit) for layer in record.layers)
    found = _plan(record, scheme, act_bits, layers, policy=policy, budget=budget)
    if met:
        return found
    least = {"size": found.file_bytes, "bitops": found.bitops, "drop": found.drop}[limit.kind]
    return replace(found, missed=missed_text(limit, least))


def _in_larger_steps(record: CalibrationRecord) -> CalibrationRecord:
    """The record with the damage of portable 8 bits: it goes with the square of the step."""
    larger = (BitWidth(8).highest / BitWidth(8, portable=True).highest) ** 2
    damages = [{**layer.damage, 8: layer.damage[8] * larger} for layer in record.layers]
    layers = [replace(layer, damage=damage) for layer, damage in zip(record.layers, damages, strict=True)]
    return replace(record, layers=tuple(layers))


def check_options(
    scheme: str, act_bits: int = 8, budget: str | None = None, policy: str = "mix", portable: bool = False
) -> None:
    """Check the options of `plan`, which needs a record; a wrong one should not cost a calibration.

    Raises:
        UnsupportedError: as `plan` does.
    """
    if scheme not in SCHEMES:
        raise UnsupportedError(f"unknown scheme {scheme!r}; expected one of {', '.join(SCHEMES)}")
    if act_bits not in (8, FLOAT_BITS):
        raise UnsupportedError(f"activations of {act_bits} bits; expected 8 or 32")
    if policy not in POLICIES:
        raise UnsupportedError(f"unknown policy {policy!r}; expected one of {', '.join(POLICIES)}")
    if policy == "position" and scheme != "adaptive":
        raise UnsupportedError(f"policy position: expected scheme adaptive, found {scheme}; leave out one of them")
    if portable and FLOAT_BITS in (FIXED.get(scheme), act_bits):
        raise UnsupportedError("portable: expected weights and activations in integers, found float; leave it out")
    if budget is None:
        return
    Budget.parse(budget)
    if (scheme, policy) != ("adaptive", "mix"):
        found = f"policy {policy}" if scheme == "adaptive" else f"scheme {scheme}"
        raise UnsupportedError(f"budget {budget}: expected scheme adaptive with policy mix, found {found}")


def _plan(
    record: CalibrationRecord,
    scheme: str,
    act_bits: int,
    layers: tuple[LayerPlan, ...],
    policy: str | None = None,
    budget: str | None = None,
) -> PrecisionPlan:
    size = file_bytes(record, {item.layer.name: item.bits for item in layers})
    drop = estimated_drop(record, sum(item.damage for item in layers))
    return PrecisionPlan(scheme, act_bits, layers, size, drop, policy, budget)


def _mixed(layer: LayerInfo, bits: int, act_bits: int, budget: Budget) -> LayerPlan:
    """The reason is what the width saves of the thing that the budget limits."""
    if bits == 8:
        return LayerPlan(layer, bits, "kept at 8 bits")
    if budget.kind == "bitops":
        saved = bitops(layer, 8, act_bits) - bitops(layer, bits, act_bits)
        return LayerPlan(layer, bits, f"saves {saved / 1e6:,.0f} MBitOps")
    return LayerPlan(layer, bits, f"saves {(layer_bytes(layer, 8) - layer_bytes(layer, bits)) / 1e3:,.1f} kB")


def missed_text(budget: Budget, least: float) -> str:
    """One line on a budget of which `least` bytes, BitOps or points is the closest that there is."""
    expected, found = {
        "size": (f"a file of at most {budget.limit:,.0f} bytes", f"{least:,.0f}"),
        "bitops": (f"at most {budget.limit / 1e6:,.5g} M BitOps", f"{least / 1e6:,.5g} M"),
        "drop": (f"an estimated drop of at most {budget.limit:g} points", f"{least:.2g}"),
    }[budget.kind]
    return f"budget {budget.text}: expected {expected}, the least possible is {found}; allow a little more than that"


def _by_position(layers: tuple[LayerInfo, ...]) -> tuple[LayerPlan, ...]:
    free = [layer for layer in layers if layer.kind != "depthwise" and layer.position > 0]
    depth = {layer.name: i / len(free) for i, layer in enumerate(free)}
    planned = []
    for layer in layers:
        if layer.name not in depth:
            bits, reason = 8, "stem" if layer.position == 0 else "depthwise"
        else:
            bits = 8 if depth[layer.name] < HIGH_UNTIL else 4 if depth[layer.name] < LOW_FROM else 2
            reason = f"{depth[layer.name]:.0%} of the depth"
        planned.append(LayerPlan(layer, bits, reason))
    return tuple(planned)
