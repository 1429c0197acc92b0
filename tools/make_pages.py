"""Make the pages in docs/pages of what `edgeq demo` left in a folder: the report, and the adaptive network to run.

edgeq demo && python tools/make_pages.py
"""

from __future__ import annotations

from typing import Final

from edgeq.cli import main

PAGES: Final = "docs/pages"


def run(*arguments: str) -> None:
    if code := main(arguments):
        raise SystemExit(code)


if __name__ == "__main__":
    run("report", "--output", f"{PAGES}/report.html")
    run("export", "--scheme", "adaptive", "--format", "web", "--output", f"{PAGES}/mobilenet_v2.html")
