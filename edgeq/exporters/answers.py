"""What a program of the native engine has to answer: for those who run it elsewhere, to test it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ParityError
from edgeq.exporters.native_parity import compare_native
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import overflows, runner
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.native.library import is_compiled
from edgeq.native.program import Flag, Kind, Program
from edgeq.runtimes.native import NativeModel

_DECIDED: Final = frozenset({Kind.TABLE, Kind.SOFTMAX_CODES, Kind.AVERAGE_POOL})
"""Steps in which the last bit of a float, which CPUs differ in, may decide between two codes."""

FLOATS_DIFFER: Final = 1e-6
CODES_DIFFER: Final = 1e-2
"""Squares of errors, by squares of values, that the rounding of floats may cause."""


def known_answers(
    network: Network, program: Program, seen: Sequence[Images], asked: Images
) -> tuple[list[NDArray[np.float32]], Mapping[str, float] | None]:
    """Compare a program with ONNX Runtime, and run one of them.

    Args:
        network: packed.
        program: of the network.
        seen: images to compare on.
        asked: images to answer, `n` of them.

    Returns:
        The outputs for `asked`, float32 `[n, *shape]` each: those of the program where every processor makes the same
        bits of it, else ONNX Runtime's. And which share of the values of every output is the same in both, on all of
        `seen`; None where the engine was not compiled.

    Raises:
        ParityError: they differ in a network that the engine computes as ONNX Runtime does.
    """
    pixels = not program.inputs[0].floats
    made, exact, kinds = translate(network, pixels), is_exact(program), {step.kind for step in program.steps}
    names = [one.name for one in network.graph.inputs]
    batches = [dict(zip(names, images.arrays, strict=True)) for images in seen]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(made.model.SerializeToString())
        equal = compare_native(made, path, program, batches).equal if is_compiled() else None
        outputs: list[NDArray[Any]]
        if equal and exact:
            outputs = [*NativeModel(program, "known answers")(dict(zip(names, asked.arrays, strict=True))).values()]
        else:
            outputs = [*runner(made, path, exact=overflows(network))(asked)]
    scaled = any(step.flags & Flag.INTEGER for step in program.steps)
    if equal and exact and not scaled and min(equal.values()) < 1 and not _DECIDED.intersection(kinds):
        worst = min(equal, key=equal.__getitem__)
        raise ParityError(
            f"output {worst}: {1 - equal[worst]:.2%} of the engine's values are not those of ONNX Runtime"
        )
    return [np.asarray(array, np.float32) for array in outputs], equal


def allowed(program: Program) -> float:
    """How far outputs on other processors may be from ONNX Runtime's: squares of errors, by squares of values.

    Floats differ in their last bits. Where they become codes again, such a bit decides between two codes, and the
    layers behind spread the difference.
    """
    if is_exact(program):
        return 0.0
    become_codes = any(step.kind == Kind.QUANTIZE and step.from_ >= 0 for step in program.steps)
    return CODES_DIFFER if become_codes else FLOATS_DIFFER


def is_exact(program: Program) -> bool:
    """Whether nothing but the ends of a program is in float, so that every processor makes the same bits of it."""
    return not any(
        (step.kind >= Kind.POINTWISE and step.kind != Kind.SOFTMAX_CODES)
        or step.flags & Flag.TO_FLOAT
        or (step.kind == Kind.QUANTIZE and step.from_ >= 0)
        or (step.kind == Kind.COPY and step.flags & Flag.FLOATS)
        for step in program.steps
    )
