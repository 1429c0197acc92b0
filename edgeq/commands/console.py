"""The terminal: tables on stdout, progress and warnings on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from edgeq.system.progress import SILENT, Listener

WIDTH: Final = 100
"""Columns of a table that does not go to a terminal."""


@contextmanager
def listening(speaking: bool = True) -> Iterator[Listener]:
    """Progress bars and notices on stderr if this process speaks; bars only on a terminal, and gone at the end."""
    if not speaking:
        yield SILENT
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # No thread redraws the bar while something is being timed.
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(work: str, done: int, total: int) -> None:
            if work not in tasks:
                tasks[work] = bar.add_task(work, total=total)
            bar.update(tasks[work], completed=done, refresh=True)

        yield Listener(progress, lambda text: bar.console.print(text, markup=False, highlight=False, soft_wrap=True))


def show(table: Table) -> None:
    """Print a table; what stands in brackets in the name of a file or a layer is no markup."""
    terminal = Console(markup=False, emoji=False)
    console = terminal if terminal.is_terminal else Console(width=WIDTH, markup=False, emoji=False)
    console.print(table)
