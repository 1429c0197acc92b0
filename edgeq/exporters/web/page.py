"""The files of a page: its code, and all of it in one file."""

from __future__ import annotations

import base64
import gzip
import html
from collections.abc import Mapping, Set
from importlib.metadata import version
from importlib.resources import files
from typing import Final

from edgeq.native.wasm import read_engine

KIND: Final = "web"
NETWORK: Final = "web-network"
VERSION: Final = 1
ABOUT: Final = "page.json"
"""What is on the page."""
LABELS: Final = "labels.json"
_MODULE: Final = "edgeq.js"
_IMPORT: Final = 'from "./edgeq.js";\n'
_LINKED: Final = ('<link rel="stylesheet" href="page.css">', '<script type="module" src="page.js"></script>')


def code_files(kinds: Set[str]) -> dict[str, bytes]:
    """The module, its types and the engines that some networks need.

    Args:
        kinds: `integer`, `float` or both; others have no code of edgeq.
    """
    engines = [*(["integer", "relaxed"] if "integer" in kinds else []), *(["float"] if "float" in kinds else [])]
    return {_MODULE: _client(_MODULE), "edgeq.d.ts": _client("edgeq.d.ts"), **dict(map(read_engine, engines))}


def page_files(title: str, code: Set[str]) -> dict[str, bytes]:
    """The page itself, which reads the other files, of which `code` are code."""
    return {"index.html": _page(title, code).encode(), "page.css": _client("page.css"), "page.js": _client("page.js")}


def single_file(title: str, content: Mapping[str, bytes]) -> bytes:
    """The page with everything in it: code as it is, other files in gzip and base64.

    Args:
        title: its heading.
        content: files by their names.
    """
    module = content[_MODULE].decode().replace("\nexport ", "\n")
    before, _, after = _client("page.js").decode().partition(_IMPORT)
    comment, _, _ = before.rpartition("import ")
    block = f"{comment}{{\n{after}}}"  # the names of the page are its own
    style, script = f"<style>\n{_client('page.css').decode()}</style>", f"{module}{block}"
    data = [
        f'<script type="application/gzip" id="{name}">{base64.b64encode(gzip.compress(body, 9, mtime=0)).decode()}'
        "</script>\n"
        for name, body in content.items()
        if not name.endswith((".js", ".ts"))
    ]
    linked, run = _LINKED
    page = _page(title, content.keys()).replace(linked, style)
    page = page.replace(run, f'{"".join(data)}<script type="module">\n{script}</script>')
    return page.encode()


def _page(title: str, files: Set[str]) -> str:
    page = _client("index.html").decode()
    imports = any(name.endswith(".mjs") for name in files)  # onnxruntime-web is read and imported, also in one file
    for name, value in {"TITLE": title, "VERSION": version("edgeq"), "BLOB": " blob:" * imports}.items():
        page = page.replace(f"@{name}@", html.escape(value))
    return page


def _client(name: str) -> bytes:
    return (files("edgeq") / "exporters" / "web" / "client" / name).read_bytes()
