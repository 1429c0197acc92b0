"""Does the native engine compute what ONNX Runtime computes, bit for bit?

Both add products in int32 and make codes of sums by the same products in float32, so there is nothing to tolerate: one
other bit in an output is an error of a kernel or of the program. The exception is what both compute in float: it may
differ in the last bits, and codes that are made of it by a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import DataError
from edgeq.exporters.onnx.model import Translation
from edgeq.exporters.parity import overflows, runner
from edgeq.ir.batches import Batch, Images
from edgeq.native.program import Program
from edgeq.runtimes.native import NativeModel


@dataclass(frozen=True)
class NativeParity:
    """How many values are the same in the native engine and in ONNX Runtime.

    Attributes:
        images: images compared.
        equal: share of the values with the same bits, of every output by its name.
    """

    images: int
    equal: Mapping[str, float]


def compare_native(made: Translation, path: Path, program: Program, batches: Iterable[Batch]) -> NativeParity:
    """Run an ONNX file, and the program of the packed network that it was made of, on the same images.

    Args:
        made: the translation of the packed network.
        path: of its ONNX file.
        program: what the network was lowered to.
        batches: what the network takes for some images each.

    Raises:
        UnsupportedError: the engine was not compiled.
        DataError: no images.
    """
    graph = made.source.graph
    native = NativeModel(program, path.name)
    theirs = runner(made, path, exact=overflows(made.source))
    same, images = {output.name: list[NDArray[np.bool_]]() for output in graph.outputs}, 0
    for some in Images.each(graph, batches):
        found = native(dict(zip((one.name for one in graph.inputs), some.arrays, strict=True)))
        for output, expected in zip(graph.outputs, theirs(some), strict=True):
            same[output.name].append((_bits(found[output.name]) == _bits(expected)).reshape(-1))
        images += len(some)
    if not images:
        raise DataError("no images to compare the native engine on; expected at least one")
    return NativeParity(images, {name: float(np.concatenate(parts).mean()) for name, parts in same.items()})


def _bits(values: NDArray[Any]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)
