"""Batches of images on their way into a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.errors import DataError
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network, as_tensor

Batch = NDArray[np.float32] | Mapping[str, NDArray[np.float32]]
"""What a network takes for some images: float32 `[n, *shape]`; if it has several inputs, one array each by name."""


@dataclass(frozen=True)
class Images:
    """The inputs of a network for some images, in order: one array `[n, *shape]` each.

    Attributes:
        arrays: float32.
    """

    arrays: tuple[NDArray[np.float32], ...]

    @staticmethod
    def of(graph: Graph, batch: Batch) -> Images:
        """Check a batch.

        Raises:
            DataError: an input is missing, no array, not `[n, *shape]`, or not finite.
        """
        names = [one.name for one in graph.inputs]
        if not isinstance(batch, Mapping):
            if len(names) > 1:
                raise DataError(f"expected batches with the inputs {', '.join(names)} by name, found one array")
            batch = {names[0]: batch}
        if batch.keys() != {*names}:
            found = ", ".join(map(str, batch)) or "nothing"
            raise DataError(f"expected batches with the inputs {', '.join(names)}, found {found}")
        what = "images" if len(names) == 1 else "the input {}"
        arrays = tuple(_checked(batch[one.name], one.shape, what.format(one.name)) for one in graph.inputs)
        if len({len(array) for array in arrays}) > 1:
            sizes = ", ".join(f"{name} {len(array)}" for name, array in zip(names, arrays, strict=True))
            raise DataError(f"expected as many images in each input of a batch, found {sizes}")
        return Images(arrays)

    @staticmethod
    def each(graph: Graph, batches: Iterable[Batch]) -> Iterator[Images]:
        """Check batches one after the other.

        Raises:
            DataError: they are no iterable of batches, or as for `of`.
        """
        if isinstance(batches, np.ndarray | Tensor | Mapping | str) or not isinstance(batches, Iterable):
            raise DataError(
                f"expected an iterable of batches, found {type(batches).__name__}; put a single batch into a list"
            )
        return (Images.of(graph, batch) for batch in batches)

    @staticmethod
    def joined(parts: Sequence[Images]) -> Images:
        """Put images behind each other."""
        return Images(tuple(map(np.concatenate, zip(*(part.arrays for part in parts), strict=True))))

    def copied(self) -> Images:
        """The same in memory of its own."""
        return Images(tuple(array.copy() for array in self.arrays))

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, part: slice) -> Images:
        return Images(tuple(array[part] for array in self.arrays))

    def __iter__(self) -> Iterator[Images]:
        """One image after the other."""
        return (self[i : i + 1] for i in range(len(self)))

    def tensors(self, network: Network) -> tuple[Tensor, ...]:
        """Float32 tensors where a network is; maps with their channels last."""
        device = next(network.parameters()).device
        return tuple(_laid_out(as_tensor(np.ascontiguousarray(x, dtype=np.float32)).to(device)) for x in self.arrays)


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _checked(array: NDArray[np.float32], expected: tuple[int, ...], what: str) -> NDArray[np.float32]:
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"expected batches of {what} as NumPy arrays, found {type(array).__name__}; "
            "of what a loader yields, take images.numpy()"
        )
    if array.dtype.kind not in "fiub":
        raise DataError(f"expected batches of {what} as arrays of numbers, found {array.dtype}")
    if array.shape[1:] != expected or not array.ndim:
        raise DataError(f"expected batches of {what} {list(expected)}, found {list(array.shape[1:])}")
    if not np.isfinite(array).all():
        raise DataError(f"a batch of {what} holds NaN or infinite values; expected finite ones")
    return array
