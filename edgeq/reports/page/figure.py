"""A chart on the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A chart and what it says, for those who see it and those who do not.

    Attributes:
        chart: name of its specification.
        title: its heading.
        text: what it shows, and how to read it.
    """

    chart: str
    title: str
    text: str
