"""What JSON values must be, so that those who read an artifact can rely on it, or say in a line what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_MISSING: Final = object()


@dataclass(frozen=True)
class Leaf:
    """A kind of JSON value without parts: what it is called, and which values are of it."""

    name: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


TEXT: Final = Leaf("line of text", lambda value: isinstance(value, str) and value.isprintable())
PATH: Final = Leaf("text", lambda value: isinstance(value, str))  # names of files may hold anything
NUMBER: Final = Leaf("number", _is_number)
POSITIVE: Final = Leaf("number above 0", lambda value: _is_number(value) and value > 0)
COUNT: Final = Leaf("count", lambda value: _is_number(value) and isinstance(value, int) and 0 <= value < 2**63)
TRUTH: Final = Leaf("truth value", lambda value: isinstance(value, bool))

Form = Leaf | dict[Any, Any] | list[Any] | tuple[Any, ...] | None
"""What a JSON value must be. A dict: an object with these keys, or, where the key is `str`, with any keys, and with
values of these forms. A list: an array of such items. A tuple: one of these. None: null."""

NOTHING: Final = Leaf("empty dict", lambda value: value == {})
_SIZE: Final[Form] = (COUNT, [COUNT])
PREPROCESS: Final[Form] = {"resize": _SIZE, "crop": _SIZE, "mean": [NUMBER], "std": [NUMBER]} | {
    "interpolation": TEXT,
    "channel_order": TEXT,
}
NETWORK: Final[Form] = (
    {"model": TEXT, "weights": PATH, "sha256": TEXT, "classes": COUNT, "keep_float": TRUTH, "preprocess": PREPROCESS},
    NOTHING,
)
"""Where a network came from; nothing is said of one that was passed to the API."""


def misfit(value: Any, form: Form, where: str = "") -> str | None:
    """Say which part of a value is not of its form, and what it should be; None if all are."""
    match form:
        case Leaf():
            fits = form.holds(value)
        case tuple():
            fits = any(misfit(value, one) is None for one in form)
        case dict() if isinstance(value, dict):
            if str in form:
                if not all(map(TEXT.holds, value)):
                    return f"{where} has a name that is no {TEXT.name}"
                form = dict.fromkeys(value, form[str])
            found = (misfit(value.get(key, _MISSING), part, f"{where}.{key}".lstrip(".")) for key, part in form.items())
            return next(filter(None, found), None)
        case list() if isinstance(value, list):
            found = (misfit(item, form[0], f"{where}[{i}]") for i, item in enumerate(value))
            return next(filter(None, found), None)
        case _:
            fits = value is None and form is None
    return None if fits else f"{where} is missing or no {_called(form)}"


def _called(form: Form) -> str:
    match form:
        case Leaf():
            return form.name
        case tuple():
            return " or ".join(dict.fromkeys(map(_called, form)))
        case _:
            return "null" if form is None else type(form).__name__
