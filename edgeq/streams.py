"""All calibration images on their way through a network together, layer by layer.

Rounding a layer needs its inputs for every image, with all layers before it already rounded. Running the network from
the start for each layer would cost a pass a layer; keeping every activation would cost gigabytes. A `Stream` keeps
only values that the layers to come still need, in few bits, and computes large maps again from smaller ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final, cast

import torch
from torch import Tensor, nn

from edgeq.activations import ActivationQuantizer
from edgeq.graph import INPUT, Node
from edgeq.network import Network
from edgeq.quantize import ActivationRange

_KEPT: Final = 330_000_000  # values of all images together; larger maps are computed again when needed
_HALF_LIMIT: Final = 60_000.0  # float16 overflows above


class Stream:
    """The values of a network for a list of batches.

    Args:
        network: what runs.
        inputs: float32 or float16 `[n, *input_shape]` each; held as they are.
        ranges: of the values that are stored in uint8; empty for a network with float activations.
        rounded: whether those values are rounded to uint8, or only clipped to their range.
    """

    def __init__(
        self,
        network: Network,
        inputs: Sequence[Tensor],
        ranges: Mapping[str, ActivationRange],
        rounded: bool,
    ) -> None:
        self.network = network
        self.batches = len(inputs)
        self._sizes = [len(x) for x in inputs]
        self._largest = _KEPT // sum(self._sizes)
        self._ranges = ranges
        self._quantizers = {
            name: ActivationQuantizer(found.scale, found.zero_point) for name, found in ranges.items() if rounded
        }
        self._nodes = {node.name: node for node in network.graph.nodes}
        self._replaced: dict[str, nn.Module] = {}
        self._shapes = {node.name: node.shape for node in network.graph.nodes} | {INPUT: network.graph.input_shape}
        self._points = {name for group in network.graph.quantizer_groups() for name in group}
        self._ahead = list(network.graph.nodes)
        self._kept = {INPUT: list(inputs)}

    def replace(self, name: str, layer: nn.Module) -> None:
        """Use another module for one layer from now on."""
        self._replaced[name] = layer

    def value(self, name: str, batch: int) -> Tensor:
        """The output of a node for one batch, after its quantizer."""
        if name == INPUT:
            return self._quantized(INPUT, self._kept[INPUT][batch].float())
        if name in self._kept:
            return self._decode(name, self._kept[name][batch])
        node = self._nodes[name]
        inputs = [self.value(source, batch) for source in node.inputs]
        replaced = self._replaced.get(name)
        return self._quantized(name, self.network.run(node, inputs) if replaced is None else replaced(*inputs))

    def advance(self, node: Node) -> None:
        """Go past a node: keep its output unless it is large or only passes into an activation; forget what is no
        longer needed."""
        self._ahead.remove(node)
        if node.name in self._points and prod(self._shapes[node.name]) <= self._largest:
            self._kept[node.name] = self._computed(node.name)
        needed: set[str] = set()
        waiting = [name for later in self._ahead for name in later.inputs]
        while waiting:
            name = waiting.pop()
            if name in needed:
                continue
            needed.add(name)
            if name not in self._kept and name in self._nodes:
                waiting += self._nodes[name].inputs
        for name in self._kept.keys() - needed:
            del self._kept[name]

    def _computed(self, name: str) -> list[Tensor]:
        """The output of a node for all batches, as it is kept.

        All are parts of one tensor: many small ones would lie scattered between those that come and go, and their
        memory would not be given back.
        """
        first = self._encode(name, self.value(name, 0))
        layout = torch.channels_last if first.dim() == 4 else torch.contiguous_format
        whole = torch.empty((sum(self._sizes), *first.shape[1:]), dtype=first.dtype, memory_format=layout)
        parts = list(torch.split(whole, self._sizes))
        for batch, part in enumerate(parts):
            made = self._encode(name, self.value(name, batch)) if batch else first
            if made.dtype == part.dtype:
                part.copy_(made)
            else:  # it does not fit float16
                parts[batch] = made
        return parts

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        if name in self._quantizers:
            return cast(Tensor, self._quantizers[name](x))
        found = self._ranges.get(name)
        return x if found is None else x.clamp(found.low, found.high)

    def _encode(self, name: str, x: Tensor) -> Tensor:
        quantizer = self._quantizers.get(name)
        if quantizer is not None:
            return quantizer.codes(x)
        return x.half() if x.abs().max() < _HALF_LIMIT else x

    def _decode(self, name: str, kept: Tensor) -> Tensor:
        quantizer = self._quantizers.get(name)
        return kept.float() if quantizer is None else quantizer.values(kept)
