"""Reads what a folder holds of one network: manifests, evaluations, benches, sweeps, and the record behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeq.artifacts.files import HEAD_BYTES
from edgeq.artifacts.manifest import KIND as MANIFEST
from edgeq.artifacts.manifest import Manifest, load_manifest, read_manifest
from edgeq.artifacts.measured import BENCH, EVALUATION, SWEEP
from edgeq.artifacts.model_names import short_name
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import ArtifactError
from edgeq.planning.plan import in_larger_steps

Body = Mapping[str, Any]

_KINDS: Final = {kind.name: kind for kind in (EVALUATION, BENCH, SWEEP)}
_NAMED: Final = re.compile(rb'"format":\s*"edgeq-([\w-]+)"')


@dataclass(frozen=True)
class Folder:
    """What was found; paths are relative to the folder.

    Attributes:
        path: of the folder.
        exports: manifests by the path of the ONNX file that they describe, in order of their names.
        evaluations, benches, sweeps: reports by their paths.
    """

    path: Path
    exports: Mapping[str, Manifest]
    evaluations: Mapping[str, Body]
    benches: Mapping[str, Body]
    sweeps: Mapping[str, Body]

    @property
    def network(self) -> Body:
        """Where the network came from; empty for one of the API."""
        return next(iter(self.exports.values()))["network"]

    @property
    def name(self) -> str:
        """What the network is called."""
        return short_name(str(self.network.get("model", "network")))


def read_folder(path: Path) -> Folder:
    """Read all artifacts in a folder and those below it.

    Raises:
        ArtifactError: no export, exports of several networks, a damaged artifact, or an ONNX file that has changed
            since its manifest was written.
    """
    if not path.is_dir():
        found = "found a file" if path.exists() else "no such folder"
        raise ArtifactError(f"{path}: expected a folder of exports, {found}; name the one that `edgeq export` wrote to")
    exports: dict[str, Manifest] = {}
    reports: dict[str, dict[str, Body]] = {name: {} for name in _KINDS}
    for file in sorted(path.rglob("*.json")):
        kind, name = _kind(file), str(file.relative_to(path))
        if kind == MANIFEST:
            model = file.with_suffix(".onnx")
            manifest = read_manifest(model) if model.exists() else load_manifest(file)
            exports[str(Path(name).with_suffix(".onnx"))] = manifest
        elif kind in _KINDS:
            reports[kind][name] = _KINDS[kind].read(file)
    if not exports:
        raise ArtifactError(f"{path}: expected manifests of exported models, found none; run `edgeq export` first")
    _check_one_network(path, exports)
    return Folder(path, exports, reports[EVALUATION.name], reports[BENCH.name], reports[SWEEP.name])


def _kind(file: Path) -> str | None:
    """The kind of an artifact, damaged or not: by the head of the file, its usual name, or the files beside it."""
    try:
        with file.open("rb") as opened:
            found = _NAMED.search(opened.read(HEAD_BYTES))
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {error.strerror or error}") from error
    if found:
        return found[1].decode()
    if file.stem in _KINDS:
        return file.stem
    exported = all(file.with_suffix(ending).exists() for ending in (".onnx", ".safetensors"))
    return MANIFEST if exported else None


def _check_one_network(path: Path, exports: Mapping[str, Manifest]) -> None:
    first, *others = exports
    for other in others:
        one, two = (exports[name]["network"] for name in (first, other))
        if (one.get("model"), one.get("sha256")) != (two.get("model"), two.get("sha256")):
            raise ArtifactError(
                f"{path}: expected exports of one network, found {first} of {one.get('model')} and {other} of "
                f"{two.get('model')} or of other weights; put them into folders of their own"
            )


def belongs(record: CalibrationRecord, manifest: Manifest) -> bool:
    """Whether an export was made with a record: the sensitivity of its layers is as good as a digest."""
    layers, rows = (in_larger_steps(record) if manifest["portable"] else record).layers, manifest["layers"]
    return len(layers) == len(rows) and all(
        (layer.name, layer.sensitivity.get(row["bits"], 0.0)) == (row["name"], row["damage"])
        for layer, row in zip(layers, rows, strict=True)
    )
