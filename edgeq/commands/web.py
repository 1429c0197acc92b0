"""What `edgeq export --format web` puts on a page: networks of other exports, and the names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.artifacts.manifest import load_manifest
from edgeq.artifacts.model_names import short_name
from edgeq.artifacts.record import CalibrationRecord
from edgeq.data import glyphs
from edgeq.data.class_folders import imagenet_ids
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError, UnsupportedError
from edgeq.exporters.web.export import WebForm
from edgeq.exporters.web.onnxruntime_web import read_package
from edgeq.frontends.sources import Source
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower
from edgeq.packed.file import load_packed
from edgeq.planning.recipe import Recipe


@dataclass(frozen=True)
class Page:
    """What is asked of a page.

    Attributes:
        beside: packed networks (.safetensors) of other exports that it runs, too.
        labels: a file with the name of one class a line; None for those that are known.
        onnxruntime_web: the folder of that npm package, for networks that the engine does not run; None to refuse them.
    """

    beside: tuple[Path, ...] = ()
    labels: Path | None = None
    onnxruntime_web: Path | None = None


def on_page(page: Page, recipe: Recipe) -> dict[str, Network | None]:
    """The networks of a page by their names; the one that is exported is not there yet: None.

    Raises:
        ArtifactError: a file is no packed network, or has no manifest beside it.
        UnsupportedError: a network that takes other inputs, or two of one name, or one that nothing on the page runs.
    """
    found: dict[str, Network | None] = {_name(recipe.scheme, recipe.budget): None}
    pixels = recipe.input == "uint8"
    for path in page.beside:
        if path.suffix != ".safetensors" or not path.is_file():
            found_there = "another file" if path.exists() else "no such file"
            raise UnsupportedError(f"--beside {path}: expected a packed network, NAME.safetensors, found {found_there}")
        manifest = load_manifest(path.with_suffix(".json"))
        if (manifest["input"] == "uint8") != pixels:
            expected, other = ("uint8", "float32") if pixels else ("float32", "uint8")
            raise UnsupportedError(f"{path}: expected a network that takes {expected}, found {other}; export it again")
        name = _name(manifest["scheme"], manifest["budget"])
        name = path.stem if name in found else name
        if name in found:
            raise UnsupportedError(f"{path}: expected a name of its own, found {name} twice; rename the file")
        found[name] = network = load_packed(path)
        if page.onnxruntime_web is None:
            check_engine(network, pixels, f"{path}, ")
    return found


def check_engine(network: Network, pixels: bool, of: str = "") -> None:
    """Refuse a packed network that edgeq's engine does not run, with any weights.

    Raises:
        UnsupportedError: a layer that the engine does not compute; `of` stands before its name.
    """
    try:
        lower(network, pixels)
    except UnsupportedError as error:
        raise UnsupportedError(f"{of}{error}; --onnxruntime-web FOLDER runs such networks") from error


def _name(scheme: str, budget: str | None) -> str:
    return f"{scheme}-{budget.replace('=', '-')}" if budget else scheme


def form_of(page: Page, source: Source, record: CalibrationRecord, preprocess: Preprocess | None) -> WebForm:
    """What stands around the networks of a record.

    Raises:
        ArtifactError: the folder of onnxruntime-web does not have its code.
        DataError: the file of labels cannot be read, or has not one a class.
    """
    if page.onnxruntime_web is not None:
        read_package(page.onnxruntime_web)  # whether it is there, before anything takes time
    return WebForm(short_name(source.model), preprocess, _labels(page, source, record), page.onnxruntime_web)


def _labels(page: Page, source: Source, record: CalibrationRecord) -> Sequence[str] | None:
    if page.labels is not None:
        try:
            lines = page.labels.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(f"{page.labels}: expected the name of one class a line: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{page.labels}: expected the name of one class a line, found no text: {error}") from error
        if len(lines) != source.classes:
            expected = f"{source.classes} lines, one a class of the network" if source.classes else "no labels"
            raise DataError(f"{page.labels}: expected {expected}, found {len(lines)} lines")
        return lines
    if source.weights == "embedded":
        return [*glyphs.CLASSES]
    ids = imagenet_ids()
    if source.classes == len(ids) and (source.weights == "imagenet" or _in_folders(record.data, ids)):
        from edgeq.frontends.torchvision import imagenet_classes

        return imagenet_classes()
    return None


def _in_folders(data: Mapping[str, object], names: Sequence[str]) -> bool:
    """Whether the images of a record lie in class folders of these names."""
    files = data.get("files")
    folders = {Path(str(entry[0])).parts[0] for entry in files} if isinstance(files, list) else set[str]()
    return bool(folders) and folders <= {*names}
