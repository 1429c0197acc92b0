"""Pages in Markdown: their blocks of code, run as somebody would who reads them."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

_CODE_AND_OUTPUT = re.compile(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run(page: Path) -> dict[str, Any]:
    """Run the Python of a page, block after block; the text behind a block has to be what it prints.

    Returns:
        All names that the page has defined.
    """
    scope: dict[str, Any] = {"__name__": "page"}
    for code, expected in _CODE_AND_OUTPUT.findall(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), scope)
        assert printed.getvalue() == expected, f"{page.name} prints:\n{printed.getvalue()}"
    return scope
