"""Tasks: what the outputs of a network mean. Each is a module here, and no other package knows about it."""

from __future__ import annotations

from typing import Final

TASKS: Final = ("classification", "regression")
"""Every task by its name."""
