from __future__ import annotations

import re

import pytest

from edgeq import errors
from edgeq.errors import EdgeqError

CLASSES = {item.__name__: item for item in EdgeqError.__subclasses__()}


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = re.findall(r"^    (├── |└── )?(\w+Error)", errors.__doc__ or "", re.MULTILINE)
    assert drawn[0] == ("", "EdgeqError")
    assert all(branch for branch, _ in drawn[1:])
    assert [name for _, name in drawn[1:]] == list(CLASSES)
    assert all(name in vars(errors) for name in CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_prints_as_its_message(name: str) -> None:
    assert str(CLASSES[name]("one line")) == "one line"


def test_what_an_error_quotes_stays_in_its_line() -> None:
    assert str(EdgeqError("found a\nb\x1b[31m\ud800; way out")) == "found a b [31m ; way out"


def test_a_long_error_keeps_its_ends() -> None:
    assert str(EdgeqError("found " + "x" * 5000 + "; way out")) == f"found {'x' * 994} ... {'x' * 991}; way out"
