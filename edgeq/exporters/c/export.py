"""Export a packed network as C, with a test vector that ONNX Runtime has computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.data.preprocess import interleaved
from edgeq.errors import DataError, ParityError, UnsupportedError
from edgeq.exporters.c.folder import Vector, check_folder, too_large, write_folder
from edgeq.exporters.native_parity import compare_native
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import overflows, runner
from edgeq.ir.batches import Batch, Images
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower
from edgeq.native.library import is_compiled
from edgeq.native.program import Flag, Kind, Program
from edgeq.runtimes.native import NativeModel

_DECIDED: Final = frozenset({Kind.TABLE, Kind.SOFTMAX_CODES, Kind.AVERAGE_POOL})
"""Steps in which the last bit of a float, which CPUs differ in, may decide between two codes."""

_FLOATS_DIFFER: Final = 1e-6
_CODES_DIFFER: Final = 1e-2
"""Squares of errors, by squares of values, that the rounding of floats may cause."""


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
    check_folder(folder, force)
    program = program_of(network, form, pixels)
    seen = list(Images.each(network.graph, batches))
    if not seen:
        raise DataError("no images for the test vector; expected at least one")
    vector, compared = _vector(network, program, seen, form.integer)
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


def _vector(
    network: Network, program: Program, seen: Sequence[Images], integer: bool
) -> tuple[Vector, Mapping[str, float] | None]:
    """The first image, with what is to be made of it; and which share of all outputs is the same in ONNX Runtime.

    Raises:
        ParityError: the engine makes others, of a network that it computes as ONNX Runtime does.
    """
    pixels = not program.inputs[0].floats
    made, exact, kinds = translate(network, pixels), is_exact(program), {step.kind for step in program.steps}
    names = [one.name for one in network.graph.inputs]
    batches = [dict(zip(names, images.arrays, strict=True)) for images in seen]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(made.model.SerializeToString())
        equal = compare_native(made, path, program, batches).equal if is_compiled() else None
        if equal and exact:  # every processor makes the same bits as this one
            first = dict(zip(names, seen[0][:1].arrays, strict=True))
            outputs = [*NativeModel(program, "the test vector")(first).values()]
        else:
            outputs = [*runner(made, path, exact=overflows(network))(seen[0][:1])]
    if equal and exact and not integer and min(equal.values()) < 1 and not _DECIDED.intersection(kinds):
        worst = min(equal, key=equal.__getitem__)
        raise ParityError(f"output {worst}: {1 - equal[worst]:.2%} of its values in C are not those of ONNX Runtime")
    arrays: list[NDArray[Any]] = [array[:1].astype(np.float32) for array in seen[0].arrays]
    inputs = [interleaved(array) for array in arrays] if pixels else arrays
    vector = Vector(
        [array[0] for array in inputs], [np.asarray(array[0], np.float32) for array in outputs], _allowed(program)
    )
    return vector, equal


def _allowed(program: Program) -> float:
    """How far outputs may be from ONNX Runtime's: squares of errors, by squares of values.

    Floats differ in their last bits. Where they become codes again, such a bit decides between two codes, and the
    layers behind spread the difference.
    """
    if is_exact(program):
        return 0.0
    become_codes = any(step.kind == Kind.QUANTIZE and step.from_ >= 0 for step in program.steps)
    return _CODES_DIFFER if become_codes else _FLOATS_DIFFER


def is_exact(program: Program) -> bool:
    """Whether nothing but the ends of a program is in float, so that every processor makes the same bits of it."""
    return not any(
        (step.kind >= Kind.POINTWISE and step.kind != Kind.SOFTMAX_CODES)
        or step.flags & Flag.TO_FLOAT
        or (step.kind == Kind.QUANTIZE and step.from_ >= 0)
        or (step.kind == Kind.COPY and step.flags & Flag.FLOATS)
        for step in program.steps
    )
