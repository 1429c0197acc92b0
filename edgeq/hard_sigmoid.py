"""Hard sigmoids without leaving uint8, and with them hard swishes, `x * hard_sigmoid(x)`.

A hard sigmoid is `clip(x + 3, 0, 6) / 6`. If the lowest level of `x` is -3, a code `c` stands for `scale * c - 3`, and
its hard sigmoid is `scale / 6 * min(c, 6 / scale)`: the same bytes, clipped, with another scale. For that, 3 has to be
a whole number of steps. Nothing is lost: both functions are 0 for all that is below.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.graph import INPUT, Graph, Node
from edgeq.quantize import ActivationRange


def fitted(graph: Graph, ranges: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
    """Move the lowest level of what is read by a hard sigmoid or hard swish alone to -3.

    The levels of such a hard sigmoid are then those of its input, a sixth as far apart.

    Args:
        graph: of the float network.
        ranges: of every value that gets a quantizer.
    """
    alone, uses, found = _alone(graph) - {INPUT}, graph.uses(), dict(ranges)
    for node in graph.nodes:
        if node.op in ("hardsigmoid", "hardswish") and (source := node.inputs[0]) in alone and uses[source] == 1:
            high = ranges[source].high if node.op == "hardswish" else min(ranges[source].high, 3.0)
            if steps := int(255 * 3 / (3 + high)):
                scale = float(np.float32(3 / steps))
                found[source] = ActivationRange(-steps * scale, (255 - steps) * scale, scale, steps)
                if node.op == "hardsigmoid" and node.name in alone:
                    sixth = float(np.float32(scale / 6))
                    found[node.name] = ActivationRange(0.0, 255 * sixth, sixth, 0)
    return found


def from_minus_three(found: ActivationRange) -> bool:
    """Whether the lowest level of a range is -3."""
    return _is_three(found.scale, found.zero_point)


def on_levels(graph: Graph, ranges: Mapping[str, ActivationRange]) -> set[str]:
    """The hard sigmoids of a float network that need no quantizer, because their values are levels as they are."""
    gates = [node for node in graph.nodes if node.op == "hardsigmoid" and from_minus_three(ranges[node.inputs[0]])]
    return {node.name for node in gates} & _alone(graph)


def clips_codes(node: Node, source: Node | None) -> bool:
    """Whether a node of a quantized network is a hard sigmoid of what `source` makes, whose lowest level is -3."""
    if node.op != "hardsigmoid" or source is None or source.op != "quantize":
        return False
    return _is_three(source.attrs["scale"], source.attrs["zero_point"])


def _alone(graph: Graph) -> set[str]:
    """The values that share their quantizer with no other."""
    return {group[0] for group in graph.quantizer_groups() if len(group) == 1}


def _is_three(scale: float, steps: int) -> bool:
    return abs(scale * steps - 3) < 1e-5
