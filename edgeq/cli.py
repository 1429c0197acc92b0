"""The command line. Each command is a module of `edgeq.commands`, imported only when the command runs.

Results go to stdout, progress and warnings to stderr. Exit 0: done; 1: an `EdgeqError`, in one line; 2: wrong usage;
130: interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from edgeq.commands import config
from edgeq.errors import EdgeqError, UnsupportedError, WorkerError
from edgeq.system.distributed import alone, first_to_speak
from edgeq.system.heap import keep_freed_memory

SHARED: Final = ("calibrate", "evaluate")
"""The commands that `torchrun` can run in several processes."""

COMMANDS: Final = {
    "bench": "Measure latency, load time and memory, next to the float baseline.",
    "calibrate": "Measure a float network on images and write a calibration record.",
    "demo": "Run every stage on the network and images that come with edgeq: offline, in a few minutes.",
    "evaluate": "Measure accuracy on images, with the float network as the reference.",
    "export": "Quantize a calibrated network and write an ONNX file, checked against PyTorch.",
    "inspect": "Show what is in a record, a manifest, an .onnx or a packed .safetensors file, a folder of C or a page.",
    "plan": "Show the bits of every layer under a scheme or budget, what they cost, and which layers are sensitive.",
    "plot": "Draw figures of BitOps, bits, size, latency and accuracy from what is stored in a folder.",
    "report": "Write one HTML page about a folder of exports: files, accuracy, speed, and every layer.",
    "run": "Calibrate, export, evaluate, bench and report by one recipe: edgeq.toml.",
    "sweep": "Export and evaluate every fixed scheme and a range of budgets: the Pareto front of size and accuracy.",
}
"""The first line of each command's help; kept here because most command modules take seconds to import."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the only place where errors become messages."""
    keep_freed_memory()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal may lack characters of a name or table
    try:
        result = cli.main(arguments, prog_name="edgeq", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EdgeqError as error:
        if not isinstance(error, WorkerError) or first_to_speak():
            click.echo(f"error: {error}", err=True)
        return 1
    except OSError as error:  # standard output or an invalid path; stages raise OutputError for their files
        place = error.filename or "standard output"
        click.echo(f"error: {place}: {error.strerror or error}", err=True)
        _forget_output()
        return 1
    except click.Abort:  # Ctrl-C
        click.echo("interrupted; no half-written file is left, and the same export resumes where it stopped", err=True)
        return 130
    return result if isinstance(result, int) else 0


def _forget_output() -> None:
    """Redirect stdout to nowhere if it cannot be flushed, so that the interpreter does not fail on it at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Commands(click.Group):
    """A group that imports the module of the command that runs, and none to list or complete the commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        match cmd_name:
            case "bench":
                from edgeq.commands.bench import command
            case "calibrate":
                from edgeq.commands.calibrate import command
            case "demo":
                from edgeq.commands.demo import command
            case "evaluate":
                from edgeq.commands.evaluate import command
            case "export":
                from edgeq.commands.export import command
            case "inspect":
                from edgeq.commands.inspect import command
            case "plan":
                from edgeq.commands.plan import command
            case "plot":
                from edgeq.commands.plot import command
            case "report":
                from edgeq.commands.report import command
            case "run":
                from edgeq.commands.run import command
            case "sweep":
                from edgeq.commands.sweep import command
            case _:
                return None
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeq")
@click.pass_context
def cli(context: click.Context) -> None:
    """Quantize vision networks to 8, 4 and 2 bits and export ONNX files that stock runtimes run at int8 speed.

    Every command works without files on the network and images that come with edgeq; `edgeq demo` runs them all.

    \b
    Example:
      edgeq calibrate
      edgeq export --scheme adaptive
      edgeq bench --device cpu
    """
    if context.invoked_subcommand not in SHARED and not alone():
        raise UnsupportedError(
            f"{context.invoked_subcommand} runs in one process, found several started by torchrun; start it without, "
            f"or run one of {', '.join(SHARED)}"
        )
    if context.default_map is None and config.FILE.exists():
        context.default_map = _defaults(context)


def _defaults(context: click.Context) -> dict[str, Any]:
    """The options that `edgeq.toml` in the working folder has for the command that runs, unless it is the whole run."""
    name = str(context.invoked_subcommand)
    table = config.read_config(config.FILE, COMMANDS).get(name)
    command = cli.get_command(context, name)
    if not table or command is None or name == "run":
        return {}
    values = config.values_of(config.FILE, table, command)
    click.echo(f"defaults from [{name}] in {config.FILE}", err=True)
    return {name: config.as_defaults(values, command)}
