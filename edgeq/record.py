"""What calibration found out: enough to plan without the network, and to quantize without looking at ranges again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any, Final

from edgeq.artifact import dumps, read_json, write_json
from edgeq.errors import ArtifactError
from edgeq.quantize import WIDTHS, ActivationRange

VERSION: Final = 1


@dataclass(frozen=True)
class LayerInfo:
    """One convolution or linear layer.

    Attributes:
        name: its module's name.
        kind: `conv`, `depthwise` (one filter per input channel) or `linear`.
        position: place in the order of execution, from 0.
        shape: of the weights, `[out, in / groups, height, width]` or `[out, in]`.
        macs: multiply-accumulates for one image.
        scales: for each width in bits, the MSE-optimal scale of every output channel.
        errors: for each width, the power of the error of the layer's output over the power of that output (both
            without their means, which bias correction takes care of) when its weights are rounded to nearest.
    """

    name: str
    kind: str
    position: int
    shape: tuple[int, ...]
    macs: int
    scales: Mapping[int, tuple[float, ...]]
    errors: Mapping[int, float]

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.shape[0]


@dataclass(frozen=True)
class CalibrationRecord:
    """The result of `edgeq.calibrate`.

    Attributes:
        network: where the network came from: `model`, `weights`, `sha256`, `classes`, `keep_float`.
        preprocess: how an image becomes a tensor.
        data: the images, enough to find them again.
        observer: how activation ranges were chosen.
        layers: in order of execution.
        activations: range of every value that gets a quantizer, by the name of the node that computes it.
    """

    network: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    data: Mapping[str, Any]
    observer: str
    layers: tuple[LayerInfo, ...]
    activations: Mapping[str, ActivationRange]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        body = asdict(self)
        for layer in body["layers"]:
            layer["scales"] = {str(bits): list(scales) for bits, scales in layer["scales"].items()}
            layer["errors"] = {str(bits): error for bits, error in layer["errors"].items()}
        return body

    def to_json(self) -> str:
        """Return exactly what `save` writes."""
        return dumps("record", VERSION, self.to_dict())

    def save(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, "record", VERSION, self.to_dict())

    @staticmethod
    def load(path: Path) -> CalibrationRecord:
        """Read and check a record.

        Raises:
            ArtifactError: not a record of this version, or one that makes no sense.
        """
        body = read_json(path, "record", VERSION)
        try:
            return CalibrationRecord(
                network=dict(body["network"]),
                preprocess=dict(body["preprocess"]),
                data=dict(body["data"]),
                observer=str(body["observer"]),
                layers=tuple(_layer(layer) for layer in body["layers"]),
                activations={name: _range(name, item) for name, item in body["activations"].items()},
            )
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise ArtifactError(
                f"{path}: a damaged record ({type(error).__name__}: {error}); calibrate again"
            ) from error


def _layer(body: Mapping[str, Any]) -> LayerInfo:
    shape = tuple(int(d) for d in body["shape"])
    scales = {width.bits: tuple(float(s) for s in body["scales"][str(width.bits)]) for width in WIDTHS}
    errors = {width.bits: float(body["errors"][str(width.bits)]) for width in WIDTHS}
    if not all(map(isfinite, errors.values())):
        raise ValueError(f"layer {body['name']}: its errors {errors} are not finite")
    for bits, row in scales.items():
        if len(row) != shape[0] or not all(0 < s < float("inf") for s in row):
            raise ValueError(f"layer {body['name']}: the scales of {bits} bits are not {shape[0]} positive numbers")
    return LayerInfo(
        str(body["name"]), str(body["kind"]), int(body["position"]), shape, int(body["macs"]), scales, errors
    )


def _range(name: str, body: Mapping[str, Any]) -> ActivationRange:
    found = ActivationRange(float(body["low"]), float(body["high"]), float(body["scale"]), int(body["zero_point"]))
    if not (0 < found.scale < float("inf") and 0 <= found.zero_point <= 255):
        raise ValueError(f"activation {name}: scale {found.scale} or zero point {found.zero_point} is out of range")
    return found
