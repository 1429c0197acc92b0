"""The calibration record: all that planning needs to know of a network, and the activation ranges for quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import isfinite, prod
from pathlib import Path
from typing import Any, Final

from edgeq.artifacts.files import dumps, read_json, write_json
from edgeq.artifacts.schema import COUNT, NETWORK, NOTHING, NUMBER, PATH, POSITIVE, PREPROCESS, TEXT, Schema
from edgeq.errors import ArtifactError
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import WIDTHS
from edgeq.tasks import Channels

VERSION: Final = 8
_MOST_WEIGHTS: Final = 2**40  # of a layer, so that costs summed over layers fit in int64
_MOST_MACS: Final = 2**44
_MOST_BYTES: Final = 2**40
_PER_WIDTH: Final = [str(width.bits) for width in WIDTHS]
_SCHEMA: Final[Schema] = {
    "network": NETWORK,
    "preprocess": (PREPROCESS, NOTHING),
    "data": (
        {"source": TEXT, "root": PATH, "files": [[PATH]], "labels": ([COUNT], None)},
        {"source": TEXT, "split": TEXT, "samples": COUNT},
        {"kind": TEXT, "samples": COUNT},  # images that were passed to the API
        NOTHING,
    ),
    "observer": TEXT,
    "layers": [
        {"name": TEXT, "kind": TEXT, "position": COUNT, "shape": [COUNT], "macs": COUNT, "output": TEXT}
        | {"scales": {bits: [NUMBER] for bits in _PER_WIDTH}, "damage": dict.fromkeys(_PER_WIDTH, NUMBER)}
    ],
    "activations": {str: {"low": NUMBER, "high": NUMBER, "scale": POSITIVE, "zero_point": COUNT}},
    "histograms": {str: {"start": NUMBER, "width": POSITIVE, "counts": [COUNT]}},
    "outputs": [
        {"name": TEXT, "shape": [COUNT], "task": TEXT, "low": NUMBER, "high": NUMBER}
        | {"axes": [COUNT], "units": [NUMBER]}
    ],
    "in_float": {str: TEXT},
    "graph_bytes": COUNT,
    "packed_layer_bytes": COUNT,
    "cut_layer_bytes": COUNT,
    "drops": [[NUMBER]],
}


@dataclass(frozen=True)
class LayerInfo:
    """One convolution; a linear layer is one of 1x1.

    Attributes:
        name: name of its module.
        kind: `conv` or `depthwise` (one filter per input channel).
        position: index in the order of execution, from 0.
        shape: shape of the weights, `[out, in / groups, height, width]`.
        macs: multiply-accumulates for one image.
        scales: for each width in bits, the scale of every output channel, see
            `edgeq.numerics.weights.starting_scales`.
        sensitivity: for each width, how far the network's answers move when only this layer's weights are rounded:
            mean divergence from the float network's, of class probabilities the KL divergence in nats; see
            `edgeq.calibration.sensitivity`.
        output: name of the value that its output is stored as: its own, or that of the activation behind it.
    """

    name: str
    kind: str
    position: int
    shape: tuple[int, ...]
    macs: int
    scales: Mapping[float, tuple[float, ...]]
    sensitivity: Mapping[float, float]
    output: str

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.shape[0]


@dataclass(frozen=True)
class Bins:
    """A histogram of sampled values: bin `i` begins at `start + i * width`, and `counts[i]` values lie in it."""

    start: float
    width: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class OutputInfo:
    """One output of the network.

    Attributes:
        name: as in exported files.
        shape: without the batch.
        task: what it means, one of `edgeq.tasks.TASKS`.
        low, high: the extremes of its values over the calibration images; of class scores, of the logits.
        axes: for regression, those of the channels, without the batch; else empty.
        units: for regression, the unit in which errors of each channel count (`edgeq.tasks.regression.Spread`); else
            empty.
    """

    name: str
    shape: tuple[int, ...]
    task: str
    low: float
    high: float
    axes: tuple[int, ...]
    units: tuple[float, ...]

    @property
    def channels(self) -> Channels:
        """The channels, as `edgeq.ir.network.Network.tasks` takes them."""
        return Channels(self.axes, self.units)


@dataclass(frozen=True)
class CalibrationRecord:
    """The result of `edgeq.calibrate`.

    Attributes:
        network: where the network came from: see `edgeq.frontends.sources.Source.to_dict`.
        preprocess: how an image becomes a tensor.
        data: the images, described well enough to find them again.
        observer: how activation ranges were chosen.
        layers: the layers with weights, in order of execution.
        activations: range of every value that gets a quantizer, by the name of the node that computes it.
        outputs: the outputs, in order.
        in_float: values of layers that stay float, by the name of the node, and why.
        graph_bytes: bytes of an ONNX file with all layers at 8 bits, without weights, scales and biases.
        packed_layer_bytes: the most bytes that decoding one layer below 8 bits adds to that, without what layers share.
        cut_layer_bytes: how many more those are for a layer whose outputs do not fill its packed bytes.
        drops: pairs of a sensitivity, summed over the layers, and the estimated loss of accuracy in points, both
            rising from 0; see `edgeq.calibration.sensitivity.drops`.
        histograms: of the values on the calibration images, before they are clipped, by the names of `activations`.
    """

    network: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    data: Mapping[str, Any]
    observer: str
    layers: tuple[LayerInfo, ...]
    activations: Mapping[str, ActivationRange]
    outputs: tuple[OutputInfo, ...]
    in_float: Mapping[str, str]
    graph_bytes: int
    packed_layer_bytes: int
    cut_layer_bytes: int
    drops: tuple[tuple[float, float], ...]
    histograms: Mapping[str, Bins] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        body = asdict(self)
        for layer in body["layers"]:
            layer["scales"] = {str(bits): list(scales) for bits, scales in layer["scales"].items()}
            layer["damage"] = {str(bits): nats for bits, nats in layer.pop("sensitivity").items()}
        body["drops"] = [list(point) for point in self.drops]
        for bins in body["histograms"].values():
            bins["counts"] = list(bins["counts"])
        return body

    def to_json(self) -> str:
        """Return the exact text that `save` writes."""
        return dumps("record", VERSION, self.to_dict())

    def save(self, path: Path | str) -> None:
        """Write the record atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        write_json(Path(path), "record", VERSION, self.to_dict())

    @staticmethod
    def load(path: Path | str) -> CalibrationRecord:
        """Read and check a record.

        Raises:
            ArtifactError: no such file, not a record of this version, or a damaged one.
        """
        body = read_json(Path(path), "record", VERSION, _SCHEMA, "calibrate again")
        try:
            return CalibrationRecord(
                network=dict(body["network"]),
                preprocess=dict(body["preprocess"]),
                data=dict(body["data"]),
                observer=str(body["observer"]),
                layers=tuple(_layer(layer) for layer in body["layers"]),
                activations={name: _range(name, item) for name, item in body["activations"].items()},
                outputs=tuple(_output(output) for output in body["outputs"]),
                in_float={str(name): str(reason) for name, reason in body["in_float"].items()},
                graph_bytes=_bytes(body, "graph_bytes"),
                packed_layer_bytes=_bytes(body, "packed_layer_bytes"),
                cut_layer_bytes=_bytes(body, "cut_layer_bytes"),
                drops=_drops(body["drops"]),
                histograms={name: _bins(item) for name, item in body["histograms"].items()},
            )
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise ArtifactError(
                f"{path}: a damaged record ({type(error).__name__}: {error}); calibrate again"
            ) from error


