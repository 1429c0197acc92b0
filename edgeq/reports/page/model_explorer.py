"""Node data of Model Explorer: the values of layers that it shows on the nodes of an ONNX file, by colour.

A file has one value of every layer, as `GraphNodeData` of Model Explorer's `node_data_builder` has it. The ONNX adapter
of Model Explorer calls nodes by their names in the file, and a layer has the name of its module there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Final

from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.numerics.weights import WIDTHS
from edgeq.reports.page.layers import Layer, layers_of

_MORE: Final = ("#ffffff", "#0b6bcb")
_WORSE: Final = ("#ffffff", "#be3a5b")
_BETTER: Final = ("#be3a5b", "#ffffff")

_VALUES: Final[dict[str, tuple[tuple[str, str], Callable[[Layer], float | None]]]] = {
    "bits": (_MORE, lambda layer: layer.row["bits"]),
    "bytes": (_MORE, lambda layer: layer.row["bytes"]),
    "macs": (_MORE, lambda layer: layer.row["macs"]),
    "sensitivity": (_WORSE, lambda layer: layer.row["damage"]),
    "sqnr_db": (_BETTER, lambda layer: layer.sqnr),
    "wider_bytes": (_MORE, lambda layer: layer.wider.bytes if layer.wider else None),
    "wider_drop": (_BETTER, lambda layer: layer.wider.drop if layer.wider else None),
}  # each with the colours of its least and its largest value


def node_data(manifest: Manifest, record: CalibrationRecord | None) -> Iterator[tuple[str, str]]:
    """Yield the name and the JSON of each value that the layers of an export have.

    Args:
        manifest: of the export.
        record: what it was made with, for the sensitivities at all widths and the costs of wider ones; or None.
    """
    layers = layers_of(manifest, record)
    values = dict(_VALUES)
    for bits in (width.bits for width in WIDTHS):
        values[f"sensitivity_at_{bits}"] = (_WORSE, _at(bits))
    for name, (colours, of) in values.items():
        found = {layer.row["name"]: value for layer in layers if (value := of(layer)) is not None}
        if found:
            data = {
                "name": f"edgeq: {name}",
                "results": {layer: {"value": value} for layer, value in found.items()},
                "gradient": [{"stop": stop, "bgColor": colour} for stop, colour in enumerate(colours)],
            }
            yield name, json.dumps(data, indent=1, allow_nan=False) + "\n"


def _at(bits: float) -> Callable[[Layer], float | None]:
    return lambda layer: layer.sensitivity[bits] if layer.sensitivity else None
