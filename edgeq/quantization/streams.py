"""Run all calibration images through a network together, layer by layer.

Rounding a layer needs its inputs for every image, with all layers before it already rounded. Running the network from
the start for each layer would take one pass for each layer; keeping every activation would take gigabytes. A `Stream`
keeps only values that later layers need, in few bits, and recomputes large maps from smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from math import inf, prod
from typing import Final, cast

import torch
from torch import Tensor, nn

from edgeq.ir.analysis import residual_inputs
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.native.library import is_compiled
from edgeq.numerics.activations import ActivationRange
from edgeq.packed.activations import ActivationQuantizer
from edgeq.quantization.augment import in_half
from edgeq.quantization.native_quantizer import NativeQuantizer
from edgeq.system.threads import side_by_side

_KEPT: Final = 500_000_000  # most values that a stream keeps for all images, besides the images
_MAP: Final = 3  # dimensions of a map, without the batch
_TOGETHER: Final = 400_000  # most values of a map that are computed at a time; they stay in a CPU's cache


def kept_after(graph: Graph, most: int) -> dict[str, frozenset[str]]:
    """Choose which values of a network to keep while it runs node by node.

    Candidates are the inputs of layers and the residual inputs added to their outputs, as these are asked for. If they
    exceed the limit, the largest ones are not kept, but recomputed from earlier values, which are kept as long.

    Args:
        graph: graph of the network.
        most: most numbers to keep at a time for one image, besides the image itself.

    Returns:
        For each node, the names of the values to keep once it has run.
    """
    sizes = {node.name: prod(node.shape) for node in graph.nodes}
    wanted = {node.inputs[0] for node in graph.nodes if OPS[node.op].weighted} | set(residual_inputs(graph).values())
    given = {*graph.input_values}
    for largest in (*sorted({sizes[name] for name in wanted - given}, reverse=True), 0):
        found, kept, peak = {}, {*given}, 0
        for i, node in enumerate(graph.nodes):
            if node.name in wanted and sizes[node.name] <= largest:
                kept.add(node.name)
            peak = max(peak, sum(sizes[name] for name in kept - given))
            kept &= _sources(graph, graph.nodes[i + 1 :], kept)
            found[node.name] = frozenset(kept)
        if peak <= most:
            break
    return found


def _sources(graph: Graph, ahead: Sequence[Node], kept: Set[str]) -> set[str]:
    """Return the values that the nodes ahead read and, if one is not kept, those that it is computed from."""
    nodes = {node.name: node for node in graph.nodes}
    found: set[str] = set()
    waiting = [name for node in ahead for name in node.inputs]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += nodes[name].inputs if name in nodes and name not in kept else ()
    return found


class Stream:
    """The values of a network for a list of batches, computed node by node.

    Args:
        network: the network to run.
        inputs: for each input, by what nodes read it by, its batches `[n, *shape]`: float32, float16, or uint8 codes of
            the input's range; held as they are.
        ranges: ranges of the values that are stored in uint8, by name; empty for float activations.
        rounded: whether these values are rounded to uint8, or only clipped to their ranges.
    """

    def __init__(
        self,
        network: Network,
        inputs: Mapping[str, Sequence[Tensor]],
        ranges: Mapping[str, ActivationRange],
        rounded: bool,
    ) -> None:
        self.network = network
        first, *_ = inputs.values()
        self.sizes = [len(x) for x in first]
        self._ranges, self._inputs = ranges, frozenset(inputs)
        self._quantizers = {
            name: (NativeQuantizer if is_compiled() else ActivationQuantizer)(found.scale, found.zero_point)
            for name, found in ranges.items()
            if rounded or (name in inputs and inputs[name][0].dtype == torch.uint8)
        }
        self._nodes = {node.name: node for node in network.graph.nodes}
        self._uses = network.graph.uses()
        self._replaced: dict[str, nn.Module] = {}
        self._kept_after = kept_after(network.graph, _KEPT // sum(self.sizes))
        self._kept = {name: list(batches) for name, batches in inputs.items()}

    def replace(self, name: str, layer: nn.Module) -> None:
        """Use another module for a layer from now on."""
        self._replaced[name] = layer

    def parts(self, name: str, batch: int) -> Iterator[Tensor]:
        """Return the output of a node for one batch, float32, after its quantizer, a few images at a time."""
        for images in self._images(name, batch):
            yield self._value(name, batch, images, {})

    def _images(self, name: str, batch: int) -> Iterator[slice]:
        """Split a batch into images that are computed together on the way to a value."""
        computed, waiting = dict[str, int](), [name]
        while waiting:
            node = self._nodes.get(waiting.pop())
            if node and node.name not in self._kept.keys() | computed.keys():
                computed[node.name] = prod(node.shape)
                waiting += node.inputs
        count = max(_TOGETHER // max(computed.values(), default=1), 1)
        for start in range(0, self.sizes[batch], count):
            yield slice(start, start + count)

    def _value(self, name: str, batch: int, images: slice, found: dict[str, Tensor]) -> Tensor:
        """Compute a value; `found` caches values with several uses, which would take exponential time otherwise."""
        if name in found:
            return found[name]
        if name in self._inputs:
            kept = self._kept[name][batch][images]
            x = self._decode(name, kept) if kept.dtype == torch.uint8 else self._quantized(name, kept.float())
        elif name in self._kept:
            x = self._decode(name, self._kept[name][batch][images])
        else:
            x = self._quantized(name, self._unquantized(name, batch, images, found))
        if self._uses[name] > 1:
            found[name] = x
        return x

    def _unquantized(self, name: str, batch: int, images: slice, found: dict[str, Tensor]) -> Tensor:
        """Compute a node from its inputs, which have passed their quantizers."""
        node, replaced = self._nodes[name], self._replaced.get(name)
        inputs = [self._value(source, batch, images, found) for source in node.inputs]
        if OPS[node.op].clipping and (kept := self._ranges.get(name)):
            low, high = 0.0, float(node.attrs.get("max", inf))
            if kept.low == low and kept.high < high + kept.scale / 2:
                return inputs[0]  # its range clips it
        return self.network.run(node, inputs) if replaced is None else cast(Tensor, replaced(*inputs))

    def advance(self, node: Node) -> None:
        """Move past a node: keep its output if `kept_after` says so, and free values that are needed no more."""
        keep = self._kept_after[node.name]
        if node.name in keep:
            self._kept[node.name] = self._computed(node.name)
        for name in self._kept.keys() - keep:
            del self._kept[name]

    def _computed(self, name: str) -> list[Tensor]:
        """Return the output of a node for all batches, encoded to be kept.

        All are views of one tensor. Many small tensors would be scattered between short-lived ones, and their memory
        could not be returned to the system.
        """

        shape, dtype = self._nodes[name].shape, torch.uint8 if name in self._quantizers else torch.float16
        layout = torch.channels_last if len(shape) == _MAP else torch.contiguous_format
        whole = torch.empty((sum(self.sizes), *shape), dtype=dtype, memory_format=layout)
        parts = list(torch.split(whole, self.sizes))

        def encoded(batch: int) -> Tensor:
            made = [
                self._encode(name, self._unquantized(name, batch, images, {})) for images in self._images(name, batch)
            ]
            if any(part.dtype != dtype for part in made):
                return torch.cat(made)  # float32, as a value does not fit float16
            return torch.cat(made, out=parts[batch])

        return list(side_by_side(encoded, range(len(self.sizes))))

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        if name in self._quantizers:
            return cast(Tensor, self._quantizers[name](x))
        found = self._ranges.get(name)
        return x if found is None else x.clamp(found.low, found.high)

    def _encode(self, name: str, x: Tensor) -> Tensor:
        """Encode what a node makes, to be kept: what its quantizer makes of it."""
        if name in self._quantizers:
            return self._quantizers[name].codes(x)
        found = self._ranges.get(name)
        if found is None or max(-found.low, found.high) > torch.finfo(torch.float16).max:
            return in_half(self._quantized(name, x))
        return x.clamp(found.low, found.high).half()

    def _decode(self, name: str, kept: Tensor) -> Tensor:
        quantizer = self._quantizers.get(name)
        return kept.float() if quantizer is None else quantizer.values(kept)
