"""The manifest that lies beside an exported ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeq.artifacts.files import HEAD_BYTES, read_json, sha256
from edgeq.artifacts.schema import COUNT, NETWORK, NOTHING, PATH, POSITIVE, PREPROCESS, TEXT, TRUTH, Form
from edgeq.errors import ArtifactError

MANIFEST: Final[Form] = {
    "file": PATH,
    "bytes": POSITIVE,
    "sha256": TEXT,
    "scheme": TEXT,
    "act_bits": COUNT,
    "portable": TRUTH,
    "bitops": COUNT,
    "network": NETWORK,
    "preprocess": (PREPROCESS, NOTHING),
    "layers": [
        {"name": TEXT, "kind": TEXT, "position": COUNT, "shape": [COUNT], "bits": COUNT, "weights": COUNT}
        | {"bytes": COUNT, "bitops": COUNT}
    ],
    "parity": {},
}
"""What those who read a manifest rely on."""


MANIFEST_VERSION: Final = 2
"""Of the manifest beside an ONNX file; here because those who read it must not import what writes it."""


def is_described(path: Path) -> bool:
    """Whether an ONNX file has a manifest of edgeq beside it, damaged or not."""
    try:
        with path.with_suffix(".json").open("rb") as file:
            return b'"edgeq-manifest"' in file.read(HEAD_BYTES)
    except OSError:
        return False


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest beside an ONNX file.

    Raises:
        ArtifactError: there is no such file or no manifest, it is damaged, or it describes another file.
    """
    manifest_path = path.with_suffix(".json")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected an .onnx file that `edgeq export` wrote")
    if not manifest_path.is_file():
        raise ArtifactError(
            f"{path}: expected its manifest {manifest_path.name} beside it, found none; export it again"
        )
    manifest = read_json(manifest_path, "manifest", MANIFEST_VERSION, MANIFEST, "export again")
    if manifest["sha256"] != sha256(path):
        raise ArtifactError(f"{path}: changed since {manifest_path.name} was written; export it again")
    return manifest
