"""One pass over some images: the range of every activation, the scales and the sensitivity of every layer.

Nothing is kept per image: a histogram for every activation and the second moments of every layer's input are all that
grows, and they do not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq import cost
from edgeq.errors import DataError
from edgeq.graph import INPUT, Node
from edgeq.moments import Moments, by_group, output_power, patches, sample_positions
from edgeq.network import Network
from edgeq.observers import Histogram, Observer, choose_range
from edgeq.quantize import WIDTHS, ActivationRange, mse_scales, quantize_weights
from edgeq.record import CalibrationRecord, LayerInfo

Progress = Callable[[int], None]
"""Called with the number of images just finished."""

_POSITIONS = 8  # sampled patches of one image and layer


def calibrate(
    network: Network,
    batches: Iterable[NDArray[np.float32]],
    observer: Observer = "percentile",
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
) -> CalibrationRecord:
    """Measure a float network on calibration images.

    Args:
        network: from `edgeq.trace`.
        batches: float32 `[n, *input_shape]` each; read once, one at a time.
        observer: how to choose activation ranges, see `edgeq.observers.choose_range`.
        device: where the network runs, `cpu` or `cuda`.
        seed: of the choice of sampled positions.
        progress: called after each batch.
        sources: `network`, `preprocess` and `data`, remembered in the record so that later stages find them again.

    Raises:
        DataError: no images, images of another shape, or values that are not finite.
    """
    collector = _Collector(network, seed)
    network.to(device)
    seen = 0
    with torch.inference_mode():
        for batch in batches:
            collector.add(checked_batch(network, batch).to(device))
            seen += len(batch)
            if progress:
                progress(len(batch))
    network.to("cpu")
    if not seen:
        raise DataError("no calibration images; expected at least one")
    sources = sources or {}
    return CalibrationRecord(
        network=sources.get("network", {}),
        preprocess=sources.get("preprocess", {}),
        data=sources.get("data", {"kind": "array", "samples": seen}),
        observer=observer,
        layers=tuple(_layer_info(network, node, i, collector.moments[node.name])
                     for i, node in enumerate(network.graph.layers)),
        activations=_ranges(network, collector.histograms, observer),
    )  # fmt: skip


def checked_batch(network: Network, batch: NDArray[np.float32]) -> Tensor:
    """A batch as a tensor, channels last.

    Raises:
        DataError: it is not `[n, *input_shape]`, or not finite.
    """
    expected = network.graph.input_shape
    if batch.shape[1:] != expected:
        raise DataError(f"expected batches of images {list(expected)}, found {list(batch.shape[1:])}")
    if not np.isfinite(batch).all():
        raise DataError("a batch of images holds NaN or infinite values; expected finite ones")
    x = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


class _Collector:
    """Runs batches through the network and keeps the statistics."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network = network
        self.histograms = {name: Histogram() for group in network.graph.quantizer_groups() for name in group}
        self.moments = {node.name: Moments() for node in network.graph.layers}
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, x: Tensor) -> None:
        values = {INPUT: x}
        self.histograms[INPUT].add(x)
        for node in self.network.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.name in self.moments:
                self._add_moments(self.network.layer(node.name), inputs[0], self.moments[node.name])
            values[node.name] = self.network.run(node, inputs)
            if node.name in self.histograms:
                self.histograms[node.name].add(values[node.name])
            for name in self.network.last_reads(node):
                del values[name]

    def _add_moments(self, layer: nn.Module, x: Tensor, moments: Moments) -> None:
        rows = patches(layer, x, sample_positions(layer, x, _POSITIONS, self.generator))
        moments.add(rows, rows)


def _layer_info(network: Network, node: Node, position: int, moments: Moments) -> LayerInfo:
    weight, _ = network.weight_and_bias(node.name)
    values = weight.numpy()
    groups = int(node.attrs.get("groups", 1))
    covariance = moments.covariance().cpu()
    power = output_power(by_group(weight, groups), covariance)
    scales, errors = {}, {}
    for width in WIDTHS:
        scale = mse_scales(values, width)
        change = torch.from_numpy(quantize_weights(values, scale, width).dequantize()) - weight
        scales[width.bits] = tuple(float(str(s)) for s in scale)  # the shortest decimals that name the float32
        errors[width.bits] = max(output_power(by_group(change, groups), covariance), 0.0) / max(power, 1e-30)
    depthwise = groups > 1 and groups == weight.shape[0] and weight.shape[1] == 1
    kind = "linear" if node.op == "linear" else "depthwise" if depthwise else "conv"
    macs = cost.macs(tuple(weight.shape), node.shape)
    return LayerInfo(node.name, kind, position, tuple(weight.shape), macs, scales, errors)


def _ranges(network: Network, histograms: Mapping[str, Histogram], observer: Observer) -> dict[str, ActivationRange]:
    """One range for each group of values that share a quantizer.

    Nothing of the output is clipped: its largest values are the answer.
    """
    ranges: dict[str, ActivationRange] = {}
    for group in network.graph.quantizer_groups():
        together = Histogram()
        for name in group:
            together.merge(histograms[name])
        chosen = choose_range(together, "minmax" if network.graph.output in group else observer)
        ranges |= dict.fromkeys(group, chosen)
    return ranges
