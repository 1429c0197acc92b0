"""Functions of a user, named as `package.module:function`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any

from edgeq.errors import UnsupportedError, one_line


def function_of(name: str) -> Callable[..., Any]:
    """Import a function; modules of the current folder are found, too.

    Args:
        name: `module:function`, or `package.module:function`.

    Raises:
        UnsupportedError: another form, no such module or function, or the module fails.
    """
    module, colon, function = name.partition(":")
    if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise UnsupportedError(f"{name}: expected a function as MODULE:FUNCTION, found another form")
    sys.path.insert(0, here := str(Path.cwd()))
    try:
        found = getattr(import_module(module), function, None)
    except (Exception, SystemExit) as error:  # of any code
        raise UnsupportedError(f"{name}: cannot import {module}: {raised(error)}") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UnsupportedError(f"{name}: expected a function {function} in {module}, found none")
    called: Callable[..., Any] = found
    return called


def raised(error: Exception | SystemExit) -> str:
    """Return an exception of a user's code in one line: its type, its message, and the place that raised it."""
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"
