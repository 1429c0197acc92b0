"""Sample what a layer reads and what it should make of it.

For each layer, the patches `y` that it reads in the network quantized so far are sampled from augmentations of the
calibration images, with the target `t`: its output in the float network. If the output is added to a residual input,
the error of that input is part of the target, so that the layer compensates for it.

Where a ReLU or ReLU6 clips an output, its error does not matter, as long as it stays clipped. So at 2 bits and less,
and where the effort is `by_output` at any width, samples of an output that is clipped by more than half its standard
deviation count little, and each output has moments of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final, NamedTuple

import torch
from torch import Tensor

from edgeq.ir.analysis import clipped_layers, residual_inputs
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.planning.recipe import Effort
from edgeq.quantization.streams import Stream
from edgeq.rounding.moments import TOGETHER, by_group, patches, sample_positions
from edgeq.rounding.ridge import HALVES, Half
from edgeq.system.threads import side_by_side

_MIN_SAMPLES: Final = 4096  # least number of patches sampled for a layer
_POSITIONS: Final = 8  # sampled in an image, if they suffice; images that are not needed are skipped, which saves time
_FEW_BITS: Final = 2  # so few that moments of each output are worth their time at any effort
_BY_OUTPUT: Final = 26_000_000  # most numbers that the second moments of a layer's outputs may have
_SAMPLES_BY_OUTPUT: Final = 100  # most samples then, as a multiple of the fan-in: each costs as much as `out` others
_MARGIN: Final = 0.5  # how far an output is clipped before it counts less, in standard deviations
_CLIPPED: Final = 0.05  # what it counts then


class _Sampled(NamedTuple):
    """A batch to sample: its number, the indices of its images, and the positions in each of them."""

    number: int
    images: range
    positions: Tensor

    def of_half(self, place: int) -> int:
        """How many samples belong to a half of the images: to each, every other one."""
        return len(self.images[(place - self.images.start) % HALVES :: HALVES]) * len(self.positions)

    def half_of(self, samples: Tensor, place: int) -> Tensor:
        """Of samples `[..., rows]`, image by image, those of a half."""
        by_image = samples.reshape(*samples.shape[:-1], len(self.images), len(self.positions))
        return by_image[..., (place - self.images.start) % HALVES :: HALVES, :].flatten(-2)


def _parts(batches: Sequence[_Sampled]) -> list[list[_Sampled]]:
    """Cut batches where there are enough samples of each half to add them up."""
    parts, counts = [list[_Sampled]()], [0] * HALVES
    for batch in batches:
        if min(counts) >= TOGETHER:
            parts.append([])
            counts = [0] * HALVES
        parts[-1].append(batch)
        counts = [count + batch.of_half(place) for place, count in enumerate(counts)]
    return parts


class Sampler:
    """Samples patches and targets of one layer, and collects their moments.

    Args:
        network: the float network.
        node: the layer.
        effort: how many samples, and whether outputs have moments of their own at any width.
        bits: of its weights.
        generator: draws the positions.
    """

    def __init__(self, network: Network, node: Node, effort: Effort, bits: float, generator: torch.Generator) -> None:
        self.node, self.generator = node, generator
        self.skip = residual_inputs(network.graph).get(node.name)
        self.layer, self.shape = network.convolution(node.name), network.graph.shapes()[node.inputs[0]]
        weight, self.bias = network.weight_and_bias(node.name)
        self.weight = by_group(weight, node.attrs["groups"])
        fan_in = self.weight.shape[2]
        self.highest = clipped_layers(network.graph).get(node.name)
        if not (effort.by_output or bits <= _FEW_BITS) or len(weight) * fan_in**2 > _BY_OUTPUT:
            self.highest = None
        most = effort.samples if self.highest is None else min(effort.samples, _SAMPLES_BY_OUTPUT)
        self.samples = max(most * fan_in, _MIN_SAMPLES)
        self._deviation: Tensor | None = None

    def halves(self, original: Stream, rounded: Stream, firsts: Sequence[int], images: int) -> tuple[Half, Half]:
        """Return the moments over two halves of the images, from as many batches as needed.

        Args:
            original: the float network.
            rounded: the network quantized so far.
            firsts: index of the first image of each batch.
            images: number of images in all, counting augmentations.

        Returns:
            Moments for each group of the layer, or for each output.
        """
        every = max(images * min(_POSITIONS, prod(self.node.shape[1:])) // self.samples, 1)
        every -= 1 - every % HALVES  # odd, so that batches of one image fall into both halves
        count, streams = -(-self.samples * every // images), (original, rounded)
        batches = [
            _Sampled(i, range(firsts[i], firsts[i] + original.sizes[i]), self._positions(count))
            for i in range(0, len(firsts), every)
        ]
        head, *others = _parts(batches)
        halves = self._moments(streams, head, (Half(), Half()))
        for found in side_by_side(
            lambda part: self._moments(streams, part, [half.beside() for half in halves]), others
        ):
            for half, other in zip(halves, found, strict=True):
                half.merge(other)
        return halves

    def _moments(
        self, streams: Sequence[Stream], batches: Sequence[_Sampled], halves: Sequence[Half]
    ) -> tuple[Half, Half]:
        """Add the samples of some batches to moments over the halves of the images, and return these."""
        for batch in batches:
            (x, y), (skip, rounded_skip) = self._read(streams, batch)
            target, read, weights = (self.weight @ x).reshape(len(self.bias), -1), y, None
            if self.highest is not None:
                weights = self._weights(target + self.bias[:, None] + skip, self.highest)
                read = self._by_output(y)
            wanted = (target + skip - rounded_skip).reshape(len(read if weights is None else weights), -1, y.shape[2])
            for place, half in enumerate(halves):
                if batch.of_half(place):
                    mine, aims = (batch.half_of(values, place) for values in (read, wanted))
                    counted = None if weights is None else batch.half_of(weights, place)
                    half.own.add(mine, mine, counted)
                    half.target.add(aims, mine, counted)
        first, second = halves
        return first, second

    def _positions(self, count: int) -> Tensor:
        """Draw the positions for a batch."""
        return sample_positions(self.layer, torch.empty(1, *self.shape, device="meta"), count, self.generator)

    def _read(self, streams: Sequence[Stream], batch: _Sampled) -> tuple[list[Tensor], list[Tensor]]:
        """Return the patches of a batch in each stream, and the residual inputs `[out, rows]`; 0 if there are none."""
        number, positions, source, skip = batch.number, batch.positions, self.node.inputs[0], self.skip
        read = [torch.cat([patches(self.layer, x, positions) for x in s.parts(source, number)], 2) for s in streams]
        if skip is None:
            return read, [torch.zeros(1, 1, dtype=torch.float32)] * len(streams)
        return read, [torch.cat([_at(x, positions) for x in s.parts(skip, number)], 1) for s in streams]

    def _by_output(self, read: Tensor) -> Tensor:
        """Return the patches `[groups, fan-in, rows]` that each output reads; if it is the same for all, once."""
        return read.repeat_interleave(len(self.bias) // len(read), 0) if len(read) > 1 else read

    def _weights(self, outputs: Tensor, highest: float) -> Tensor:
        """Return how much samples count for each output, `[out, rows]`, given the outputs before the activation."""
        if self._deviation is None:
            self._deviation = outputs.std(1, keepdim=True, correction=0)
        margin = _MARGIN * self._deviation
        inside = (outputs >= -margin) & (outputs <= highest + margin)
        return torch.where(inside, 1.0, _CLIPPED).to(outputs.dtype)


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """Gather outputs `[n, out, h, w]` at some positions, as `[out, n * positions]` in the order of `patches`."""
    return x[:, :, positions[:, 0], positions[:, 1]].movedim(1, 0).reshape(x.shape[1], -1)
