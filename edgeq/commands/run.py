"""`edgeq run`: calibrate, export, evaluate, bench and report by one recipe, `edgeq.toml`."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import click

from edgeq.artifacts.files import check_output, dumps, read_json, sha256, write_json
from edgeq.artifacts.model_names import short_name
from edgeq.artifacts.schema import PATH, TEXT, Schema
from edgeq.commands import bench, calibrate, config, defaults, evaluate, export, options, report
from edgeq.commands.console import print_json
from edgeq.errors import ArtifactError, EdgeqError
from edgeq.planning.recipe import Recipe
from edgeq.system.environment import environment

STAGES: Final = ("calibrate", "export", "evaluate", "bench", "report")
KIND: Final = "run"
VERSION: Final = 1
_CHANGED: Final = "what it reads has changed"
_SCHEMA: Final[Schema] = {"stages": [{"command": [PATH], "inputs": TEXT, "outputs": {str: TEXT}}]}


@dataclass(frozen=True)
class Stage:
    """One command of a run.

    Attributes:
        arguments: of edgeq, all options included.
        inputs: files and folders that its result depends on; some are made by stages before it.
        outputs: the files that it writes.
    """

    arguments: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]

    @property
    def text(self) -> str:
        """The command as a user would type it."""
        return shlex.join(["edgeq", *self.arguments])

    def digest(self) -> str:
        """The SHA-256 of all that its result depends on: the versions of edgeq and what it runs with, its
        options, and its inputs.

        Of folders, the names, sizes and times of their files stand for what is in them.
        """
        found = hashlib.sha256(repr((environment()["versions"], self.arguments)).encode())
        for path in self.inputs:
            for file in sorted(path.rglob("*")) if path.is_dir() else ():
                state = file.stat()
                found.update(repr((str(file), state.st_size, state.st_mtime_ns)).encode())
            if path.is_file():
                found.update(sha256(path).encode())
        return found.hexdigest()


class Ledger:
    """Which stages are done: a file beside the exports.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stages: list[dict[str, Any]] = []
        if path.exists():
            self._stages = read_json(path, KIND, VERSION, _SCHEMA, "remove it to run all stages again")["stages"]

    def missing(self, stage: Stage) -> str | None:
        """Why a stage has to run; None if it is done, and nothing has changed since."""
        names = [str(path) for path in stage.outputs]
        entry = next((one for one in self._stages if list(one["outputs"]) == names), None)
        if gone := [name for name in names if not Path(name).is_file()]:
            return f"no {gone[0]}"
        if entry is None:
            return f"{names[0]} is not of this run"
        if entry["command"] != list(stage.arguments):
            return "other options than the last time"
        if entry["inputs"] != stage.digest():
            return _CHANGED
        changed = [name for name, digest in entry["outputs"].items() if sha256(Path(name)) != digest]
        return f"{changed[0]} has changed" if changed else None

    def add(self, stage: Stage) -> None:
        """Note that a stage is done, on the disk."""
        outputs = {str(path): sha256(path) for path in stage.outputs}
        kept = [one for one in self._stages if list(one["outputs"]) != list(outputs)]
        entry = {"command": list(stage.arguments), "inputs": stage.digest(), "outputs": outputs}
        self._stages = [*kept, entry]
        write_json(self.path, KIND, VERSION, {"stages": self._stages})


