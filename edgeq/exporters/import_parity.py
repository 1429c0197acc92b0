"""Does the network that was read from an ONNX file compute what the file computes in ONNX Runtime?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, log10
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ValueInfoProto, helper

from edgeq.errors import ArtifactError, one_line
from edgeq.exporters.onnx.drop_in import with_ends
from edgeq.exporters.onnx.model import translate
from edgeq.frontends.onnx.ends import Ends
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.runtimes.onnxruntime import session_of

Feed = Mapping[str, NDArray[Any]]

_IMAGES: Final = 2


def import_parity(path: Path, network: Network, ends: Ends, feeds: Sequence[Feed] | None = None) -> dict[str, float]:
    """Compare the file with its network and what stands around it, both in ONNX Runtime without optimizations.

    Args:
        path: the file.
        network: as it was read from the file, and
        ends: what stands around it there, see `edgeq.frontends.onnx.load.Imported`.
        feeds: arrays by the names of inputs, as the file takes them; random ones if there are none.

    Returns:
        Of each output of the file the ratio of signal to difference in dB, infinite if there is none.

    Raises:
        ArtifactError: ONNX Runtime cannot run the file.
    """
    made = with_ends(translate(network, around=ends.opset).model, ends)
    try:
        ours, theirs = (session_of(one, optimize=False) for one in (made.SerializeToString(), str(path)))
        pairs = [(ours.run(None, feed), theirs.run(None, feed)) for feed in feeds or _random(ends)]
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ArtifactError(f"{path}: ONNX Runtime cannot run it: {one_line(error)}") from error
    names = [value.name for value in ends.outputs]
    return {
        name: _ratio([(found[place], wanted[place]) for found, wanted in pairs]) for place, name in enumerate(names)
    }


def feeds_of(images: Images, ends: Ends) -> list[Feed]:
    """Images one at a time, as a file takes them.

    Args:
        images: what its network takes, float32, in the order of its inputs.
        ends: of the file.
    """
    kinds = [helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type) for one in ends.inputs]
    arrays = [array.astype(kind) for array, kind in zip(images.arrays, kinds, strict=True)]
    names = [one.name for one in ends.inputs]
    return [dict(zip(names, (array[i : i + 1] for array in arrays), strict=True)) for i in range(len(arrays[0]))]


def _random(ends: Ends) -> list[Feed]:
    """A few images of random numbers, one at a time."""
    generator = np.random.default_rng(0)
    return [random_feed(ends.inputs, generator) for _ in range(_IMAGES)]


def random_feed(inputs: Iterable[ValueInfoProto], generator: np.random.Generator) -> Feed:
    """Random arrays for the inputs of a file, by their names; sizes that are open are 1."""
    return {one.name: _array(one, generator) for one in inputs}


def _array(value: ValueInfoProto, generator: np.random.Generator) -> NDArray[Any]:
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    if kind.kind == "f":
        return generator.standard_normal(shape).astype(kind)
    return generator.integers(0, 2 if kind.kind == "b" else 128, shape).astype(kind)


def _ratio(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    if any(found.shape != wanted.shape for found, wanted in pairs):
        return -inf
    signal = sum(float((wanted.astype(np.float64) ** 2).sum()) for _, wanted in pairs)
    error = sum(float(((found.astype(np.float64) - wanted) ** 2).sum()) for found, wanted in pairs)
    return inf if error == 0 else -inf if signal == 0 else 10 * log10(signal / error)