def _layer(body: Mapping[str, Any]) -> LayerInfo:
    shape = tuple(int(d) for d in body["shape"])
    scales = {width.bits: tuple(float(s) for s in body["scales"][str(width.bits)]) for width in WIDTHS}
    sensitivity = {width.bits: float(body["damage"][str(width.bits)]) for width in WIDTHS}
    if prod(shape) > _MOST_WEIGHTS or body["macs"] > _MOST_MACS:
        raise ValueError(f"layer {body['name']}: {list(shape)} weights and {body['macs']} MACs are those of no network")
    if not all(isfinite(d) and d >= 0 for d in sensitivity.values()):
        raise ValueError(f"layer {body['name']}: its damage {sensitivity} is not all finite and at least 0")
    for bits, row in scales.items():
        if len(row) != shape[0] or not all(isfinite(s) and s != 0 for s in row):
            raise ValueError(f"layer {body['name']}: the scales of {bits} bits are not {shape[0]} non-zero numbers")
    return LayerInfo(
        name=str(body["name"]),
        kind=str(body["kind"]),
        position=int(body["position"]),
        shape=shape,
        macs=int(body["macs"]),
        scales=scales,
        sensitivity=sensitivity,
        output=str(body["output"]),
    )


def _range(name: str, body: Mapping[str, Any]) -> ActivationRange:
    found = ActivationRange(float(body["low"]), float(body["high"]), float(body["scale"]), int(body["zero_point"]))
    if not (0 < found.scale < float("inf") and 0 <= found.zero_point <= 255):
        raise ValueError(f"activation {name}: scale {found.scale} or zero point {found.zero_point} is out of range")
    return found


def _bins(body: Mapping[str, Any]) -> Bins:
    return Bins(float(body["start"]), float(body["width"]), tuple(int(count) for count in body["counts"]))


def _output(body: Mapping[str, Any]) -> OutputInfo:
    units = tuple(float(unit) for unit in body["units"])
    if not all(isfinite(unit) and unit > 0 for unit in units):
        raise ValueError(f"output {body['name']}: its units are not all finite and positive")
    shape = tuple(int(d) for d in body["shape"])
    ends, axes = (float(body["low"]), float(body["high"])), tuple(int(axis) for axis in body["axes"])
    return OutputInfo(str(body["name"]), shape, str(body["task"]), *ends, axes, units)


def _bytes(body: Mapping[str, Any], key: str) -> int:
    found = int(body[key])
    if not 0 <= found <= _MOST_BYTES:
        raise ValueError(f"{key} {found} is negative, or of no file")
    return found


def _drops(body: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    found = tuple((float(sensitivity), float(drop)) for sensitivity, drop in body)
    rising = all(a < c and b <= d for (a, b), (c, d) in pairwise(found))
    if found[0] != (0.0, 0.0) or not rising or not all(map(isfinite, found[-1])):
        raise ValueError("its drops do not rise from 0")
    return found
