"""The log of one network of `zoo.py`: a line of JSON for each stage that has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Log:
    """The log of a network.

    Attributes:
        work: the folder of all files.
        kind: the network's set.
        name: its name.
    """

    work: Path
    kind: str
    name: str

    @property
    def stem(self) -> str:
        """What the names of the network's files start with."""
        return f"{self.kind}-{self.name.replace(' ', '-')}"

    @property
    def path(self) -> Path:
        return self.work / "log" / f"{self.stem}.jsonl"

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def newest(self) -> dict[str, dict[str, Any]]:
        """The last line of each stage."""
        return {line["stage"]: line for line in self.lines()}

    def missing(self, stages: Sequence[str], again: bool = False) -> Sequence[str]:
        """The stages from the first that is not done on, or has failed and is tried again.

        Empty if one has failed: those behind it need it, but for the files of other tools.
        """
        done = self.newest()
        for i, stage in enumerate(stages):
            if stage not in done or (again and failures(done[stage])):
                return stages[i:]
            if "failed" in done[stage] and stage != "static":
                return ()
        return ()

    def problem(self) -> str:
        """What failed, in a line, or nothing."""
        return "; ".join(f"{what}: {why}" for line in self.newest().values() for what, why in failures(line).items())


def failures(line: Mapping[str, Any]) -> dict[str, str]:
    """What failed in a stage: all of it, or some of its files."""
    if "failed" in line:
        return {line["stage"]: line["failed"]}
    rows = {name: row for name, row in line["found"].items() if isinstance(row, dict)}
    return {name: row["failed"] for name, row in rows.items() if "failed" in row}
