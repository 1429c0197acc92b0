"""Tasks: what the outputs of a network mean. Each is a module here, and no other package knows about it."""

from __future__ import annotations

from typing import Final, NamedTuple

TASKS: Final = ("classification", "regression")
"""Every task by its name."""


class Channels(NamedTuple):
    """The channels of an output: their axes without the batch, and the unit of the errors of each.

    They are found by `edgeq.tasks.regression.Spread`.
    """

    axes: tuple[int, ...]
    units: tuple[float, ...]


NO_CHANNELS: Final = Channels((), ())
"""Of outputs whose task needs none."""
