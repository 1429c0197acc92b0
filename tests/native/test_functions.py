"""Numbers that Python and C have in common."""

from __future__ import annotations

import re
from enum import IntEnum

import pytest
from engine import SOURCES

from edgeq.native.functions import Pair, Pick, Pointwise, Row
from edgeq.native.program import Flag, Kind


def enumerations() -> list[dict[str, int]]:
    """Every `enum` of the header: names without `EQ_`, with their values."""
    header = re.sub(r"/\*.*?\*/", "", (SOURCES / "edgeq.h").read_text(encoding="utf-8"), flags=re.DOTALL)
    made = []
    for body in re.findall(r"enum \{(.*?)\};", header, flags=re.DOTALL):
        value, found = -1, {}
        for entry in body.split(","):
            name, _, given = (part.strip() for part in entry.partition("="))
            value = int(given) if given else value + 1
            found[name.removeprefix("EQ_")] = value
        made.append(found)
    return made


@pytest.mark.parametrize("numbers", [Kind, Flag, Pointwise, Pair, Row, Pick], ids=lambda numbers: numbers.__name__)
def test_the_header_has_the_same_numbers(numbers: type[IntEnum]) -> None:
    assert {one.name: one.value for one in numbers} in enumerations()
