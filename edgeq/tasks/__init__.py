"""What the outputs of networks mean, one module a task; nothing else knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeq.tasks.classification import Classification
from edgeq.tasks.task import Task

TASKS: Final[Mapping[str, Task]] = {"classification": Classification()}
"""Every task by its name."""
