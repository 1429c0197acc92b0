"""`edgeq demo`: all stages on the network and images that come with edgeq."""

from __future__ import annotations

from typing import Final

import click

from edgeq.commands import options

COMMANDS: Final = (
    ("calibrate",),
    ("plan", "--scheme", "adaptive"),
    *(("export", "--scheme", scheme) for scheme in ("fp32", "8bit", "4bit", "2bit", "adaptive")),
    ("evaluate",),
    ("bench", "--device", "cpu"),
    ("plot",),
    ("report",),
)
"""The commands that the demo runs, in order."""


@click.command("demo")
@options.threads
@options.force
@options.json
@click.pass_context
def command(context: click.Context, force: bool, as_json: bool) -> None:
    """Run every stage on the network and images that come with edgeq: offline, in a few minutes.

    Writes into calib/ and exports/. Each command is shown before it runs; the last one says where the report is.

    \b
    Example:
      edgeq demo
    """
    edgeq = context.find_root().command
    for arguments in COMMANDS:
        click.echo(f"$ edgeq {' '.join(arguments)}", err=True)
        flags = ["--force"] * force + ["--json"] * as_json
        edgeq.main([*arguments, *flags], prog_name="edgeq", standalone_mode=False, default_map={})
