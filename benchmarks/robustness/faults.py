"""What a command leaves behind that is killed or finds the disk full, and whether running it again mends all of it.

    python benchmarks/robustness/faults.py

`calibrate`, `export` at the highest effort and `sweep` run on a network of four layers, in a folder that holds what the
same command has made of another seed; each run is a process of its own, forked from one that has imported everything.
It is ended with SIGKILL at random moments, and then at its single file operations (opening to write, renaming,
removing), which random moments seldom hit. The disk is full at its single openings: the new file cannot be made, or
takes only its first bytes. Each time, a file under its own name must be whole, an old or a new one; and the same
command, run again, must end with the files of an unbroken run, byte for byte but for the `seconds` of a sweep, and no
others. It takes up to an hour. The counts, and every case that went wrong, go to
`benchmarks/results/faults.json`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pkgutil
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from unittest import mock

import click
import torch
from torch import nn

import edgeq
from edgeq import cli
from edgeq.artifacts.files import write_json
from edgeq.commands import defaults
from edgeq.data.preprocess import EMBEDDED
from edgeq.frontends import sources
from edgeq.frontends.sources import Source
from edgeq.system.environment import environment

CLASSES: Final = 43
COMMANDS: Final = {
    "calibrate": ("calibrate", "--samples", "300"),
    "export": ("export", "--scheme", "adaptive", "--effort", "best"),
    "sweep": ("sweep", "--budgets", "size=5kB,drop=1"),
}
CONTEXT: Final = multiprocessing.get_context("fork")
EVENTS: Final = {"kill": ("open", "os.rename", "os.remove"), "full": ("open",)}
"""Python's names of the file operations that a fault may strike."""
CUT: Final = 10
"""Bytes that a file still takes when the disk is full."""


@dataclass
class Counts:
    """How often a fault struck a command, what was found afterwards, and what was wrong with it.

    Attributes:
        faults: runs that were to be struck.
        finished: those of them that had ended before.
        temporary: runs that left files under other names than those of results, for the next run to remove.
        unfinished: runs that left unfinished work, for the next run to go on with.
        wrong: what should not have been.
    """

    faults: int = 0
    finished: int = 0
    temporary: int = 0
    unfinished: int = 0
    wrong: list[str] = field(default_factory=list)


# --- the process that is struck -------------------------------------------------------------------------------------


def struck(kind: str, at: int, arguments: Sequence[str]) -> int:
    """Run `edgeq` on the small network with a fault at file operation number `at`; 0 tells how many there are."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 1))
    module = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    network = edgeq.trace(module, EMBEDDED.shape)
    source = Source(network, EMBEDDED, "mobilenet_v2", "embedded", "0" * 64, CLASSES)
    operations = 0

    def strike(event: str, found: tuple[Any, ...]) -> None:
        nonlocal operations
        writes = event != "open" or found[2] & (os.O_WRONLY | os.O_RDWR)
        if event not in EVENTS[kind] or not writes or not Path(str(found[0])).absolute().is_relative_to(Path.cwd()):
            return
        operations += 1
        if operations != at:
            return
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if found[2] & os.O_EXCL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), found[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, resource.RLIM_INFINITY))

    sys.addaudithook(strike)
    loading = mock.patch.object(sources, "load", lambda *_, **__: source)
    with loading, mock.patch.object(defaults, "TEST_SAMPLES", CLASSES):
        code = cli.main(arguments)
    if not at:
        click.echo(operations)
    return code


# --- what strikes it ------------------------------------------------------------------------------------------------


class Run:
    """A command that has been started in a folder, maybe with a fault at one of its file operations."""

    def __init__(self, folder: Path, arguments: Sequence[str], kind: str = "kill", at: int = 0) -> None:
        self._output, into = os.pipe()
        self.process = CONTEXT.Process(target=self._child, args=(into, folder, kind, at, arguments))
        self.process.start()
        os.close(into)

    @staticmethod
    def _child(into: int, folder: Path, kind: str, at: int, arguments: Sequence[str]) -> None:
        os.chdir(folder)
        with os.fdopen(into, "w") as stream, redirect_stdout(stream), redirect_stderr(stream):
            sys.exit(struck(kind, at, arguments))

    def end(self) -> tuple[int | None, str]:
        """Wait for the end; return the exit code, or minus the signal, and all output."""
        with os.fdopen(self._output) as output:
            text = output.read()
        self.process.join()
        return self.process.exitcode, text


def finish(folder: Path, arguments: Sequence[str], kind: str = "kill") -> int:
    """Run a command to its end; return the number of its file operations."""
    code, text = Run(folder, arguments, kind).end()
    if code:
        raise SystemExit(f"failed: {' '.join(arguments)}\n{text}")
    return int(text.splitlines()[-1])


def tree(folder: Path) -> dict[str, str]:
    """All files, hidden ones too, with a digest of what must be equal in them."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "sweep.json":
                body = json.loads(content)
                del body["environment"]
                rows = [{key: value for key, value in row.items() if key != "seconds"} for row in body["rows"]]
                content = json.dumps(body | {"rows": rows}).encode()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


