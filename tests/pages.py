"""Pages in Markdown: their code and commands, run as a reader would, and what they link to."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
PAGES: Final = (README, *sorted(DOCS.glob("*.md")))

_CODE_AND_OUTPUT: Final = re.compile(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", re.DOTALL)
_COMMANDS_AND_OUTPUT: Final = re.compile(r"```sh\n(.*?)```(?:\n<!-- table: [\w-]+ -->\n```text\n(.*?)```)?", re.DOTALL)
_TORCHRUN: Final = re.compile(r"^torchrun .*? -m ")


@dataclass(frozen=True)
class Example:
    """A command line of edgeq as its arguments, and what the page says that it prints, or None."""

    arguments: tuple[str, ...]
    output: str | None


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


def examples(page: Path) -> list[Example]:
    """The command lines of edgeq in a page; those of torchrun as one process runs them, which gives the same result."""
    found = []
    for code, output in _COMMANDS_AND_OUTPUT.findall(page.read_text(encoding="utf-8")):
        lines = [_TORCHRUN.sub("", part.strip()) for line in _lines(code) for part in line.split("&&")]
        commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("edgeq ")]
        found += [Example(tuple(command), None) for command in commands[:-1]]
        found += [Example(tuple(command), output or None) for command in commands[-1:]]
    return found


def _lines(code: str) -> list[str]:
    return code.replace("\\\n", " ").splitlines()


def wording(output: str) -> list[str]:
    """What a command prints, without numbers, spacing, the rows of tables and the name of the CPU."""
    found, in_rows = [], False
    for line in output.splitlines():
        in_rows = bool(line.strip()) and (in_rows or line.strip().startswith("─"))
        if line.strip() and not in_rows:
            words = re.sub(r"-?\d+([.,]\d+)*(e[+-]?\d+)?", "#", " ".join(line.split()))
            found.append(re.sub(r"(batch #), .*", r"\1", words))
    return found


def links(page: Path) -> list[str]:
    """Where a page links to, other pages of the web left out."""
    found = re.findall(r"\]\(([^()]*)\)", page.read_text(encoding="utf-8"))
    return [link for link in found if not link.startswith(("https:", "http:"))]


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
