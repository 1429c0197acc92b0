"""What calibration collects in its one pass over the images, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from edgeq.calibration.observers import Histogram, extremes
from edgeq.calibration.outputs import OutputStatistics
from edgeq.calibration.sensitivity import Widths
from edgeq.errors import DataError, UnsupportedError
from edgeq.ir.analysis import quantizer_groups, regressed
from edgeq.ir.batches import Images
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network
from edgeq.ir.ops.registry import OPS
from edgeq.rounding.layer import round_alone
from edgeq.rounding.moments import Moments, patches, sample_positions
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.threads import side_by_side
from edgeq.tasks.regression import Spread

LARGEST: Final = 1e15
"""The largest activation or weight, so that sums of many squares stay within float32."""

_POSITIONS: Final = 8  # patches sampled for each image and layer

_Round = tuple[Images | None, Sequence[int]]
"""A batch of this process, and the number of images in that of every process, see `Workers.rounds`."""


@dataclass(frozen=True)
class Seen:
    """Statistics of some images.

    Attributes:
        histograms: of every value that gets a quantizer, by the name of its node.
        outputs: of the answer of every output, by the output's name.
        spreads: of the channels of the inputs, and of the values that regression starts from
            (`edgeq.ir.analysis.regressed`), by name.
    """

    histograms: Mapping[str, Histogram]
    outputs: Mapping[str, OutputStatistics]
    spreads: Mapping[str, Spread]

    @staticmethod
    def nothing(graph: Graph) -> Seen:
        """Statistics of no images."""
        shapes = graph.shapes()
        answers = zip(graph.outputs, graph.answers, strict=True)
        return Seen(
            {name: Histogram() for group in quantizer_groups(graph) for name in group},
            {output.name: OutputStatistics(shapes[answer]) for output, answer in answers},
            {name: Spread(shapes[name], (0,)) for name in (*graph.input_values, *regressed(graph))},
        )

    def merge(self, other: Seen) -> None:
        """Add the statistics of other images."""
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        for name, output in other.outputs.items():
            self.outputs[name].merge(output)
        for name, spread in other.spreads.items():
            self.spreads[name].merge(spread)


_Batch = tuple[Seen, Mapping[str, Tensor]]
"""What is found in one batch: its statistics, and sampled patches of each layer."""


class Statistics:
    """Runs batches through a float network and collects statistics.

    Attributes:
        seen: of the images of this process.
        moments: moments of the patches that each layer reads, by its name, over all images; each process has a share of
            the layers.
    """

    def __init__(self, network: Network, seed: int, workers: Workers = ALONE) -> None:
        self.network, self.workers = network, workers
        self.seen = Seen.nothing(network.graph)
        self._outputs: dict[str, list[str]] = {}  # those that a value is the answer of
        for output, answer in zip(network.graph.outputs, network.graph.answers, strict=True):
            self._outputs.setdefault(answer, []).append(output.name)
        names = [node.name for node in network.graph.layers]
        self._shares = [names[rank :: workers.size] for rank in range(workers.size)]
        self.moments = {name: Moments() for name in self._shares[workers.rank]}
        self.generator = torch.Generator().manual_seed(seed)

    def passed(self, rounds: Iterable[_Round]) -> Iterator[_Round]:
        """Run the batches of this process, in step with the other processes, and yield each finished round. Collective.

        Args:
            rounds: from `Workers.rounds`: a batch, or None if this process has no more, and the number of images in the
                batch of every process.
        """

        def run(item: tuple[_Round, Mapping[str, Tensor]]) -> tuple[_Round, _Batch | None]:
            (images, counts), positions = item
            return (images, counts), self._run(images.tensors(self.network), positions) if images else None

        drawn = ((found, self._drawn(found[1])) for found in rounds)
        # Processes exchange patches after every batch, and must do so in the same order.
        for passed, found in (side_by_side if self.workers.size == 1 else map)(run, drawn):
            self._take(found)
            yield passed

    def add(self, *inputs: Tensor) -> None:
        """Run a batch: the inputs of the network, float32 `[n, *shape]` each."""
        self._take(self._run(inputs, self._drawn([len(inputs[0])])))

    def _drawn(self, counts: Sequence[int]) -> Mapping[str, Tensor]:
        """Draw the sampled positions of all processes' batches, as a single process would, and return this one's."""
        return [self._positions() if count else {} for count in counts][self.workers.rank]

    def _take(self, found: _Batch | None) -> None:
        seen, rows = found or (None, dict[str, Tensor]())
        if seen is not None:
            self.seen.merge(seen)
        for rank, share in enumerate(self._shares):
            for gathered in self.workers.gather(rank, {name: rows[name] for name in share if name in rows}):
                for name, patch in gathered.items():
                    self.moments[name].add(patch, patch)

    def _positions(self) -> dict[str, Tensor]:
        """Draw the sampled output positions of each layer for a batch."""
        graph, found = self.network.graph, {}
        shapes = graph.shapes()
        for node in graph.layers:
            x = torch.empty(1, *shapes[node.inputs[0]], device="meta")
            found[node.name] = sample_positions(self.network.convolution(node.name), x, _POSITIONS, self.generator)
        return found

    def _run(self, given: Sequence[Tensor], positions: Mapping[str, Tensor]) -> _Batch:
        network, rows = self.network, dict[str, Tensor]()
        values = dict(zip(network.graph.input_values, given, strict=True))
        seen = Seen.nothing(network.graph)
        ends = {name: self._observe(name, x, seen) for name, x in values.items()}
        for node in network.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.name in positions:
                rows[node.name] = patches(network.convolution(node.name), inputs[0], positions[node.name])
            values[node.name] = network.run(node, inputs)
            known = None
            if OPS[node.op].clipping:  # which keeps the order of values, so what it makes of the extremes are its own
                low, high = network.run(node, [torch.tensor(ends[node.inputs[0]])]).tolist()
                known = low, high
            ends[node.name] = self._observe(node.name, values[node.name], seen, known)
            for name in network.last_reads(node):
                del values[name]
        return seen, rows

    def _observe(
        self, name: str, x: Tensor, seen: Seen, ends: tuple[float, float] | None = None
    ) -> tuple[float, float]:
        """Add a value to its statistics, if it has any, check its extremes, and return them; `ends` if they are known.

        Raises:
            DataError: the images have values that are too large.
            UnsupportedError: the output of a layer is NaN, infinite or too large.
        """
        low, high = seen.histograms[name].add(x, ends) if name in seen.histograms else ends or extremes(x)
        if not max(-low, high) <= LARGEST:  # also true for NaN
            found = f"reaches {max(-low, high):g}, expected at most {LARGEST:g}"
            if name in self.network.graph.input_values:
                where = "images" if len(self.network.graph.inputs) == 1 else f"the input {name}"
                raise DataError(f"a batch of {where} {found}; are they normalized as the network wants them?")
            raise UnsupportedError(
                f"layer {name}: its output on a calibration image {found}; look at its weights and the preprocessing"
            )
        for output in self._outputs.get(name, ()):
            seen.outputs[output].add(x)
        if name in seen.spreads:
            seen.spreads[name].add(x)
        return low, high

    def together(self) -> Seen:
        """Return the statistics over the images of all processes, on rank 0. Collective."""
        whole = Seen.nothing(self.network.graph)
        for part in self.workers.gather(0, self.seen):
            whole.merge(part)
        return whole

    def rounded(self) -> Widths:
        """Round every layer to every width, for a network on the CPU; see `round_alone`. Collective."""
        layers = self.network.graph.layers
        own = [node for node in layers if node.name in self.moments]
        rounded = side_by_side(lambda node: round_alone(self.network, node, self.moments[node.name]), own)
        mine = {node.name: found for node, found in zip(own, rounded, strict=True)}
        made = {name: found for part in self.workers.all_gather(mine) for name, found in part.items()}
        return {node.name: made[node.name] for node in layers}
