"""`edgeq.toml`: a table for each command, whose keys are the command's options."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import click

from edgeq.errors import ArtifactError

FILE: Final = Path("edgeq.toml")

Values = dict[str, bool | str | list[str]]
"""Values of options as the command line gives them, by the names of options without dashes before them."""


def read_config(path: Path, commands: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the tables of a file by the names of commands.

    Raises:
        ArtifactError: no such file, not TOML, or a table that is no command's.
    """
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; expected a table for each command, such as [calibrate]") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: expected TOML, found something unreadable: {error}") from error
    known = list(commands)
    for name, found in body.items():
        check_known(path, name, known, "the file")
        if not isinstance(found, dict):
            raise ArtifactError(f"{path}: {name}: expected a table [{name}], found {found!r}")
    return body


def check_known(path: Path, name: str, known: Iterable[str], where: str) -> None:
    """Refuse a name that means nothing.

    Raises:
        ArtifactError: it is not known; the message names the closest one.
    """
    names = sorted(known)
    if name not in names:
        close = get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
        raise ArtifactError(f"{path}: unknown key {name!r} in {where}; {hint}")


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options that a table of a command may set, by their names without dashes before them."""
    found = (one for one in command.params if isinstance(one, click.Option) and one.name != "as_json")
    return {one.opts[0].removeprefix("--"): one for one in found}


def values_of(path: Path, table: Mapping[str, Any], command: click.Command, where: str = "") -> Values:
    """Check the keys of a command's table, and write its values as the command line takes them.

    `where` is what errors call the table; by default it has the command's name.

    Raises:
        ArtifactError: an unknown key, or a value of another kind than the option's.
    """
    known, where = options_of(command), where or f"[{command.name}]"
    for key in table:
        check_known(path, key, known, where)
    return {key: _value(f"{path}: {key} in {where}", known[key], found) for key, found in table.items()}


def _value(where: str, option: click.Option, found: Any) -> bool | str | list[str]:
    if option.is_flag:
        if not isinstance(found, bool):
            raise ArtifactError(f"{where}: expected true or false, found {found!r}")
        return found
    texts = [_text(where, one) for one in (found if isinstance(found, list) else [found])]
    return texts if option.multiple else ",".join(texts)


def _text(where: str, found: Any) -> str:
    if isinstance(found, bool):
        return "yes" if found else "no"
    if not isinstance(found, str | int | float):
        raise ArtifactError(f"{where}: expected a text or a number, or a list of them, found {found!r}")
    return str(found)


def as_defaults(values: Values, command: click.Command) -> dict[str, bool | str | list[str]]:
    """Values by the names of parameters, as the `default_map` of click takes them."""
    options = options_of(command)
    return {str(options[key].name): found for key, found in values.items()}


def as_arguments(values: Values) -> Iterator[str]:
    """Values as a reader would type them."""
    for key, found in values.items():
        if isinstance(found, bool):
            yield from [f"--{key}"] * found
        else:
            for text in found if isinstance(found, list) else [found]:
                yield from (f"--{key}", text)
