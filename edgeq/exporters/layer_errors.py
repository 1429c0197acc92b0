"""How far the output of each layer is from what it is in the float network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import log10
from typing import Final

import torch
from torch import Tensor

from edgeq.ir.batches import Images
from edgeq.ir.network import Network

_TOGETHER: Final = 2  # images whose values are kept at once


def layer_sqnr(packed: Network, outputs: Mapping[str, str], images: Images) -> dict[str, float | None]:
    """Compare the output of every layer with that in the float network, all layers before it quantized as well.

    Args:
        packed: from `edgeq.packed.pack.pack`; its `original` is the float network.
        outputs: for each layer, the value of the float network that its output is stored as.
        images: what the network takes for some images.

    Returns:
        For each layer, 10 log10(sum float^2 / sum (float - quantized)^2) over all values of all images, in dB; None if
        there is no noise, or no signal. Empty if the float network is unknown.
    """
    original = packed.original
    if original is None:
        return {}
    nodes = {node.name for node in packed.graph.nodes}
    stored = {name: f"{name}.q" if f"{name}.q" in nodes else name for name in outputs.values()}
    signal: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    with torch.inference_mode():
        for first in range(0, len(images), _TOGETHER):
            taken = images[first : first + _TOGETHER]
            expected = original.values(taken.tensors(original), list(stored))
            found = packed.values(taken.tensors(original), list(stored.values()))
            for name, value in stored.items():
                signal[name] += _power(expected[name])
                noise[name] += _power(expected[name] - found[value])
    return {
        layer: 10 * log10(signal[name] / noise[name]) if signal[name] and noise[name] else None
        for layer, name in outputs.items()
    }


def _power(x: Tensor) -> float:
    """The sum of squares, in float64."""
    return float(x.double().square().sum())
