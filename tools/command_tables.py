"""The options of every command, and what the commands print, for the page of the command line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Final

import click
from rich.console import Console
from stored import RESULTS, stored

from edgeq.cli import cli
from edgeq.commands.console import WIDTH
from edgeq.reports import tables

_CONTEXT: Final = click.Context(cli)
_KEPT_ROWS: Final = 3
"""Rows shown at either end of a long table."""


def options(name: str) -> Callable[[], str]:
    """The options of a command as a table, each with its help text."""

    def build() -> str:
        command = cli.get_command(_CONTEXT, name)
        assert command
        parameters = [found for found in command.params if isinstance(found, click.Option)]
        lines = [f"| {_spelled(found)} | {_meaning(found)} |" for found in parameters]
        return "\n".join(["| option | meaning |", "| --- | --- |", *lines])

    return build


def _spelled(option: click.Option) -> str:
    """The names of the option, and the form of its value."""
    if option.is_flag:
        return ", ".join(f"`{name}`" for name in option.opts)
    kind = option.type
    choices = "|".join(kind.choices) if isinstance(kind, click.Choice) else kind.name.upper()
    return f"`{option.opts[0]} {option.metavar or choices}`".replace("|", "\\|")


def _meaning(option: click.Option) -> str:
    default = f" [default: {option.default}]" if option.show_default else ""
    return f"{' '.join((option.help or '').split())}{default}".replace("|", "\\|")


def demo() -> str:
    """The end of what `edgeq demo` printed (`edgeq demo > benchmarks/results/demo.txt`), from the last export on."""
    lines = _demo()
    return _text(lines[_first(lines, "exports/mobilenet_v2-adaptive.onnx") :])


def printed(first: str, last: str) -> Callable[[], str]:
    """What `edgeq demo` printed between the lines that start so, with long tables cut."""

    def build() -> str:
        lines = _demo()
        start = _first(lines, first)
        end = start + _first(lines[start:], last)
        return _text(_cut(lines[start : end + 1]))

    return build


def sweep() -> str:
    """What `edgeq sweep` printed when `benchmarks/accuracy.py` ran it."""
    body = {"metric": "top1", **stored("mobilenet_v2/sweep-balanced")}  # of a version that knew no other
    out = io.StringIO()
    Console(file=out, width=WIDTH, markup=False, emoji=False).print(tables.sweep_table(body))
    lines = out.getvalue().splitlines()
    return _text([*lines, *tables.sweep_text(body).splitlines(), "exports/sweep/sweep.png"])


def inspect() -> str:
    """What `edgeq inspect` printed of the adaptive file of `edgeq demo` (`benchmarks/results/inspect.txt`)."""
    return _text(_cut((RESULTS / "inspect.txt").read_text(encoding="utf-8").splitlines()))


def _demo() -> list[str]:
    return (RESULTS / "demo.txt").read_text(encoding="utf-8").splitlines()


def _first(lines: list[str], start: str) -> int:
    return next(i for i, line in enumerate(lines) if line.strip().startswith(start))


def _cut(lines: list[str]) -> list[str]:
    """Leave out the middle of a table that has many rows."""
    rule = next((i for i, line in enumerate(lines) if line.strip().startswith("─")), None)
    if rule is None:
        return lines
    rows = list(takewhile(str.strip, lines[rule + 1 :]))
    if len(rows) <= 2 * _KEPT_ROWS:
        return lines
    behind = lines[rule + 1 + len(rows) :]
    return [*lines[: rule + 1], *rows[:_KEPT_ROWS], " ...", *rows[-_KEPT_ROWS:], *behind]


def _text(lines: list[str]) -> str:
    kept = [line.rstrip() for line in lines]
    while not kept[0]:
        del kept[0]
    return "\n".join(["```text", *kept, "```"])


def all_tables() -> Iterator[tuple[str, Callable[[], str]]]:
    """Every table of this module by name."""
    for name in cli.list_commands(_CONTEXT):
        yield f"options-{name}", options(name)
    yield "demo", demo
    yield "printed-calibrate", printed("calib/mobilenet_v2.calib", "calib/mobilenet_v2.calib")
    yield "printed-plan", printed("#", "adaptive: a file")
    yield "printed-export", printed("exports/mobilenet_v2-4bit.onnx", "parity of the logits")
    yield "printed-evaluate", printed("model                  scheme      MB  top-1", "exports/evaluation.json")
    yield "printed-bench", printed("model                  scheme      MB  G BitOps", "exports/bench.json")
    yield "printed-plot", printed("exports/bitops.png", "exports/accuracy_size.png")
    yield "printed-report", printed("exports/report.html", "exports/report.html")
    yield "printed-sweep", sweep
    yield "printed-inspect", inspect
