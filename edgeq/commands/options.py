"""Options of several commands that are more than a flag or a name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click

INTERPOLATIONS: Final = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CHANNEL_ORDERS: Final = ("rgb", "bgr")


def _numbers(kind: type[int | float], *counts: int) -> Callable[[str], float | tuple[float, ...]]:
    """Parse so many numbers with commas between them: a tuple, or, of one alone, the number itself."""

    def parse(text: str) -> float | tuple[float, ...]:
        try:
            numbers = tuple(map(kind, text.split(",")))
        except ValueError:
            numbers = ()
        if len(numbers) not in counts:
            expected, what = " or ".join(map(str, counts)), "whole numbers" if kind is int else "numbers"
            raise click.BadParameter(f"expected {expected} {what} with commas between them, found {text!r}")
        return numbers[0] if len(numbers) == 1 else numbers

    return parse


_SIZE: Final = "N|ROWS,COLUMNS"
_CHANNELS: Final = "A,B,C"
PREPROCESS: Final = {
    "resize": (_numbers(int, 1, 2), _SIZE, "Pixels of the shorter side of the resized image, or of both sides."),
    "crop": (_numbers(int, 1, 2), _SIZE, "Pixels of the centre that the network takes."),
    "mean": (_numbers(float, 3), _CHANNELS, "Subtracted from the network's channels, of pixels scaled to 0..1."),
    "std": (_numbers(float, 3), _CHANNELS, "Divides them after that."),
    "interpolation": (click.Choice(INTERPOLATIONS), None, "Of the resizing."),
    "channel_order": (click.Choice(CHANNEL_ORDERS), None, "Of the network's channels."),
}


def preprocess(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for every part of a preprocessing; those that are given come as one dict, `preprocess`."""

    @wraps(command)
    def gathered(**arguments: Any) -> None:
        parts = {name: arguments.pop(name) for name in PREPROCESS}
        command(preprocess={name: part for name, part in parts.items() if part is not None}, **arguments)

    added: Callable[..., None] = gathered
    for name, (kind, metavar, text) in reversed(PREPROCESS.items()):
        added = click.option(
            f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=f"{text}  [default: that of the weights]"
        )(added)
    return added
