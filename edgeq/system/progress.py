"""Progress of long work, for whoever wants to show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Final, Protocol, TypeVar

T = TypeVar("T", bound=Sized)


class Progress(Protocol):
    """What a stage calls while it works."""

    def step(self, work: str, done: int, total: int) -> None:
        """Some steps of a piece of work are done, of so many."""

    def notice(self, text: str) -> None:
        """One line that the user should read."""


class Silent:
    """A `Progress` that shows nothing."""

    def step(self, work: str, done: int, total: int) -> None:
        """Do nothing."""

    def notice(self, text: str) -> None:
        """Do nothing."""


SILENT: Final[Progress] = Silent()


def tracked(batches: Iterable[T], work: str, total: int, progress: Progress, processes: int = 1) -> Iterator[T]:
    """Pass batches on, and count what is in them as done when the next one is asked for.

    Args:
        batches: of this process.
        work: what is done with them.
        total: things in the batches of all processes.
        progress: is told.
        processes: how many have as many batches as this one.
    """
    done = 0
    for batch in batches:
        yield batch
        done += processes * len(batch)
        progress.step(work, min(done, total), total)
