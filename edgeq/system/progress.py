"""Progress of long work, for whoever wants to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Listener:
    """What to call while a stage works.

    Attributes:
        progress: with the name of the work, the steps done and the steps in all.
        notice: with one line that the user should read.
    """

    progress: Callable[[str, int, int], None] = lambda work, done, total: None
    notice: Callable[[str], None] = lambda text: None


SILENT: Final = Listener()


class Counter:
    """Adds up the steps of one piece of work for a listener."""

    def __init__(self, work: str, total: int, listener: Listener) -> None:
        self.work, self.total, self.done, self.listener = work, total, 0, listener

    def add(self, steps: int) -> None:
        """Count some steps as done."""
        self.done += steps
        self.listener.progress(self.work, self.done, self.total)
