"""Tables of the page: text in cells, which the page can sort."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

NOTHING: Final = "-"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a class of the style sheet, and what is said when it is pointed at."""

    text: str
    style: str = ""
    title: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        label: its header.
        of: the text or cell of an item.
        hint: what the header means, said when it is pointed at.
        number: whether it is aligned and sorted as numbers.
    """

    label: str
    of: Callable[[Any], str | Cell]
    hint: str = ""
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A table: the first column heads the rows.

    Attributes:
        caption: what it shows.
        columns: from left to right.
        rows: one list of cells for each item.
        keys: what the page knows each row by; empty if rows are linked to nothing.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    keys: Sequence[str] = field(default=())


def table(
    caption: str, columns: Sequence[Column | None], items: Iterable[Any], key: Callable[[Any], str] | None = None
) -> Table:
    """Make a table of some items; columns that are None, or have nothing in any row, are left out."""
    items = list(items)
    found = [column for column in columns if column is not None]
    made = [[_cell(column.of(item)) for column in found] for item in items]
    kept = [i for i, column in enumerate(found) if not i or any(row[i].text != NOTHING for row in made)]
    return Table(
        caption,
        [found[i] for i in kept],
        [[row[i] for i in kept] for row in made],
        [key(item) for item in items] if key else (),
    )


def _cell(found: str | Cell) -> Cell:
    return found if isinstance(found, Cell) else Cell(found)


def number(value: float | None, digits: int = 2, unit: float = 1.0) -> str:
    """A number in units, with commas between thousands."""
    return NOTHING if value is None else f"{value / unit:,.{digits}f}"


def quantity(value: float | None, unit: float) -> str:
    """A size or count in units: two digits behind the point, or two that are not zero."""
    found = None if value is None else value / unit
    return NOTHING if found is None else f"{found:,.2f}" if found >= 0.1 or not found else f"{found:.2g}"


def signed(value: float | None, digits: int = 2, unit: float = 1.0) -> str:
    """A difference in units, with its sign."""
    return NOTHING if value is None else f"{value / unit:+,.{digits}f}"


def scientific(value: float | None) -> str:
    """A number of any magnitude, with two digits."""
    return NOTHING if value is None else f"{value:.1e}" if value else "0"


def plain(bits: float) -> str:
    """A width in names of styles and of fields of charts, where a point means something else: `1_6`."""
    return str(bits).replace(".", "_")
