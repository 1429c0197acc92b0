"""Files of arrays: what a network takes for one sample, as NumPy saves it.

A `.npy` file has the one input of a network, a `.npz` file an array for each input by its name. Only headers and
numbers are read, nothing is unpickled; the header is checked first, so that a small file cannot claim a large array.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import DataError

ARRAYS: Final = frozenset((".npy", ".npz"))
"""Suffixes of files of arrays, in lower case."""

_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Read one sample.

    Args:
        path: a `.npy` or `.npz` file, whose arrays have the shape of an input, or a batch dimension of 1 before it.
        shapes: the shape of every input of the network by its name, without the batch.

    Returns:
        For each input, by its name, the array as float32 of its shape.

    Raises:
        DataError: an array is missing, of another input or shape, no numbers, or not finite.
        ValueError, OSError, zipfile.BadZipFile: a damaged file.
    """
    if path.suffix.lower() == ".npy":
        if len(shapes) > 1:
            raise DataError(f"{path}: expected a .npz file with the inputs {', '.join(shapes)}, found a single array")
        ((name, shape),) = shapes.items()
        with path.open("rb") as stream:
            return {name: _array(stream, shape, f"{path}")}
    with zipfile.ZipFile(path) as archive:
        members = {member.removesuffix(".npy"): member for member in archive.namelist()}
        if members.keys() != shapes.keys():
            found = ", ".join(members) or "nothing"
            raise DataError(f"{path}: expected arrays with the names of the inputs, {', '.join(shapes)}, found {found}")
        arrays = {}
        for name, shape in shapes.items():
            with archive.open(members[name]) as stream:
                arrays[name] = _array(stream, shape, f"{path}: input {name}")
        return arrays


def _array(stream: IO[bytes], expected: tuple[int, ...], where: str) -> NDArray[np.float32]:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the format, which is not for numbers")
    shape, by_columns, dtype = _HEADERS[version](stream)
    if dtype.kind not in "fiub":
        raise DataError(f"{where}: expected an array of numbers, found {dtype}")
    if shape not in (expected, (1, *expected)):
        raise DataError(f"{where}: expected an array {list(expected)}, found {list(shape)}")
    content = stream.read(prod(shape) * dtype.itemsize)
    numbers: NDArray[Any] = np.frombuffer(content, dtype, prod(shape)).reshape(shape, order="F" if by_columns else "C")
    with np.errstate(over="ignore"):
        array = np.array(numbers, np.float32, order="C").reshape(expected)
    if not np.isfinite(array).all():
        raise DataError(f"{where}: holds values that are not finite in float32; expected finite ones")
    return array
