"""Export packed networks as a page that classifies images in a browser, with known answers of ONNX Runtime."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.artifacts.files import check_output, dumps, replacing
from edgeq.artifacts.folders import check_folder, replacing_folder, written_in
from edgeq.data.preprocess import Preprocess
from edgeq.errors import UnsupportedError
from edgeq.exporters.web.answers import IMAGES, asked
from edgeq.exporters.web.onnxruntime_web import ENGINE, for_onnxruntime, read_package
from edgeq.exporters.web.page import ABOUT, KIND, LABELS, NETWORK, VERSION, code_files, page_files, single_file
from edgeq.exporters.web.runnable import Runnable, for_engine
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower


@dataclass(frozen=True)
class WebForm:
    """What stands around networks on a page.

    Attributes:
        title: its heading.
        preprocess: of the images that all networks take; None for networks that take none. The page then only shows
            the self-test.
        labels: the names of the classes, if they are known.
        onnxruntime_web: the folder of the npm package onnxruntime-web, to run networks that the engine does not; None
            to refuse those.
    """

    title: str = "edgeq"
    preprocess: Preprocess | None = None
    labels: Sequence[str] | None = None
    onnxruntime_web: Path | None = None


def export_web(
    networks: Mapping[str, Network],
    output: Path | str,
    form: WebForm = WebForm(),
    *,
    pixels: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write packed networks as a page: a single HTML file, or a folder for a web server and for your own page.

    Args:
        networks: from `edgeq.pack`, with 8-bit activations, by the names that the page gives them; with
            `form.onnxruntime_web` any network, also a float one.
        output: a path that ends in `.html`, or a folder to make.
        form: what stands around them.
        pixels: whether the networks take the image in uint8.
        force: replace a file that edgeq did not write, but never a folder with files of others in it.

    Returns:
        What `page.json` in the folder says, see docs/formats.md, and under `about` what the file of each network says.

    Raises:
        ArtifactError: the folder of onnxruntime-web does not have its code.
        UnsupportedError: a layer that the engine does not compute; names that are no names of files, or labels of
            another number of classes.
        OutputError: the output is not edgeq's, or cannot be written.
        ParityError: the engine does not compute what ONNX Runtime does.

    Example:
        >>> made = edgeq.export_web({"4bit": packed}, Path("net.html"))
        >>> made["networks"]
        ['4bit']
    """
    output = Path(output)
    check_web(output, force)
    if not networks:
        raise UnsupportedError("expected at least one network for a page, found none")
    for name in networks:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UnsupportedError(f"network {name!r}: expected a name of letters, digits and . _ -, as files have it")
    files = dict[str, bytes]()
    abouts = {name: _network(name, network, form, pixels, files) for name, network in networks.items()}
    if form.labels is not None:
        files[LABELS] = json.dumps([*form.labels], ensure_ascii=False).encode()
    engines = {about["engine"] for about in abouts.values()}
    code = code_files(engines)
    if form.onnxruntime_web is not None and ENGINE in engines:
        code |= read_package(form.onnxruntime_web)
    sizes = {name: len(content) for name, content in code.items()}
    page = {"title": form.title, "networks": [*networks], "code": sizes}
    if output.suffix == ".html":
        files[ABOUT] = dumps(KIND, VERSION, page).encode()
        with replacing(output) as temporary:
            temporary.write_bytes(single_file(form.title, {**files, **code}))
    else:
        with replacing_folder(output, ABOUT) as made:
            for name, content in {**files, **code, **page_files(form.title, code.keys())}.items():
                (made / name).write_bytes(content)
            (made / ABOUT).write_text(dumps(KIND, VERSION, {**page, "files": [ABOUT, *written_in(made)]}))
    return {**page, "about": abouts}


def check_web(output: Path, force: bool) -> None:
    """Refuse to replace what edgeq did not write: a file or a folder.

    Raises:
        OutputError: there is something else at this path.
    """
    if output.suffix == ".html":
        check_output(output, force)
    else:
        check_folder(output, ABOUT, KIND, force)


def _network(name: str, network: Network, form: WebForm, pixels: bool, files: dict[str, bytes]) -> dict[str, Any]:
    """Add the files of one network, and return what its own says."""
    classes = _classes(network.graph)
    if form.labels is not None and classes is not None and len(form.labels) != classes:
        raise UnsupportedError(f"network {name}: expected labels of {classes} classes, found {len(form.labels)}")
    made = _runnable(network, form, pixels)
    own, known = f"{name}{made.suffix}", f"{name}.answers"
    about = {
        "name": name, "program": own, **made.about(), "classes": classes,
        "labels": None if form.labels is None else LABELS,
        "preprocess": form.preprocess.to_dict() if form.preprocess else None,
        "answers": {"file": known, "images": IMAGES, "allowed": made.allowed},
    }  # fmt: skip
    answers = [np.ascontiguousarray(values[i], np.float32).tobytes() for i in range(IMAGES) for values in made.answers]
    files |= {f"{name}.json": dumps(NETWORK, VERSION, about).encode(), own: made.content, known: b"".join(answers)}
    return about


def _runnable(network: Network, form: WebForm, pixels: bool) -> Runnable:
    """The network for edgeq's engine, or for onnxruntime-web, if it is there, where the engine does not take it."""
    questions = asked(network.graph, pixels, form.preprocess)
    try:
        program = lower(network, pixels)
    except UnsupportedError:
        if form.onnxruntime_web is None:
            raise
        return for_onnxruntime(network, pixels, questions)
    return for_engine(network, program, questions)


def _classes(graph: Graph) -> int | None:
    """How many classes a network scores; None unless that is all it does."""
    shape = graph.shapes()[graph.outputs[0].value]
    return shape[0] if len(graph.outputs) == len(shape) == 1 and graph.outputs[0].task == "classification" else None
