"""The processes of one run, as `torchrun` starts them: how they share batches, and how results are gathered.

Batches of images are dealt out in turn, one to each process. Whatever depends on the order of the images is gathered in
that order, so the result is that of one process, bit for bit.

    torchrun --nproc-per-node 4 -m edgeq calibrate --weights imagenet --data photos
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import WorkerError, one_line

T = TypeVar("T")

_PATIENCE: Final = timedelta(days=1)  # a process that dies is noticed at once; one that works on is waited for


@dataclass(frozen=True)
class Workers:
    """The processes of this run, seen from one of them.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def all_gather(self, mine: T) -> list[T]:
        """All-gather: every rank's value, in rank order. Collective.

        Raises:
            WorkerError: another process has ended before its time.
        """
        found: list[Any] = [mine] * self.size
        if self.size > 1:
            _together(lambda distributed: distributed.all_gather_object(found, mine))
        return cast(list[T], found)

    def gather(self, rank: int, mine: T) -> list[T]:
        """Gather every rank's value, in rank order, on one rank; the others get an empty list. Collective."""
        if self.size == 1:
            return [mine]
        found: list[Any] | None = [None] * self.size if rank == self.rank else None
        _together(lambda distributed: distributed.gather_object(mine, found, rank))
        return cast(list[T], found or [])

    def rounds(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[tuple[NDArray[np.float32] | None, list[int]]]:
        """Go through the batches of all processes side by side.

        Args:
            batches: those of this process, `[n, ...]`; `n` may be 0 where there are several.

        Yields:
            Each time the next one, None where there are no more; and the images in that of every process.
        """
        mine = iter(batches)
        while True:
            batch = next(mine, None)
            counts = self.all_gather(-1 if batch is None else len(batch))
            if max(counts) < 0:
                return
            yield batch, [max(count, 0) for count in counts]


ALONE: Final = Workers()


def alone() -> bool:
    """Whether `torchrun` has not started several processes of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def first_to_speak() -> bool:
    """Whether this is the process whose messages speak for all."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: str = "cpu") -> Iterator[Workers]:
    """Join the other processes of this run, if `torchrun` started this one.

    Args:
        device: where networks run: `cpu`, or `cuda`, of which each process of a machine takes one.
    """
    if alone():
        yield ALONE
        return
    if device == "cuda":
        import_module("torch").cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed = import_module("torch.distributed")
    # Its functions have the group of all processes as a default argument. If something imported it later, that group
    # and its threads would outlive `destroy_process_group`, and now and then abort the interpreter at its end.
    import_module("torch.distributed.nn")
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Workers(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def _together(exchange: Callable[[Any], object]) -> None:
    try:
        exchange(import_module("torch.distributed"))
    except RuntimeError as error:
        raise WorkerError(
            f"another process of this run has ended before its time ({one_line(error)}); "
            "nothing was written, start it again"
        ) from error
