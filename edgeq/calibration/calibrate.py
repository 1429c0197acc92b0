"""Calibrate in one pass over some images: the range of every activation, the scales and sensitivity of every layer.

The pass keeps a histogram of every activation and the second moments of every layer's input. Then a random sample of
the images, of fixed size, is run again to measure how errors of activations and layers change the answers.

In a distributed run, processes share the images of the pass, and the layers whose statistics they keep and which they
round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from edgeq.artifacts.record import CalibrationRecord, LayerInfo, OutputInfo
from edgeq.calibration.observers import Histogram, Observer, choose_range, extremes
from edgeq.calibration.outputs import OutputStatistics
from edgeq.calibration.ranges import RangeChoice, least_divergence, of_many_ranges, resolvable
from edgeq.calibration.sensitivity import PLANS, Widths, drops, sensitivities
from edgeq.errors import DataError, UnsupportedError, WeightsError
from edgeq.exporters.onnx.size import overhead
from edgeq.ir.analysis import never_clipped, quantizer_groups, regressed
from edgeq.ir.batches import Batch, Images
from edgeq.ir.graph import Output
from edgeq.ir.network import Network, with_gradients
from edgeq.ir.node import Node
from edgeq.ir.passes.hard_sigmoid import fitted
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import QuantLayer
from edgeq.planning import cost
from edgeq.planning.recipe import check_seed
from edgeq.rounding.layer import round_alone
from edgeq.rounding.moments import Moments, patches, sample_positions
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.progress import SILENT, Progress
from edgeq.system.threads import on_usable_cpus, side_by_side
from edgeq.tasks import NO_CHANNELS, Channels
from edgeq.tasks.regression import Spread

SENSITIVITY_IMAGES: Final = 160
"""Number of images whose gradients give the ranges and sensitivities."""

_LARGEST: Final = 1e15  # largest activation or weight, so that sums of many squares stay within float32
_POSITIONS: Final = 8  # patches sampled for each image and layer
_DROP_IMAGES: Final = 112  # how many of the sensitivity images are also classified with mixed plans


@on_usable_cpus
@with_gradients
def calibrate(
    network: Network,
    batches: Iterable[Batch],
    observer: RangeChoice = "damage",
    seed: int = 0,
    *,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress = SILENT,
    workers: Workers = ALONE,
) -> CalibrationRecord:
    """Measure a float network on calibration images.

    Args:
        network: the float network, from `edgeq.trace`; it runs on the device that it is on.
        batches: calibration images, float32 `[n, *shape]` each, of several inputs by their names; read once, one batch
            at a time.
        observer: how to choose activation ranges, see `edgeq.calibration.ranges.RangeChoice`.
        seed: seed of the choice of sampled positions and images.
        sources: descriptions of `network`, `preprocess` and `data`, kept in the record for later stages.
        progress: after the last batch, receives the number of images on which sensitivity has been measured.
        workers: the processes of a distributed run; each passes its own batches, and all get the same record.

    Returns:
        The record, which is all that `edgeq.plan` needs.

    Raises:
        WorkerError: another process has ended early.
        DataError: no images, images of another shape, or values that are not finite or above 1e15.
        UnsupportedError: the network has no layer to quantize; a layer's output is not finite or above 1e15; an unknown
            observer.
        WeightsError: a layer has weights above 1e15.

    Example:
        >>> record = edgeq.calibrate(network, batches)
        >>> [(layer.name, layer.kind, layer.macs) for layer in record.layers]
        [('0', 'conv', 55296), ('4', 'conv', 32)]
    """
    check_seed(seed)
    if observer not in (choices := get_args(RangeChoice)):
        raise UnsupportedError(f"unknown observer {observer!r}; expected one of {', '.join(choices)}")
    if not network.graph.layers:
        raise UnsupportedError("the network has no convolution or linear layer; there is nothing to quantize")
    for node in network.graph.layers:
        reach = max(float(value.abs().max()) for value in network.weight_and_bias(node.name))
        if reach > _LARGEST:
            raise WeightsError(f"layer {node.name}: its weights reach {reach:g}, expected at most {_LARGEST:g}")
    statistics = Statistics(network, seed, workers)
    sample = Sample(SENSITIVITY_IMAGES, [one.shape for one in network.graph.inputs], seed, workers)
    device = next(network.parameters()).device
    with torch.inference_mode():
        for images, counts in statistics.passed(workers.rounds(Images.of(network.graph, batch) for batch in batches)):
            sample.add(images, counts)
    network.to("cpu")
    if not sample.seen:
        raise DataError("no calibration images; expected at least one")
    seen, widths, images = statistics.together(), statistics.rounded(), sample.images()
    network.to(device)
    record = None
    if workers.first:
        found = _measured(network, _Passed(seen, widths, images), observer, seed, progress)
        network.to("cpu")
        record = _record(network, widths, found, observer, sources or {}, sample.seen)
        network.to(device)
    return cast(CalibrationRecord, workers.all_gather(record)[0])


def _record(
    network: Network,
    widths: Widths,
    found: _Measured,
    observer: RangeChoice,
    sources: Mapping[str, Mapping[str, Any]],
    images: int,
) -> CalibrationRecord:
    record = CalibrationRecord(
        network=sources.get("network", {}),
        preprocess=sources.get("preprocess", {}),
        data=sources.get("data", {"kind": "array", "samples": images}),
        observer=observer,
        layers=tuple(
            _layer_info(node, i, widths[node.name], found.sensitivity[node.name])
            for i, node in enumerate(network.graph.layers)
        ),
        activations=found.ranges,
        outputs=found.outputs,
        in_float=found.in_float,
        graph_bytes=0,
        packed_layer_bytes=0,
        drops=found.drops,
    )
    graph_bytes, packed_layer_bytes = overhead(network, widths, record)
    return replace(record, graph_bytes=graph_bytes, packed_layer_bytes=packed_layer_bytes)


_Round = tuple[Images | None, Sequence[int]]
"""A batch of this process, and the number of images in that of every process, see `Workers.rounds`."""


@dataclass(frozen=True)
class _Seen:
    """Statistics of a batch: histograms of the values that get a quantizer, sampled patches of each layer, outputs."""

    histograms: dict[str, Histogram] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, OutputStatistics] = field(default_factory=dict)
    last: dict[str, Spread] = field(default_factory=dict)


class Statistics:
    """Runs batches through a float network and collects statistics.

    Attributes:
        histograms: histogram of every value that gets a quantizer, by the name of its node, over the images of this
            process.
        outputs: of every output, by its name, over the images of this process.
        last: the spread of the channels of the values that regression starts from (`edgeq.ir.analysis.regressed`), by
            name, over the images of this process.
        moments: moments of the patches that each layer reads, by its name, over all images; each process has a share of
            the layers.
    """

    def __init__(self, network: Network, seed: int, workers: Workers = ALONE) -> None:
        self.network, self.workers = network, workers
        self.histograms = {name: Histogram() for group in quantizer_groups(network.graph) for name in group}
        self.outputs, self.last = _no_outputs(network), _no_spreads(network)
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

        def run(item: tuple[_Round, Mapping[str, Tensor]]) -> tuple[_Round, _Seen]:
            (images, counts), positions = item
            return (images, counts), self._run(images.tensors(self.network), positions) if images else _Seen()

        drawn = ((found, self._drawn(found[1])) for found in rounds)
        # Processes exchange patches after every batch, and must do so in the same order.
        for passed, seen in (side_by_side if self.workers.size == 1 else map)(run, drawn):
            self._take(seen)
            yield passed

    def add(self, *inputs: Tensor) -> None:
        """Run a batch: the inputs of the network, float32 `[n, *shape]` each."""
        self._take(self._run(inputs, self._drawn([len(inputs[0])])))

    def _drawn(self, counts: Sequence[int]) -> Mapping[str, Tensor]:
        """Draw the sampled positions of all processes' batches, as a single process would, and return this one's."""
        return [self._positions() if count else {} for count in counts][self.workers.rank]

    def _take(self, seen: _Seen) -> None:
        for name, histogram in seen.histograms.items():
            self.histograms[name].merge(histogram)
        for name, found in seen.outputs.items():
            self.outputs[name].merge(found)
        for name, spread in seen.last.items():
            self.last[name].merge(spread)
        for rank, share in enumerate(self._shares):
            for rows in self.workers.gather(rank, {name: seen.rows[name] for name in share if name in seen.rows}):
                for name, patch in rows.items():
                    self.moments[name].add(patch, patch)

    def _positions(self) -> dict[str, Tensor]:
        """Draw the sampled output positions of each layer for a batch."""
        graph, found = self.network.graph, {}
        shapes = graph.shapes()
        for node in graph.layers:
            x = torch.empty(1, *shapes[node.inputs[0]], device="meta")
            found[node.name] = sample_positions(self.network.layer(node.name), x, _POSITIONS, self.generator)
        return found

    def _run(self, given: Sequence[Tensor], positions: Mapping[str, Tensor]) -> _Seen:
        graph = self.network.graph
        values = dict(zip(graph.input_values, given, strict=True))
        seen = _Seen(
            {name: Histogram() for name in self.histograms}, {}, _no_outputs(self.network), _no_spreads(self.network)
        )
        for name, x in values.items():
            _observe(name, x, seen.histograms, is_input=True)
            self._see_outputs(name, x, seen)
        for node in graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.name in positions:
                seen.rows[node.name] = patches(self.network.layer(node.name), inputs[0], positions[node.name])
            values[node.name] = self.network.run(node, inputs)
            _observe(node.name, values[node.name], seen.histograms)
            self._see_outputs(node.name, values[node.name], seen)
            if node.name in seen.last:
                seen.last[node.name].add(values[node.name])
            for name in self.network.last_reads(node):
                del values[name]
        return seen

    def _see_outputs(self, name: str, x: Tensor, seen: _Seen) -> None:
        for output, answer in zip(self.network.graph.outputs, self.network.graph.answers, strict=True):
            if answer == name:
                seen.outputs[output.name].add(x)

    def together(self) -> _Seen:
        """Return histograms, outputs and last values over the images of all processes, on rank 0. Collective."""
        whole = _Seen(
            {name: Histogram() for name in self.histograms}, {}, _no_outputs(self.network), _no_spreads(self.network)
        )
        for histograms, outputs, last in self.workers.gather(0, (self.histograms, self.outputs, self.last)):
            for name, histogram in histograms.items():
                whole.histograms[name].merge(histogram)
            for name, found in outputs.items():
                whole.outputs[name].merge(found)
            for name, spread in last.items():
                whole.last[name].merge(spread)
        return whole

    def rounded(self) -> Widths:
        """Round every layer to every width, for a network on the CPU; see `round_alone`. Collective."""
        layers = self.network.graph.layers
        own = [node for node in layers if node.name in self.moments]
        rounded = side_by_side(lambda node: round_alone(self.network, node, self.moments[node.name]), own)
        mine = {node.name: found for node, found in zip(own, rounded, strict=True)}
        made = {name: found for part in self.workers.all_gather(mine) for name, found in part.items()}
        return {node.name: made[node.name] for node in layers}


def _no_outputs(network: Network) -> dict[str, OutputStatistics]:
    graph, shapes = network.graph, network.graph.shapes()
    pairs = zip(graph.outputs, graph.answers, strict=True)
    return {output.name: OutputStatistics(shapes[answer]) for output, answer in pairs}


def _no_spreads(network: Network) -> dict[str, Spread]:
    shapes = network.graph.shapes()
    return {name: Spread(shapes[name], (0,)) for name in regressed(network.graph)}


def _observe(name: str, x: Tensor, histograms: Mapping[str, Histogram], is_input: bool = False) -> None:
    """Add a value to its histogram, if it has one, and check its extremes.

    Raises:
        DataError: the images have values that are too large.
        UnsupportedError: the output of a layer is NaN, infinite or too large.
    """
    low, high = histograms[name].add(x) if name in histograms else extremes(x)
    if not max(-low, high) <= _LARGEST:  # also true for NaN
        found = f"reaches {max(-low, high):g}, expected at most {_LARGEST:g}"
        if is_input:
            raise DataError(f"a batch of images {found}; are they normalized as the network wants them?")
        raise UnsupportedError(
            f"layer {name}: its output on a calibration image {found}; look at its weights and the preprocessing"
        )


class Sample:
    """A uniform random sample of a stream of images (Vitter's algorithm R, doi:10.1145/3147.3165).

    Args:
        size: size of the sample.
        shapes: shapes of the inputs for one image.
        seed: seed of the choice.
        workers: the processes of a distributed run, which sample from all their images together.
    """

    def __init__(self, size: int, shapes: Sequence[tuple[int, ...]], seed: int, workers: Workers = ALONE) -> None:
        self.seen = 0
        self._kept: dict[int, Images] = {}  # images of this process, by index in the sample
        self._size, self._shapes, self._workers = size, shapes, workers
        self._generator = np.random.default_rng(seed)

    def add(self, images: Images | None, counts: Sequence[int] | None = None) -> None:
        """Offer a round of images to the sample.

        Args:
            images: those of this process, or None.
            counts: number of images in this round of every process; None if there is only one process.
        """
        for rank, count in enumerate([len(images)] if counts is None and images is not None else counts or ()):
            for i in range(count):
                place = self.seen if self.seen < self._size else int(self._generator.integers(self.seen + 1))
                self.seen += 1
                if place < self._size:
                    self._kept.pop(place, None)
                    if rank == self._workers.rank and images is not None:
                        self._kept[place] = images[i : i + 1].copied()

    def images(self) -> Images:
        """Return the sample on rank 0: all images seen, or `size` of them. Collective."""
        found = {place: image for part in self._workers.gather(0, self._kept) for place, image in part.items()}
        empty = Images(tuple(np.empty((0, *shape), np.float32) for shape in self._shapes))
        return Images.joined([empty, *(found[place] for place in sorted(found))])


class _Passed(NamedTuple):
    """What the pass over the images has found: statistics, rounded layers, and the sample of the images."""

    seen: _Seen
    widths: Widths
    images: Images


class _Measured(NamedTuple):
    """Ranges of activations, outputs, the sensitivity of every layer, and further fields of the record."""

    ranges: dict[str, ActivationRange]
    outputs: tuple[OutputInfo, ...]
    in_float: dict[str, str]
    sensitivity: dict[str, dict[int, float]]
    drops: tuple[tuple[float, float], ...]


def _measured(network: Network, passed: _Passed, observer: RangeChoice, seed: int, progress: Progress) -> _Measured:
    seen, widths, images = passed
    histograms = seen.histograms
    outputs = tuple(_output_info(network, output, seen.outputs[output.name]) for output in network.graph.outputs)
    tasks = network.tasks({output.name: output.channels for output in outputs})
    few = images[:_DROP_IMAGES]
    done, total = 0, (1 + (observer == "damage")) * len(images) + PLANS * len(few)

    def count(images: int) -> None:
        nonlocal done
        done += images
        progress.step("measuring sensitivity", done, total)

    if observer == "damage":
        # For what is never clipped, which `least_divergence` leaves out.
        ranges = _ranges(network, histograms, "minmax")
        generator = torch.Generator().manual_seed(seed)
        ranges |= least_divergence(network, tasks, histograms, images, generator, count)
    else:
        ranges = _ranges(network, histograms, observer)
    ranges = fitted(network.graph, resolvable(network.graph, ranges))
    sensitivity = sensitivities(network, tasks, widths, images, torch.Generator().manual_seed(seed), count)
    if lost := [name for name, found in sensitivity.items() if not np.isfinite([*found.values()]).all()]:
        raise UnsupportedError(
            f"layer {lost[0]}: how the answers depend on its weights is beyond float32; look at the weights after it"
        )
    costs = drops(network, tasks, widths, sensitivity, few, count)
    count(total - done)  # there may be fewer than `PLANS` plans
    return _Measured(ranges, outputs, of_many_ranges(seen.last, ranges), sensitivity, costs)


def _output_info(network: Network, output: Output, found: OutputStatistics) -> OutputInfo:
    shape, channels = network.graph.shapes()[output.value], NO_CHANNELS
    if output.task == "regression":
        channels = Channels(found.spread.axes, tuple(found.spread.units()))
    return OutputInfo(output.name, shape, output.task, found.low, found.high, *channels)


def _layer_info(
    node: Node, position: int, widths: Mapping[int, QuantLayer], sensitivity: Mapping[int, float]
) -> LayerInfo:
    shape = widths[8].weight.shape
    groups = int(node.attrs.get("groups", 1))
    depthwise = groups > 1 and groups == shape[0] and shape[1] == 1
    kind = "linear" if node.op == "linear" else "depthwise" if depthwise else "conv"
    # The shortest decimals that round to the float32 numbers.
    scales = {bits: tuple(float(str(s)) for s in layer.weight.scale) for bits, layer in widths.items()}
    return LayerInfo(node.name, kind, position, shape, cost.macs(shape, node.shape), scales, sensitivity)


def _ranges(network: Network, histograms: Mapping[str, Histogram], observer: Observer) -> dict[str, ActivationRange]:
    """Choose one range for each group of values that share a quantizer.

    What is never clipped (`edgeq.ir.analysis.never_clipped`) always gets `minmax`.
    """
    ranges: dict[str, ActivationRange] = {}
    whole = never_clipped(network.graph)
    for group in quantizer_groups(network.graph):
        together = Histogram()
        for name in group:
            together.merge(histograms[name])
        chosen = choose_range(together, observer if whole.isdisjoint(group) else "minmax")
        ranges |= dict.fromkeys(group, chosen)
    return ranges
