"""Export a packed network as C, with a test vector that ONNX Runtime has computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.data.preprocess import interleaved
from edgeq.errors import DataError, UnsupportedError
from edgeq.exporters.c.folder import Vector, check_folder, too_large, write_folder
from edgeq.exporters.onnx.model import translate
from edgeq.ir.batches import Batch, Images
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower
from edgeq.native.program import Flag, Kind, Program
from edgeq.runtimes.onnxruntime import EXACT, session_of


@dataclass(frozen=True)
class CForm:
    """How a network is written as C.

    Attributes:
        mapped: whether the weights are a file that the caller passes the content of; else an array in the sources.
        most_ram: bytes that the network may take while it runs; None for any number.
    """

    mapped: bool = False
    most_ram: int | None = None


def export_c(
    network: Network,
    folder: Path | str,
    batches: Iterable[Batch],
    form: CForm = CForm(),
    *,
    pixels: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write a packed network as a folder of C99 sources, which need nothing but a compiler.

    Args:
        network: from `edgeq.pack`, with 8-bit activations.
        folder: to make; its name is that of the network's functions.
        batches: images, float32 `[n, *shape]` each; the first image is the test vector.
        form: how.
        pixels: whether the network takes the image in uint8, `[rows, columns, channels]`.
        force: replace a folder that edgeq did not write.

    Returns:
        What `about.json` in the folder says: name, bytes of the arena and of the weights, number of steps.

    Raises:
        UnsupportedError: a layer that the engine does not compute, or that needs more RAM than the form allows.
        OutputError: the folder is not edgeq's, or cannot be written.
        DataError: no images.
    """
    folder = Path(folder)
    check_folder(folder, force)
    program = program_of(network, form, pixels)
    return write_folder(folder, program, _vector(network, program, batches, pixels), form.mapped)


def program_of(network: Network, form: CForm, pixels: bool) -> Program:
    """Lower a network for C: also one of any weights, to refuse it before they are rounded.

    Args:
        network: as for `export_c`.
        form: how it is to be written.
        pixels: whether it takes the image in uint8.

    Raises:
        UnsupportedError: as for `export_c`.
    """
    program = lower(network, pixels)
    if form.most_ram is not None and program.arena > form.most_ram:
        raise UnsupportedError(too_large(program, form.most_ram))
    return program


def _vector(network: Network, program: Program, batches: Iterable[Batch], pixels: bool) -> Vector:
    images = next(Images.each(network.graph, batches), None)
    if images is None:
        raise DataError("no images for the test vector; expected at least one")
    arrays: list[NDArray[Any]] = [array[:1] for array in images.arrays]
    if pixels:
        arrays = [interleaved(array) for array in arrays]
    session = session_of(translate(network, pixels).model.SerializeToString(), settings=EXACT)
    made = session.run(None, dict(zip((one.name for one in session.get_inputs()), arrays, strict=True)))
    exact = [_in_integers(program)] * len(made)
    return Vector([array[0] for array in arrays], [np.asarray(array[0], np.float32) for array in made], exact)


def _in_integers(program: Program) -> bool:
    """Whether nothing but the ends of a program is in float."""
    return not any(
        (step.kind >= Kind.POINTWISE and step.kind != Kind.SOFTMAX_CODES)
        or step.flags & Flag.TO_FLOAT
        or (step.kind == Kind.QUANTIZE and step.from_ >= 0)
        or (step.kind == Kind.COPY and step.flags & Flag.FLOATS)
        for step in program.steps
    )
