"""Schemas of JSON artifacts, and validation that says in one line what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_MISSING: Final = object()


@dataclass(frozen=True)
class Leaf:
    """A schema for JSON values without parts: its name in messages, and a test of whether a value matches."""

    name: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    """Whether a value is a finite number within the range of float64."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


TEXT: Final = Leaf("line of text", lambda value: isinstance(value, str) and value.isprintable())
PATH: Final = Leaf("text", lambda value: isinstance(value, str))  # file names may contain any character
NUMBER: Final = Leaf("number", _is_number)
POSITIVE: Final = Leaf("number above 0", lambda value: _is_number(value) and value > 0)
COUNT: Final = Leaf("count", lambda value: _is_number(value) and isinstance(value, int) and 0 <= value < 2**63)
TRUTH: Final = Leaf("truth value", lambda value: isinstance(value, bool))

Schema = Leaf | dict[Any, Any] | list[Any] | tuple[Any, ...] | None
"""What a JSON value must be. A dict: an object with these keys, or, where the key is `str`, with any keys, and with
values of these schemas. A list: an array of such items. A tuple: one of these. None: null."""

NOTHING: Final = Leaf("empty dict", lambda value: value == {})
_SIZE: Final[Schema] = (COUNT, [COUNT])
PREPROCESS: Final[Schema] = {"resize": _SIZE, "crop": _SIZE, "mean": [NUMBER], "std": [NUMBER]} | {
    "interpolation": TEXT,
    "channel_order": TEXT,
}
NETWORK: Final[Schema] = (
    {"model": PATH, "weights": PATH, "sha256": TEXT, "classes": (COUNT, None), "preprocess": (PREPROCESS, NOTHING)},
    NOTHING,
)
"""Where a network came from; empty for a network that was passed to the API."""


def validate(value: Any, schema: Schema, where: str = "") -> str | None:
    """Say which part of a value does not match its schema and what it should be; None if the value matches."""
    match schema:
        case Leaf():
            fits = schema.holds(value)
        case tuple():
            fits = any(validate(value, one) is None for one in schema)
        case dict() if isinstance(value, dict):
            if str in schema:
                if not all(map(TEXT.holds, value)):
                    return f"{where} has a name that is no {TEXT.name}"
                schema = dict.fromkeys(value, schema[str])
            found = (
                validate(value.get(key, _MISSING), part, f"{where}.{key}".lstrip(".")) for key, part in schema.items()
            )
            return next(filter(None, found), None)
        case list() if isinstance(value, list):
            found = (validate(item, schema[0], f"{where}[{i}]") for i, item in enumerate(value))
            return next(filter(None, found), None)
        case _:
            fits = value is None and schema is None
    return None if fits else f"{where} is missing or no {_called(schema)}"


def _called(schema: Schema) -> str:
    match schema:
        case Leaf():
            return schema.name
        case tuple():
            return " or ".join(dict.fromkeys(map(_called, schema)))
        case _:
            return "null" if schema is None else type(schema).__name__
