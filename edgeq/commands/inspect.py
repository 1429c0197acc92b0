"""`edgeq inspect`: show the content of a file or folder that edgeq wrote, or of an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from edgeq.artifacts.files import dumps, kind_of
from edgeq.artifacts.manifest import load_manifest, read_manifest
from edgeq.artifacts.onnx_files import model_files, read_onnx, size
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import options
from edgeq.commands.console import print_json, show
from edgeq.errors import ArtifactError
from edgeq.exporters.c.folder import ABOUT, KIND, read_about
from edgeq.exporters.web.contents import is_page, read_page
from edgeq.exporters.web.page import KIND as PAGE
from edgeq.reports import tables
from edgeq.runtimes.onnx_tensors import span, tensors

_EXPECTED: Final = "a record, a manifest, an .onnx or a .safetensors file, a folder of C, or a page for browsers"


def inspect(path: Path) -> tuple[str, dict[str, Any]]:
    """Read and check any file that edgeq writes for later stages.

    Returns:
        The kind of the file and its content as JSON values: for `record` and `manifest`, the file itself; for `model`,
        an ONNX file with a manifest, the manifest with the `scales` of each layer; for `onnx`, one without a manifest,
        its initializers; for `packed`, a packed PyTorch network, its layers; for `c`, a folder of C, its `about.json`;
        for `web`, a page for browsers, what `edgeq.exporters.web.contents.read_page` reads.

    Raises:
        ArtifactError: a file of another kind, or a damaged one.
    """
    folder = path.parent if path.name == ABOUT else path
    if kind_of(folder / ABOUT) == KIND:
        return KIND, read_about(folder)
    if is_page(path):
        return PAGE, read_page(path)
    if not path.is_file():
        found = "found another folder" if path.is_dir() else "no such file"
        raise ArtifactError(f"{path}: {found}; expected {_EXPECTED}")
    if path.suffix == ".onnx":
        return _model(path)
    if path.suffix == ".safetensors":
        from edgeq.packed.contents import contents

        return "packed", contents(path)
    kind = kind_of(path)
    if kind == "record":
        return kind, json.loads(CalibrationRecord.load(path).to_json())
    if kind == "manifest":
        return kind, dict(load_manifest(path))
    raise ArtifactError(f"{path}: expected {_EXPECTED}, found {kind or 'another file'}")


def _model(path: Path) -> tuple[str, dict[str, Any]]:
    model = read_onnx(path)
    if not model.graph.node:
        raise ArtifactError(f"{path}: expected an ONNX file, found one without a network")
    if not path.with_suffix(".json").exists():
        return "onnx", {"file": path.name, "bytes": size(model_files(path, model)), "tensors": tensors(model)}
    manifest = read_manifest(path)
    for layer in manifest["layers"]:
        layer["scales"] = span(path, model, f"{layer['name']}.scale")
    return "model", dict(manifest)


@click.command("inspect")
@click.argument("file", type=options.PATH)
@options.json
def command(file: Path, as_json: bool) -> None:
    """Show what is in a record, a manifest, an .onnx or a packed .safetensors file, a folder of C or a page.

    \b
    Example:
      edgeq inspect exports/mobilenet_v2-adaptive.onnx
    """
    kind, body = inspect(file)
    if as_json:
        print_json(dumps(kind, 1, body))
    elif kind == KIND:
        click.echo(tables.c_text(file.parent if file.name == ABOUT else file, body))
    elif kind == PAGE:
        show(tables.page_table(body))
        click.echo(tables.web_text(file.parent if file.suffix == ".json" else file))
    else:
        images = tables.images_text(body)
        show(tables.content_table(kind, body))
        if images:
            click.echo(images)
        click.echo(f"{file}: {tables.content_text(kind, body)}")
