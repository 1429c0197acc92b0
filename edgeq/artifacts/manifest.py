"""The manifest beside an exported ONNX file: its fields, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypedDict, cast

from edgeq.artifacts.files import HEAD_BYTES, read_json, sha256
from edgeq.artifacts.schema import COUNT, NETWORK, NOTHING, NUMBER, PATH, POSITIVE, PREPROCESS, TEXT, TRUTH, Schema
from edgeq.errors import ArtifactError

KIND: Final = "manifest"
VERSION: Final = 5


class Manifest(TypedDict):
    """The fields of a manifest; docs/formats.md says what each one means."""

    file: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    bytes: int
    sha256: str
    opset: int
    scheme: str
    policy: str | None
    budget: str | None
    missed: str | None
    act_bits: int
    portable: bool
    damage: float
    drop: float
    effort: str
    seed: int
    input: str
    network: dict[str, Any]
    preprocess: dict[str, Any]
    data: dict[str, Any]
    observer: str
    macs: int
    bitops: int
    bitops_with_accumulator: int
    parity: dict[str, Any]
    versions: dict[str, str | None]
    layers: list[dict[str, Any]]
    in_float: dict[str, str]
    slow_kernels: dict[str, str]
    layer_sqnr_db: dict[str, float | None]
    drop_in: dict[str, Any] | None


_SCHEMA: Final[Schema] = {
    "file": PATH,
    "bytes": POSITIVE,
    "sha256": TEXT,
    "outputs": [{"task": TEXT}],
    "scheme": TEXT,
    "act_bits": COUNT,
    "portable": TRUTH,
    "budget": (TEXT, None),
    "missed": (TEXT, None),
    "drop": NUMBER,
    "effort": TEXT,
    "macs": COUNT,
    "bitops": COUNT,
    "network": NETWORK,
    "preprocess": (PREPROCESS, NOTHING),
    "layers": [
        {"name": TEXT, "kind": TEXT, "position": COUNT, "shape": [COUNT], "bits": POSITIVE, "weights": COUNT}
        | {"macs": COUNT, "bytes": COUNT, "bitops": COUNT, "damage": NUMBER}
    ],
    "parity": {"outputs": {str: {}}, "nodes_within_one_step": NUMBER},
    "in_float": {str: TEXT},
    "slow_kernels": {str: TEXT},
    "layer_sqnr_db": {str: (NUMBER, None)},
    "versions": {str: (TEXT, None)},
}
"""The fields that readers of a manifest rely on."""


def load_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ArtifactError: no such file, not a manifest of this version, or a damaged one.
    """
    return cast(Manifest, read_json(path, KIND, VERSION, _SCHEMA, "export again"))


def is_described(path: Path) -> bool:
    """Whether an ONNX file has a manifest of edgeq beside it, damaged or not."""
    try:
        with path.with_suffix(".json").open("rb") as file:
            return b'"edgeq-manifest"' in file.read(HEAD_BYTES)
    except OSError:
        return False


def read_manifest(path: Path) -> Manifest:
    """Read the manifest beside an ONNX file, and check that it describes this file.

    Raises:
        ArtifactError: no such file, no manifest beside it, a damaged one, or one of another file.
    """
    manifest_path = path.with_suffix(".json")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected an .onnx file that `edgeq export` wrote")
    if not manifest_path.is_file():
        raise ArtifactError(
            f"{path}: expected its manifest {manifest_path.name} beside it, found none; export it again"
        )
    manifest = load_manifest(manifest_path)
    if manifest["sha256"] != sha256(path):
        raise ArtifactError(f"{path}: changed since {manifest_path.name} was written; export it again")
    return manifest


def exact_everywhere(manifest: Manifest) -> bool:
    """Whether the int8 kernels of all CPUs compute a file without overflow, see `edgeq.numerics.weights.BitWidth`."""
    in_integers = manifest["act_bits"] == 8 and not manifest["portable"]
    return not (in_integers and any(layer["bits"] == 8 for layer in manifest["layers"]))
