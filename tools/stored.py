"""The stored results, and Markdown tables made of them."""

from __future__ import annotations

import json
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
SCHEMES: Final = ("8bit", "4bit", "2bit", "adaptive")
STATIC: Final = "quantize_static"


@cache
def stored(name: str) -> Any:
    """The JSON of one result, such as `zoo` or `mobilenet_v2/peers`."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prose(text: str) -> str:
    """A sentence or two, in lines of the usual length."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def to(low: str, high: str) -> str:
    """A range as text; one number where both ends are equal."""
    return low if low == high else f"{low} to {high}"