class Plan:
    """The stages that a file asks for.

    Args:
        path: of the file.
        commands: the names of all commands, which may have tables.

    Raises:
        EdgeqError: an unknown key, a wrong value, or stages that do not go together.
    """

    def __init__(self, path: Path, commands: Sequence[str]) -> None:
        self.path = path
        self._tables = config.read_config(path, commands)
        own = self._tables.get(KIND, {})
        for key in own:
            config.check_known(path, key, ("stages", "exports"), f"[{KIND}]")
        asked = own.get("stages", list(STAGES))
        if not isinstance(asked, list) or not asked or not all(name in STAGES for name in asked):
            raise ArtifactError(f"{path}: stages in [{KIND}]: expected some of {', '.join(STAGES)}, found {asked!r}")
        self._exports = own.get("exports", [{}])
        tables = isinstance(self._exports, list) and all(isinstance(one, dict) for one in self._exports)
        if not tables or not self._exports:
            raise ArtifactError(
                f"{path}: exports in [{KIND}]: expected a list of tables, such as [{{ scheme = '4bit' }}], found "
                f"{self._exports!r}"
            )
        self._model, self._record = "", Path()
        calibration = self._calibrate()
        exports = [self._export(one) for one in self._exports]
        self.folder = exports[0].outputs[0].parent
        if others := [one.outputs[0] for one in exports if one.outputs[0].parent != self.folder]:
            raise ArtifactError(
                f"{path}: expected all exports in {self.folder}, found {others[0]}; leave out its folder"
            )
        files = tuple(one.outputs[0] for one in exports)
        if twice := [file for i, file in enumerate(files) if file in files[:i]]:
            raise ArtifactError(f"{path}: expected each export once, found {twice[0]} twice; give one its own output")
        scored = self._measured(evaluate.command, files, "evaluation.json", ("data", "annotations"))
        timed = self._measured(bench.command, files, "bench.json", ())
        made = {"calibrate": [calibration], "export": exports, "evaluate": [scored], "bench": [timed]}
        found = {name: made[name] for name in STAGES[:-1] if name in asked}
        found["report"] = [self._report([*exports, *found.get("evaluate", ()), *found.get("bench", ())])]
        self.stages = [stage for name in STAGES if name in asked for stage in found[name]]

    def _parsed(
        self, command: click.Command, *before: str, table: Mapping[str, Any] | None = None, **usual: Path
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The arguments of a command by its table, and the values of its parameters; `usual` are options by default."""
        name = str(command.name)
        given = {key: str(found) for key, found in usual.items()} | self._tables.get(name, {})
        values = config.values_of(self.path, given, command)
        values |= config.values_of(self.path, table, command, f"exports in [{KIND}]") if table else {}
        arguments = (*before, *config.as_arguments(values))
        try:
            with command.make_context(name, list(arguments)) as context:
                return (name, *arguments), context.params
        except click.UsageError as error:
            raise ArtifactError(f"{self.path}: [{name}]: {error.format_message()}") from error

    def _calibrate(self) -> Stage:
        _, found = self._parsed(calibrate.command)
        self._model = found["model"] or defaults.MODEL
        usual = defaults.RECORDS / f"{short_name(self._model)}.calib"
        arguments, found = self._parsed(calibrate.command, output=usual)
        self._record = found["output"]
        read = (self._model, found["weights"], found["data"])
        return Stage(arguments, _paths(*read), (self._record,))

    def _export(self, table: Mapping[str, Any]) -> Stage:
        if "scheme" not in self._tables.get("export", {}):
            table = {"scheme": "adaptive", **table}
        _, found = self._parsed(export.command, table=table)
        try:
            recipe = Recipe(**{one.name: found[one.name] for one in fields(Recipe)})
        except EdgeqError as error:
            raise ArtifactError(f"{self.path}: exports in [{KIND}]: {error}") from error
        usual = defaults.EXPORTS / f"{short_name(self._model)}-{recipe.name}.onnx"
        arguments, found = self._parsed(export.command, table=table, record=self._record, output=usual)
        output: Path = found["output"]
        if "onnx" not in found["formats"] or output.suffix != ".onnx":
            raise ArtifactError(f"{self.path}: [{KIND}]: expected exports that write an ONNX file, found {output}")
        record: Path = found["record"]
        written = (output, output.with_suffix(".json"), output.with_suffix(".safetensors"))
        return Stage(arguments, (record,), written)

    def _measured(self, command: click.Command, files: Sequence[Path], name: str, read: Sequence[str]) -> Stage:
        arguments, found = self._parsed(command, *map(str, files), output=self.folder / name)
        return Stage(arguments, (*files, *_paths(*(found[key] for key in read))), (found["output"],))

    def _report(self, before: Sequence[Stage]) -> Stage:
        arguments, found = self._parsed(
            report.command, str(self.folder), record=self._record, output=self.folder / "report.html"
        )
        made = (path for stage in before for path in stage.outputs if path.suffix == ".json")
        return Stage(arguments, (self._record, *made), (found["output"],))


def _paths(*texts: str | Path | None) -> tuple[Path, ...]:
    """Those that are files or folders; others are names."""
    return tuple(path for text in texts if text and (path := Path(text)).exists())


def todo(stages: Sequence[Stage], ledger: Ledger) -> Iterator[tuple[Stage, str | None]]:
    """Yield every stage with the reason why it has to run, or None if it is done.

    What comes later is judged by what is there now, and by what stages before it will write anew.
    """
    anew: set[Path] = set()
    for stage in stages:
        reason = ledger.missing(stage)
        if reason in (None, _CHANGED) and (read := [path for path in stage.inputs if path in anew]):
            reason = f"{read[0]} will be made anew"
        if reason:
            anew.update(stage.outputs)
        yield stage, reason


@click.command("run")
@click.argument("recipe", type=options.PATH, default=config.FILE, metavar="[FILE]")
@click.option("--dry-run", is_flag=True, help="Say what would be done and why, and do nothing.")
@options.json
@click.pass_context
def command(context: click.Context, recipe: Path, dry_run: bool, as_json: bool) -> None:
    """Calibrate, export, evaluate, bench and report by one recipe: edgeq.toml.

    Stages that are done, and whose options, files and images have not changed, are left out; a run that was stopped
    goes on where it was.

    \b
    Example:
      edgeq run --dry-run
      edgeq run
    """
    edgeq = context.find_root().command
    assert isinstance(edgeq, click.Group)
    plan = Plan(recipe, edgeq.list_commands(context))
    ledger = Ledger(plan.folder / "run.json")
    if dry_run:
        found = list(todo(plan.stages, ledger))
        if as_json:
            stages = [{"command": list(stage.arguments), "reason": reason} for stage, reason in found]
            print_json(dumps("dry-run", VERSION, {"stages": stages}))
        for stage, reason in found if not as_json else ():
            click.echo(f"to do ({reason}): {stage.text}" if reason else f"done: {stage.text}")
        return
    check_output(ledger.path)
    for stage in plan.stages:
        if ledger.missing(stage) is None:
            click.echo(f"done: {stage.text}", err=True)
            continue
        click.echo(f"$ {stage.text}", err=True)
        arguments = [*stage.arguments, *["--json"] * as_json]
        edgeq.main(arguments, prog_name="edgeq", standalone_mode=False, default_map={})
        ledger.add(stage)
