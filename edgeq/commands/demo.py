"""`edgeq demo`: all stages on the network and images that come with edgeq."""

from __future__ import annotations

from typing import Final

import click

from edgeq.commands import options

FIXED: Final = ("8bit", "4bit", "2bit")
BESIDE: Final = tuple(part for scheme in FIXED for part in ("--beside", f"exports/mobilenet_v2-{scheme}.safetensors"))

COMMANDS: Final = (
    ("calibrate",),
    ("plan", "--scheme", "adaptive"),
    *(("export", "--scheme", scheme) for scheme in ("fp32", *FIXED)),
    ("export", "--scheme", "adaptive", "--format", "onnx", "--format", "web", *BESIDE),
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

    Writes into calib/ and exports/. Each command is shown before it runs. At the end there are a page on which the
    networks run in a browser, exports/mobilenet_v2-adaptive.html, and a report, exports/report.html.

    \b
    Example:
      edgeq demo
    """
    edgeq = context.find_root().command
    for arguments in COMMANDS:
        click.echo(f"$ edgeq {' '.join(arguments)}", err=True)
        flags = ["--force"] * force + ["--json"] * as_json
        edgeq.main([*arguments, *flags], prog_name="edgeq", standalone_mode=False, default_map={})
    click.echo(
        "open in a browser: exports/report.html, and exports/mobilenet_v2-adaptive.html to see the networks run",
        err=True,
    )
