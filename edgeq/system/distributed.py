"""Distributed runs: how the processes that `torchrun` starts share batches and gather results.

Batches of images are assigned to the processes in turn. Whatever depends on the order of the images is gathered in that
order, so the result is bit for bit that of a single process.

    torchrun --nproc-per-node 4 -m edgeq calibrate --weights imagenet --data photos
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, TypeVar, cast

from edgeq.errors import WorkerError, one_line

T = TypeVar("T")
S = TypeVar("S", bound=Sized)

_PATIENCE: Final = timedelta(days=1)  # a dead process is noticed at once; a slow one is waited for


@dataclass(frozen=True)
class Workers:
    """The processes of this run, seen from one of them.

    Attributes:
        rank: index of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the process that prints and writes files."""
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

    def rounds(self, batches: Iterable[S]) -> Iterator[tuple[S | None, list[int]]]:
        """Iterate over the batches of all processes in step. Collective.

        Args:
            batches: those of this process; `len` of one is the number of images, 0 if there are several processes.

        Yields:
            The next batch of this process, or None when it has no more, and the number of images in the batch of every
            process. All processes iterate equally often.
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
    """Whether this process is the only one of its run."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def first_to_speak() -> bool:
    """Whether this is rank 0, the process that prints messages; needs no `joined`."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: str = "cpu") -> Iterator[Workers]:
    """Join the other processes of this run, if `torchrun` started several; leave them at the end.

    Args:
        device: where networks run: `cpu`, or `cuda`, where each process takes the GPU of its local rank.
    """
    if alone():
        yield ALONE
        return
    if device == "cuda":
        import_module("torch").cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed = import_module("torch.distributed")
    # Functions of `torch.distributed.nn` hold the default process group as a default argument. If the module were first
    # imported later, the group and its threads would outlive `destroy_process_group` and could abort the interpreter at
    # exit.
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
