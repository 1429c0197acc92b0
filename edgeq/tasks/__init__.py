"""Tasks: what the output of a network means. Each is a module here, and no other package knows about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeq.tasks.classification import Classification
from edgeq.tasks.task import Task

TASKS: Final[Mapping[str, Task]] = {"classification": Classification()}
"""Every task by its name."""
