"""Read what a page for browsers says of itself."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edgeq.artifacts.files import checked_json
from edgeq.artifacts.schema import COUNT, NUMBER, TEXT, Schema
from edgeq.errors import ArtifactError
from edgeq.exporters.web.page import ABOUT, KIND, NETWORK, VERSION

_PAGE: Final[Schema] = {"title": TEXT, "networks": [TEXT], "code": {str: COUNT}}
_NETWORK: Final[Schema] = {
    "name": TEXT, "program": TEXT, "bytes": COUNT, "arena": (COUNT, None), "engine": TEXT,
    "equal": ({str: NUMBER}, None), "classes": (COUNT, None),
}  # fmt: skip
_ELEMENT: Final = re.compile(rb'<script type="application/gzip" id="([\w.-]+\.json)">([A-Za-z0-9+/=]*)</script>')
_MOST: Final = 1 << 20  # bytes of what is said of a network; a hostile page could hold more


def is_page(path: Path) -> bool:
    """Whether there may be a page: a folder with its file, this file itself, or an HTML file."""
    return path.suffix == ".html" or path.name == ABOUT or (path.is_dir() and (path / ABOUT).is_file())


def read_page(path: Path) -> dict[str, Any]:
    """Read what a page says of itself, and, under `about`, of each of its networks.

    Args:
        path: a page in one file, a folder, or the `page.json` in it.

    Raises:
        ArtifactError: no page of edgeq, or a damaged one.
    """
    find = _in_file(path) if path.suffix == ".html" else _in_folder(path.parent if path.name == ABOUT else path)

    def read(name: str, kind: str, schema: Schema) -> dict[str, Any]:
        return checked_json(find(name), f"{path}, {name}", kind, VERSION, schema, "export it again")

    page = read(ABOUT, KIND, _PAGE)
    return {**page, "about": {name: read(f"{name}.json", NETWORK, _NETWORK) for name in page["networks"]}}


def _in_folder(folder: Path) -> Callable[[str], bytes]:
    def find(name: str) -> bytes:
        if Path(name).name != name:
            raise ArtifactError(f"{folder}, {name}: expected the name of a file in the folder; export it again")
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{folder}: expected a file {name} that can be read; export it again") from error

    return find


def _in_file(path: Path) -> Callable[[str], bytes]:
    try:
        elements = {name.decode(): content for name, content in _ELEMENT.findall(path.read_bytes())}
    except OSError as error:
        raise ArtifactError(f"{path}: no such file, or none that can be read") from error

    def find(name: str) -> bytes:
        if name not in elements:
            raise ArtifactError(f"{path}: expected a page of edgeq with {name} in it, found another file")
        try:
            made = zlib.decompressobj(wbits=31).decompress(base64.b64decode(elements[name]), _MOST + 1)
        except (ValueError, zlib.error) as error:
            raise ArtifactError(f"{path}, {name}: a damaged page: {error}; export it again") from error
        if len(made) > _MOST:
            raise ArtifactError(f"{path}, {name}: a damaged page: expected at most {_MOST} bytes; export it again")
        return made

    return find
