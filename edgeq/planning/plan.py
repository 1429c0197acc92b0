"""Plan the bit width of every layer. Needs only the calibration record: neither the network nor torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from edgeq.artifacts.record import CalibrationRecord, LayerInfo
from edgeq.numerics.weights import BitWidth
from edgeq.planning.allocate import allocate
from edgeq.planning.budget import Budget, estimated_drop
from edgeq.planning.cost import FLOAT_BITS, bitops, bitops_with_accumulator, file_bytes, layer_bytes
from edgeq.planning.recipe import FIXED, Recipe
from edgeq.tasks.words import words

VERSION: Final = 2

HIGH_UNTIL: Final = 1 / 4  # share of the depth with 8 bits, from the input
LOW_FROM: Final = 15 / 16  # share of the depth from which layers get 2 bits
POSITION_RULE: Final = (
    "stem and depthwise layers 8 bits (they are 2 % of the bytes and the most sensitive); the others by position: "
    "the first quarter 8 bits, the last sixteenth 2 bits, those between 4 bits"
)


@dataclass(frozen=True)
class LayerPlan:
    """The width of one layer and the reason for it."""

    layer: LayerInfo
    bits: float
    reason: str

    @property
    def sensitivity(self) -> float:
        """Sensitivity of the layer at its width; see `LayerInfo.sensitivity`."""
        return self.layer.sensitivity.get(self.bits, 0.0)


@dataclass(frozen=True)
class PrecisionPlan:
    """The width of every layer of a network, and what the network then costs.

    Attributes:
        recipe: the recipe that the plan follows.
        layers: the layers in order of execution.
        file_bytes: bytes of the ONNX file, as `edgeq.planning.cost.file_bytes` predicts them.
        drop: estimated loss in points, without tuning; see `edgeq.planning.budget.estimated_drop`.
        tasks: those of the network's outputs, which say what sensitivities and drops are; see `edgeq.tasks.words`.
        missed: None if the budget is met; else a line that says what was expected and what is possible.
    """

    recipe: Recipe
    layers: tuple[LayerPlan, ...]
    file_bytes: int
    drop: float
    tasks: tuple[str, ...]
    missed: str | None = None

    @property
    def act_bits(self) -> int:
        """Bits of the activations: 8, or 32 for float."""
        return FLOAT_BITS if self.recipe.scheme == "fp32" else self.recipe.act_bits

    @property
    def policy(self) -> str | None:
        """Policy of an adaptive plan; None for the other schemes."""
        return self.recipe.policy if self.recipe.scheme == "adaptive" else None

    @property
    def bits(self) -> Mapping[str, float]:
        """Width of each layer by name."""
        return {item.layer.name: item.bits for item in self.layers}

    @property
    def bytes(self) -> int:
        """Bytes of all weights, scales and biases."""
        return sum(layer_bytes(item.layer, item.bits) for item in self.layers)

    @property
    def bitops(self) -> int:
        """MACs x weight bits x activation bits, summed over the layers."""
        return sum(bitops(item.layer.macs, item.bits, self.act_bits) for item in self.layers)

    @property
    def sensitivity(self) -> float:
        """Predicted divergence from the float network: the sum of the layers' sensitivities."""
        return sum(item.sensitivity for item in self.layers)

    @property
    def worst(self) -> frozenset[str]:
        """The fewest layers that together have at least half of the sensitivity."""
        return frozenset(self._worst())

    def _worst(self) -> Iterator[str]:
        left = self.sensitivity / 2
        for item in sorted(self.layers, key=lambda item: -item.sensitivity):
            if left <= 0:
                return
            left -= item.sensitivity
            yield item.layer.name

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "scheme": self.recipe.scheme,
            "policy": self.policy,
            "budget": self.recipe.budget,
            "missed": self.missed,
            "portable": self.recipe.reduce_range,
            "act_bits": self.act_bits,
            "macs": sum(item.layer.macs for item in self.layers),
            "bitops": self.bitops,
            "bitops_with_accumulator": sum(
                bitops_with_accumulator(item.layer, item.bits, self.act_bits) for item in self.layers
            ),
            "bytes": self.bytes,
            "file_bytes": self.file_bytes,
            "damage": self.sensitivity,
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
                    "bitops": bitops(item.layer.macs, item.bits, self.act_bits),
                    "damage": item.sensitivity,
                    "reason": item.reason,
                }
                for item in self.layers
            ],
        }