@dataclass
class Command:
    """A command, a folder to run it in, and what that holds after an unbroken run."""

    arguments: Sequence[str]
    before: Path
    work: Path

    def __post_init__(self) -> None:
        self.operations = {}
        for kind in EVENTS:
            self.refresh()
            began = time.monotonic()
            self.operations[kind] = finish(self.work, self.arguments, kind)
            self.seconds = time.monotonic() - began
        self.old, self.new = tree(self.before), tree(self.work)

    def refresh(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.before, self.work)

    def check(self, counts: Counts, case: str, kind: str) -> None:
        """Count what a fault has left; run the command again, and compare."""
        left = tree(self.work)
        unfinished = [name for name in left if name.endswith(".unfinished")]
        temporary = sorted(left.keys() - self.old.keys() - self.new.keys() - {*unfinished})
        counts.faults += 1
        counts.temporary += bool(temporary)
        counts.unfinished += bool(unfinished)
        if kind == "full" and temporary:
            counts.wrong.append(f"{case}: left {temporary}")
        for name in left.keys() - {*temporary, *unfinished, "exports/sweep/sweep.json"}:  # that one is JSON, as read
            if left[name] not in (self.old.get(name), self.new.get(name)):
                counts.wrong.append(f"{case}: {name} is neither the old file nor the new one")
        finish(self.work, self.arguments)
        again = tree(self.work)
        different = sorted(name for name in again.keys() | self.new.keys() if again.get(name) != self.new.get(name))
        if different:
            counts.wrong.append(f"{case}: after running again, {different} differ")


def at_moments(command: Command, kills: int, draw: random.Random) -> Counts:
    """Kill at random moments until as many runs as asked for have not ended before."""
    counts = Counts()
    while counts.faults - counts.finished < kills:
        seconds = draw.uniform(0, command.seconds)
        command.refresh()
        run = Run(command.work, command.arguments)
        run.process.join(seconds)
        run.process.kill()
        code, _ = run.end()
        counts.finished += code == 0
        command.check(counts, f"killed after {seconds:.2f} s", "kill")
    return counts


def at_operations(command: Command, kind: str, operations: Sequence[int]) -> Counts:
    counts = Counts()
    for number in operations:
        command.refresh()
        code, text = Run(command.work, command.arguments, kind, number).end()
        case = f"{kind} at operation {number}"
        if kind == "kill" and code != -signal.SIGKILL:
            counts.wrong.append(f"{case}: ended with {code}")
        if kind == "full" and (code != 1 or text.count("\n") != 1 or not text.startswith("error: ")):
            counts.wrong.append(f"{case}: ended with {code}: {text}")
        command.check(counts, case, kind)
    return counts


def campaign(name: str, folder: Path, kills: int, limit: int, seed: int) -> dict[str, Any]:
    """All faults of one command."""
    before = folder / f"{name}-before"
    before.mkdir()
    if name != "calibrate":
        finish(before, COMMANDS["calibrate"])
    finish(before, (*COMMANDS[name], "--seed", "1"))
    command = Command(COMMANDS[name], before, folder / name)
    draw = random.Random(seed)
    chosen = {
        kind: sorted(draw.sample(range(1, total + 1), min(total, limit))) for kind, total in command.operations.items()
    }
    return {
        "command": f"edgeq {' '.join(command.arguments)}",
        "seconds": round(command.seconds, 1),
        "operations": command.operations,
        "killed_at_moments": asdict(at_moments(command, kills, draw)),
        "killed_at_operations": asdict(at_operations(command, "kill", chosen["kill"])),
        "full_at_operations": asdict(at_operations(command, "full", chosen["full"])),
    }


@click.command()
@click.option("--kills", default=50, show_default=True, help="At random moments of each command.")
@click.option("--operations", default=20, show_default=True, help="File operations at most for each command and fault.")
@click.option("--seed", default=0, show_default=True, help="Of moments and operations.")
def main(kills: int, operations: int, seed: int) -> None:
    for module in pkgutil.iter_modules(edgeq.__path__, "edgeq."):
        if module.name != "edgeq.__main__":
            import_module(module.name)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: campaign(name, Path(folder), kills, operations, seed) for name in COMMANDS}
    body = {"environment": environment(), "seed": seed, "commands": found}
    write_json(Path(__file__).resolve().parent.parent / "results" / "faults.json", "faults", 1, body)


if __name__ == "__main__":
    main()
