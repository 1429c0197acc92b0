"""Export a packed network as C, with a test vector that ONNX Runtime has computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.artifacts.folders import check_folder
from edgeq.data.preprocess import interleaved
from edgeq.errors import DataError, UnsupportedError
from edgeq.exporters.answers import allowed, known_answers
from edgeq.exporters.c.folder import ABOUT, KIND, Vector, too_large, write_folder
from edgeq.ir.batches import Batch, Images
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower
from edgeq.native.library import is_compiled
from edgeq.native.program import Program


@dataclass(frozen=True)
class CForm:
    """How a network is written as C.

    Attributes:
        mapped: whether the weights are a file that the caller passes the content of; else an array in the sources.
        integer: whether sums are scaled in integers, for processors without floats: few codes are then a step apart
            from ONNX Runtime's, before errors spread.
        most_ram: bytes that the network may take while it runs; None for any number.
        threads: how many may run the network together, each with memory of its own.
    """

    mapped: bool = False
    integer: bool = False
    most_ram: int | None = None
    threads: int = 1


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
        batches: images, float32 `[n, *shape]` each, to compare with ONNX Runtime; the first is the test vector.
        form: how.
        pixels: whether the network takes the image in uint8, `[rows, columns, channels]`.
        force: replace a file at this path, but never a folder with files of others in it.

    Returns:
        What `about.json` in the folder says: name, bytes of the arena and of the weights, number of steps; and `equal`:
        for every output, which share of its values the engine makes as ONNX Runtime does, bit for bit, on all images.
        It is None where the engine was not compiled; `make check` tells it then.

    Raises:
        UnsupportedError: a layer that the engine does not compute, or that needs more RAM than the form allows.
        OutputError: the folder is not edgeq's, or cannot be written.
        DataError: no images.
        ParityError: the engine does not compute what ONNX Runtime does.

    Example:
        >>> about = edgeq.export_c(packed, Path("net"), batches)
        >>> about["name"], about["steps"]
        ('net', 5)
    """
    folder = Path(folder)
    check_folder(folder, ABOUT, KIND, force)
    program = program_of(network, form, pixels)
    seen = list(Images.each(network.graph, batches))
    if not seen:
        raise DataError("no images for the test vector; expected at least one")
    first = seen[0][:1]
    outputs, compared = known_answers(network, program, seen, first)
    arrays: list[NDArray[Any]] = [array.astype(np.float32) for array in first.arrays]
    inputs = [interleaved(array) for array in arrays] if pixels else arrays
    vector = Vector([array[0] for array in inputs], [array[0] for array in outputs], allowed(program))
    return write_folder(folder, program, vector, form.mapped, compared)


def program_of(network: Network, form: CForm, pixels: bool) -> Program:
    """Lower a network for C: also one of any weights, to refuse it before they are rounded.

    Args:
        network: as for `export_c`.
        form: how it is to be written.
        pixels: whether it takes the image in uint8.

    Raises:
        UnsupportedError: as for `export_c`.
    """
    if form.integer and not is_compiled():
        raise UnsupportedError(
            "scaling in integers: expected the compiled engine, which says what it costs, found none; install gcc or "
            "clang, then edgeq again"
        )
    program = lower(network, pixels, form.threads)
    program = program.in_integers() if form.integer else program
    if form.most_ram is not None and program.arena > form.most_ram:
        raise UnsupportedError(too_large(program, form.most_ram))
    return program
