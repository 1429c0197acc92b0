"""Calibrate in one pass over some images: the range of every activation, the scales and sensitivity of every layer.

The pass keeps a histogram of every activation and the second moments of every layer's input. Then a random sample of
the images, of fixed size, is run again to measure how errors of activations and layers change the answers.

In a distributed run, processes share the images of the pass, and the layers whose statistics they keep and which they
round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast, get_args

import numpy as np
import torch

from edgeq.artifacts.record import Bins, CalibrationRecord, LayerInfo, OutputInfo
from edgeq.calibration.observers import Histogram, Observer, choose_range
from edgeq.calibration.outputs import OutputStatistics
from edgeq.calibration.ranges import RangeChoice, least_divergence, of_many_ranges, off_halves, resolvable
from edgeq.calibration.sample import Sample
from edgeq.calibration.sensitivity import PLANS, Widths, at_every_width, drops, sensitivities
from edgeq.calibration.statistics import LARGEST, Seen, Statistics
from edgeq.errors import DataError, UnsupportedError, WeightsError
from edgeq.exporters.onnx.size import overhead
from edgeq.ir.analysis import never_clipped, quantizer_groups, stored_as
from edgeq.ir.batches import Batch, Images
from edgeq.ir.graph import Output
from edgeq.ir.network import Network, with_gradients
from edgeq.ir.node import Node
from edgeq.ir.passes.hard_sigmoid import fitted
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import WIDTHS, starting_scales
from edgeq.planning import cost
from edgeq.planning.recipe import check_seed
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.progress import SILENT, Progress
from edgeq.system.threads import on_usable_cpus
from edgeq.tasks import NO_CHANNELS, Channels

SENSITIVITY_IMAGES: Final = 160
"""Number of images whose gradients give the ranges and sensitivities."""

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
        if reach > LARGEST:
            raise WeightsError(f"layer {node.name}: its weights reach {reach:g}, expected at most {LARGEST:g}")
    statistics = Statistics(network, seed, workers)
    sample = Sample(SENSITIVITY_IMAGES, [one.shape for one in network.graph.inputs], seed, workers)
    device = next(network.parameters()).device
    with torch.inference_mode():
        for images, counts in statistics.passed(workers.rounds(Images.each(network.graph, batches))):
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
    graph = network.graph
    record = CalibrationRecord(
        network=sources.get("network", {}),
        preprocess=sources.get("preprocess", {}),
        data=sources.get("data", {"kind": "array", "samples": images}),
        observer=observer,
        layers=tuple(
            _layer_info(network, node, i, found.sensitivity[node.name], stored_as(graph, node.name, found.ranges))
            for i, node in enumerate(graph.layers)
        ),
        activations=found.ranges,
        outputs=found.outputs,
        in_float=found.in_float,
        graph_bytes=0,
        packed_layer_bytes=0,
        cut_layer_bytes=0,
        drops=found.drops,
        histograms=found.histograms,
    )
    whole, packed_layer, cut_layer = overhead(network, widths, record)
    return replace(record, graph_bytes=whole, packed_layer_bytes=packed_layer, cut_layer_bytes=cut_layer)


class _Passed(NamedTuple):
    """What the pass over the images has found: statistics, rounded layers, and the sample of the images."""

    seen: Seen
    widths: Widths
    images: Images


class _Measured(NamedTuple):
    """Ranges of activations, outputs, the sensitivity of every layer, and further fields of the record."""

    ranges: dict[str, ActivationRange]
    outputs: tuple[OutputInfo, ...]
    in_float: dict[str, str]
    sensitivity: dict[str, dict[float, float]]
    drops: tuple[tuple[float, float], ...]
    histograms: dict[str, Bins]


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
    ranges = off_halves(network.graph, images, resolvable(network.graph, ranges))
    ranges = fitted(network.graph, ranges)
    sensitivity = sensitivities(network, tasks, widths, images, torch.Generator().manual_seed(seed), count)
    if lost := [name for name, found in sensitivity.items() if not np.isfinite([*found.values()]).all()]:
        raise UnsupportedError(
            f"layer {lost[0]}: how the answers depend on its weights is beyond float32; look at the weights after it"
        )
    costs = drops(network, tasks, widths, sensitivity, few, count)
    count(total - done)  # there may be fewer than `PLANS` plans
    in_float, bins = of_many_ranges(network.graph, seen.spreads, ranges), {n: h.coarse() for n, h in histograms.items()}
    return _Measured(ranges, outputs, in_float, sensitivity, costs, bins)


def _output_info(network: Network, output: Output, found: OutputStatistics) -> OutputInfo:
    shape, channels = network.graph.shapes()[output.value], NO_CHANNELS
    if output.task == "regression":
        channels = Channels(found.spread.axes, tuple(found.spread.units()))
    return OutputInfo(output.name, shape, output.task, found.low, found.high, *channels)


def _layer_info(
    network: Network, node: Node, position: int, sensitivity: Mapping[float, float], output: str
) -> LayerInfo:
    weight = network.weight_and_bias(node.name)[0].numpy()
    shape = weight.shape
    groups = node.attrs["groups"]
    depthwise = groups > 1 and groups == shape[0] and shape[1] == 1
    kind = "depthwise" if depthwise else "conv"
    # The shortest decimals that round to the float32 numbers.
    scales = {width.bits: tuple(float(str(s)) for s in starting_scales(weight, width)) for width in WIDTHS}
    macs, everywhere = cost.macs(shape, node.shape), at_every_width(sensitivity)
    return LayerInfo(node.name, kind, position, shape, macs, scales, everywhere, output)


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
