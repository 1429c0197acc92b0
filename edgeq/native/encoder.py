"""The encoder of trellis codes: the closed path through the trellis that is nearest to some weights.

Viterbi's algorithm (doi:10.1109/TIT.1967.1054010) finds the best path from one node to another. A closed one has to end
where it starts, and trying all 256 nodes would take as many times as long. So first come costs without a start, up to
the seam from before it and from behind it, and the nodes with the least sums are tried, as long as these sums promise
less than what has been found.

It runs in the kernels' library, and without a compiler in NumPy, which takes a hundred times as long and finds the
same bytes: both only multiply, add and compare float32 numbers, in the same order. But the kernels follow only paths
from which the least costs to the end are not too much already, about one in thirty.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.native.library import is_compiled, library
from edgeq.numerics.trellis import NODES, Trellis

Float = NDArray[np.float32]

_REACH: Final = 12  # bytes before the seam that say where to end
_SHORT: Final = 3  # bytes of a sequence of which all starts are tried
_TRIES: Final = 16  # most starts of others
_FAR: Final = np.float32(1e30)  # FAR of encode.c


class _Step(ctypes.Structure):
    """`eq_trellis_step`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("bits", "weights", "count")),
        *((name, ctypes.c_void_p) for name in ("first", "values")),
    )


class Encoding(ctypes.Structure):
    """`eq_encoding`: how sequences are encoded. It holds places of its encoder, which must be kept."""

    _fields_ = (
        ("steps", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("count", "bytes", "tries", "reach", "room")),
    )


class Encoder:
    """Encodes weights by a trellis code.

    Args:
        trellis: the code.
    """

    def __init__(self, trellis: Trellis) -> None:
        self.trellis = trellis
        found = [trellis.lookup(number) for number in range(len(trellis.steps))]
        self._first = [first.astype(np.int32) for first, _ in found]
        self._values = [np.ascontiguousarray(levels.T, dtype=np.float32) for _, levels in found]

    def encode(self, targets: Float, importances: Float) -> NDArray[np.uint8]:
        """Return bytes whose levels are near some targets, uint8 `[sequences, bytes]`.

        Args:
            targets: real-valued levels, float32 `[sequences, bytes, K]`.
            importances: weight of each squared difference, not negative and at most about 1, of the same shape.
        """
        run = self._compiled if is_compiled() else self._numpy
        return run(*(np.ascontiguousarray(array, dtype=np.float32) for array in (targets, importances)))

    def encoding(self, size: int) -> Encoding:
        """Return how the kernels encode sequences of `size` bytes."""
        room = max(values.shape[1] for values in self._values)
        return Encoding(ctypes.addressof(self._steps), len(self.trellis.steps), size, _tries(size), _reach(size), room)

    @cached_property
    def _steps(self) -> ctypes.Array[_Step]:
        return (_Step * len(self.trellis.steps))(*(
            _Step(step.bits, step.weights, values.shape[1], first.ctypes.data, values.ctypes.data)
            for step, first, values in zip(self.trellis.steps, self._first, self._values, strict=True)
        ))  # fmt: skip

    def _compiled(self, targets: Float, importances: Float) -> NDArray[np.uint8]:
        sequences, size = targets.shape[:2]
        encoding = self.encoding(size)
        memory = np.empty(library().eq_encode_bytes(ctypes.byref(encoding)), np.uint8)
        made = np.zeros((sequences, size), np.uint8)
        places = (array.ctypes.data for array in (targets, importances, memory, made))
        library().eq_encode(ctypes.byref(encoding), sequences, *places)
        return made

    def _numpy(self, targets: Float, importances: Float) -> NDArray[np.uint8]:
        (sequences, size), metrics = targets.shape[:2], self._metrics(targets, importances)
        steps, tries, around = len(metrics), _tries(size), _reach(size) * len(self.trellis.steps)
        cost = np.zeros((sequences, NODES), np.float32)
        for at in range(steps - around, steps):
            cost = self._ways(metrics[at], cost, at).min(axis=1).reshape(sequences, NODES)
        ahead = np.zeros((sequences, NODES), np.float32)
        for at in reversed(range(steps)):
            bits = self._bits(at)
            ends = ahead.reshape(sequences, 1, NODES >> bits, 1 << bits) + self._by_windows(metrics[at], at)
            ahead = ends.min(axis=3).reshape(sequences, NODES)
        seam, free = cost + ahead, cost.min(axis=1)
        starts = np.argsort(seam, axis=1, kind="stable")[:, :tries]
        best, made = np.full(sequences, _FAR), np.zeros((sequences, size), np.uint8)
        for start in starts.T:
            likely = (seam[np.arange(sequences), start] - free <= best) | (tries == NODES)
            if not likely.any():
                break
            total, found = self._closed(metrics, start)
            better = likely & (total < best)
            best, made = np.where(better, total, best), np.where(better[:, None], found, made)
        return made

    def _bits(self, at: int) -> int:
        return self.trellis.steps[at % len(self.trellis.steps)].bits

    def _metrics(self, targets: Float, importances: Float) -> list[Float]:
        """The cost of each entry for the weights of each step, float32 `[sequences, entries]` each."""
        made = []
        for i in range(targets.shape[1]):
            place = 0
            for step, values in zip(self.trellis.steps, self._values, strict=True):
                costs = [
                    importances[:, i, place + w, None] * np.square(targets[:, i, place + w, None] - values[w])
                    for w in range(step.weights)
                ]
                made.append(np.asarray(sum(costs[1:], costs[0])))
                place += step.weights
        return made

    def _by_windows(self, metric: Float, at: int) -> Float:
        """The costs of a step by the upper bits of a node, its lower bits, and the new bits."""
        bits, first = self._bits(at), self._first[at % len(self.trellis.steps)]
        return metric[:, first[:, None] + np.arange(1 << bits)].reshape(
            len(metric), 1 << bits, NODES >> bits, 1 << bits
        )

    def _ways(self, metric: Float, cost: Float, at: int) -> Float:
        """Costs of all ways to each node behind a step, float32 `[sequences, ways, lower bits, new bits]`."""
        bits = self._bits(at)
        return cost.reshape(len(cost), 1 << bits, NODES >> bits, 1) + self._by_windows(metric, at)

    def _closed(self, metrics: list[Float], start: NDArray[np.int64]) -> tuple[Float, NDArray[np.uint8]]:
        """The best paths from a node of each sequence to itself: their costs `[sequences]` and bytes."""
        each = np.arange(len(start))
        costs = [np.where(np.arange(NODES) == start[:, None], np.float32(0), _FAR)]
        for at, metric in enumerate(metrics):
            costs.append(self._ways(metric, costs[-1], at).min(axis=1).reshape(len(start), NODES))
        node, per_byte = start, len(self.trellis.steps)
        made = np.zeros((len(start), len(metrics) // per_byte), np.int64)
        for at in reversed(range(len(metrics))):
            bits, left = self._bits(at), self.trellis.lefts[at % per_byte]
            ways = self._ways(metrics[at], costs[at], at).reshape(len(start), 1 << bits, NODES)
            made[:, at // per_byte] |= node % (1 << bits) << left
            node = (ways[each, :, node].argmin(axis=1) << 8 - bits) + (node >> bits)
        return costs[-1][each, start], made.astype(np.uint8)


def _tries(size: int) -> int:
    return NODES if size <= _SHORT else _TRIES


def _reach(size: int) -> int:
    return min(_REACH, size)
