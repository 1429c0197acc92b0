"""Progress of long-running stages, for a caller that wants to show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Final, Protocol, TypeVar

T = TypeVar("T", bound=Sized)


class Progress(Protocol):
    """Receives the progress of a stage."""

    def step(self, work: str, done: int, total: int) -> None:
        """Report that `done` of `total` steps are done; `work` names what is being done."""

    def notice(self, text: str) -> None:
        """Report one line that the user should read."""


class Silent:
    """A `Progress` that shows nothing."""

    def step(self, work: str, done: int, total: int) -> None:
        """Do nothing."""

    def notice(self, text: str) -> None:
        """Do nothing."""


SILENT: Final[Progress] = Silent()


def tracked(batches: Iterable[T], work: str, total: int, progress: Progress, processes: int = 1) -> Iterator[T]:
    """Yield batches, and report the items of a batch as done when the next one is requested.

    Args:
        batches: those of this process: arrays of items, or several such arrays by name.
        work: what is done with them, see `Progress.step`.
        total: number of items in the batches of all processes.
        progress: receives the count of items.
        processes: number of processes, all assumed to be as far as this one.
    """
    done = 0
    for batch in batches:
        yield batch
        done += processes * len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch)
        progress.step(work, min(done, total), total)
