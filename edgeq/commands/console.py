"""The terminal: tables and JSON on stdout, progress and warnings on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from edgeq.system.progress import SILENT, Progress

WIDTH: Final = 100
"""Width in characters of a table that is not printed to a terminal."""


class _Shown:
    """A `Progress` with a bar for each piece of work."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def step(self, work: str, done: int, total: int) -> None:
        """Update the bar of a piece of work."""
        if work not in self._tasks:
            self._tasks[work] = self._bars.add_task(work, total=total)
        self._bars.update(self._tasks[work], completed=done, refresh=True)

    def notice(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def listening(speaking: bool = True) -> Iterator[Progress]:
    """Show progress bars and notices on stderr, or nothing if not `speaking`.

    Bars are shown only on a terminal, and disappear at the end.
    """
    if not speaking:
        yield SILENT
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # No thread redraws the bar while something is being timed.
    with Bars(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as bars:
        yield _Shown(bars)


def show(table: Table) -> None:
    """Print a table; brackets in names of files and layers are not taken as markup."""
    terminal = Console(markup=False, emoji=False)
    console = terminal if terminal.is_terminal else Console(width=WIDTH, markup=False, emoji=False)
    console.print(table)


def print_json(text: str) -> None:
    """Print the text of an artifact, which ends with a line break."""
    click.echo(text, nl=False)
