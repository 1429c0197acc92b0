"""The recipe of an export: all its options in one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Final

from edgeq.errors import UnsupportedError
from edgeq.planning.budget import Budget
from edgeq.planning.cost import FLOAT_BITS

FIXED: Final = {"fp32": FLOAT_BITS, "8bit": 8, "4bit": 4, "2bit": 2}
SCHEMES: Final = (*FIXED, "adaptive")
POLICIES: Final = ("mix", "position")
INPUTS: Final = ("float", "uint8")


def check_seed(seed: int) -> None:
    """Refuse what the generators of NumPy and torch do not both take.

    Raises:
        UnsupportedError: the seed is no whole number from 0 to 2^31 - 1.
    """
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise UnsupportedError(f"seed: expected a whole number from 0 to {2**31 - 1}, found {seed!r}")


@dataclass(frozen=True)
class Effort:
    """How much work rounding and tuning do; `benchmarks/accuracy.py` measures what that takes and gains.

    Attributes:
        augmentations: augmentations of every calibration image for rounding: the image itself, and random crops; see
            `edgeq.quantization.augment`.
        samples: patches sampled for a layer, over all augmentations, as a multiple of its fan-in.
        steps: steps of training scales and biases, see `edgeq.tune`.
        by_output: whether each output of a layer has statistics of its own at any width, not at 2 bits and less alone,
            see `edgeq.quantization.sampling`.
    """

    augmentations: int
    samples: int
    steps: int
    by_output: bool = False


EFFORTS: Final = {"fast": Effort(1, 100, 0), "balanced": Effort(3, 300, 200, True), "best": Effort(5, 300, 400, True)}


@dataclass(frozen=True)
class Recipe:
    """How a network is quantized and exported.

    Attributes:
        scheme: `8bit`, `4bit` or `2bit`: weights of that width everywhere; `adaptive`: layer by layer, see `policy`;
            `fp32`: nothing is quantized.
        act_bits: 8 for uint8 activations, 32 for float activations.
        budget: what an adaptive network may cost, see `Budget.parse`; None is the file size of the policy `position`.
        policy: how the scheme `adaptive` chooses widths: `mix` takes those with the least sensitivity within the
            budget, see `edgeq.planning.allocate`; `position` follows `edgeq.planning.plan.POSITION_RULE`.
        reduce_range: keep 8-bit weights within -63..63, for CPUs whose kernels overflow beyond, see
            `edgeq.numerics.weights.BitWidth`.
        effort: a key of `EFFORTS`.
        seed: seed of the choice of sampled positions, images and crops.
        input: `float`: the file takes normalized images, float32 `[n, C, H, W]`; `uint8`: it takes pixels, uint8
            `[n, H, W, C]`.

    Raises:
        UnsupportedError: an unknown value, or options that exclude each other.
    """

    scheme: str
    act_bits: int = 8
    budget: str | None = None
    policy: str = "mix"
    reduce_range: bool = False
    effort: str = "fast"
    seed: int = 0
    input: str = "float"

    def __post_init__(self) -> None:
        self._check_types()
        known = {"effort": EFFORTS, "scheme": SCHEMES, "policy": POLICIES, "input": INPUTS}
        for name, values in known.items():
            if (found := getattr(self, name)) not in values:
                raise UnsupportedError(f"unknown {name} {found!r}; expected one of {', '.join(values)}")
        if self.act_bits not in (8, FLOAT_BITS):
            raise UnsupportedError(f"activations of {self.act_bits} bits; expected 8 or 32")
        if self.policy == "position" and self.scheme != "adaptive":
            raise UnsupportedError(
                f"policy position: expected scheme adaptive, found {self.scheme}; leave out one of them"
            )
        if self.reduce_range and FLOAT_BITS in (FIXED.get(self.scheme), self.act_bits):
            raise UnsupportedError(
                "reduced range: expected weights and activations in integers, found float; leave it out"
            )
        if self.budget is not None:
            self._check_budget(self.budget)

    def _check_types(self) -> None:
        kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("scheme", "policy", "effort", "input"), (str,))
        kinds |= {"budget": (str, NoneType), "act_bits": (int,), "seed": (int,), "reduce_range": (bool,)}
        for name, allowed in kinds.items():
            if type(found := getattr(self, name)) not in allowed:
                expected = " or ".join(kind.__name__ for kind in allowed)
                raise UnsupportedError(f"{name}: expected {expected}, found {found!r}")
        check_seed(self.seed)

    def _check_budget(self, budget: str) -> None:
        Budget.parse(budget)
        if (self.scheme, self.policy) != ("adaptive", "mix"):
            found = f"policy {self.policy}" if self.scheme == "adaptive" else f"scheme {self.scheme}"
            raise UnsupportedError(f"budget {budget}: expected scheme adaptive with policy mix, found {found}")

    @property
    def work(self) -> Effort:
        """The `Effort` that the name `effort` stands for."""
        return EFFORTS[self.effort]

    @property
    def name(self) -> str:
        """The part of file names that tells this recipe from others."""
        parts = [self.scheme]
        if self.policy == "position":
            parts.append(self.policy)
        if self.budget:
            parts.append(self.budget.replace("=", "-"))
        if self.act_bits == FLOAT_BITS and self.scheme != "fp32":
            parts.append("a32")
        if self.reduce_range:
            parts.append("portable")
        if self.input == "uint8":
            parts.append(self.input)
        return "-".join(parts)