def plan(record: CalibrationRecord, recipe: Recipe | str) -> PrecisionPlan:
    """Choose the width of every layer.

    Args:
        record: calibration record of the network.
        recipe: the recipe to follow; a scheme alone stands for `Recipe(scheme)`.

    Returns:
        The width of every layer, and what the network then costs. If no widths meet the budget, the plan has those that
        come closest, and `missed` says by how much they miss it.

    Raises:
        UnsupportedError: an unknown scheme.

    Example:
        >>> edgeq.plan(record, "4bit").bits
        {'0': 4, '4': 4}
        >>> edgeq.plan(record, edgeq.Recipe("adaptive", budget="size=1B")).missed is None
        False
    """
    recipe = Recipe(recipe) if isinstance(recipe, str) else recipe
    if recipe.reduce_range:
        full_range = plan(in_larger_steps(record), replace(recipe, reduce_range=False))
        return replace(full_range, recipe=recipe)
    if recipe.scheme != "adaptive":
        bits = FIXED[recipe.scheme]
        return _plan(record, recipe, tuple(LayerPlan(layer, bits, f"all at {bits} bits") for layer in record.layers))
    by_position = _plan(record, recipe, _by_position(record.layers))
    if recipe.policy == "position":
        return by_position
    limit = Budget.parse(recipe.budget) if recipe.budget else Budget("", "size", by_position.file_bytes)
    chosen, met = allocate(record, recipe.act_bits, limit)
    found = _plan(
        record, recipe, tuple(_mixed(layer, chosen[layer.name], recipe.act_bits, limit) for layer in record.layers)
    )
    if met:
        return found
    least = {"size": found.file_bytes, "bitops": found.bitops, "drop": found.drop}[limit.kind]
    return replace(found, missed=missed_text(limit, least, found.tasks))


def in_larger_steps(record: CalibrationRecord) -> CalibrationRecord:
    """Scale the sensitivities at 8 bits to those of a reduced range: they grow with the square of the step."""
    larger = (BitWidth(8).highest / BitWidth(8, reduce_range=True).highest) ** 2
    layers = [
        replace(layer, sensitivity={**layer.sensitivity, 8: layer.sensitivity[8] * larger}) for layer in record.layers
    ]
    return replace(record, layers=tuple(layers))


def _plan(record: CalibrationRecord, recipe: Recipe, layers: tuple[LayerPlan, ...]) -> PrecisionPlan:
    size = file_bytes(record, {item.layer.name: item.bits for item in layers})
    drop = estimated_drop(record, sum(item.sensitivity for item in layers))
    return PrecisionPlan(recipe, layers, size, drop, tuple(output.task for output in record.outputs))


def _mixed(layer: LayerInfo, bits: float, act_bits: int, budget: Budget) -> LayerPlan:
    """Plan a layer with the saving, in bytes or BitOps as the budget counts, as the reason for its width."""
    if bits == 8:
        return LayerPlan(layer, bits, "kept at 8 bits")
    if budget.kind == "bitops":
        saved = bitops(layer.macs, 8, act_bits) - bitops(layer.macs, bits, act_bits)
        return LayerPlan(layer, bits, f"saves {saved / 1e6:,.0f} MBitOps")
    return LayerPlan(layer, bits, f"saves {(layer_bytes(layer, 8) - layer_bytes(layer, bits)) / 1e3:,.1f} kB")


def missed_text(budget: Budget, least: float, tasks: Sequence[str]) -> str:
    """Return a line about a budget that no plan meets; the closest one needs `least` bytes, BitOps or points.

    `tasks` are those of the network's outputs.
    """
    expected, found = {
        "size": (f"a file of at most {budget.limit:,.0f} bytes", f"{least:,.0f}"),
        "bitops": (f"at most {budget.limit / 1e6:,.5g} M BitOps", f"{least / 1e6:,.5g} M"),
        "drop": (f"an estimated drop of at most {budget.limit:g} {words(tasks).points}", f"{least:.2g}"),
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
