"""`edgeq plot`: figures of the manifests and reports in a folder of exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from edgeq.artifacts.files import check_output, dumps, kind_of
from edgeq.artifacts.manifest import Manifest, load_manifest
from edgeq.artifacts.measured import BENCH, EVALUATION
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json
from edgeq.errors import ArtifactError
from edgeq.reports import figures
from edgeq.system.progress import SILENT, Progress

VERSION: Final = 1


def plot(
    exports: Path = defaults.EXPORTS, output: Path | None = None, force: bool = False, progress: Progress = SILENT
) -> list[Path]:
    """Draw the manifests and reports in a folder of exports.

    Args:
        exports: folder with manifests and, if they were made, `bench.json` and `evaluation.json`.
        output: folder of the figures; None is `exports`.
        force: replace files that edgeq did not write.
        progress: receives notices about figures that are left out, and about the command that makes their data.

    Returns:
        The PNG files.

    Raises:
        ArtifactError: no manifest, a damaged one, or manifests of several networks.
        OutputError: a figure cannot be written.
    """
    found = [path for path in sorted(exports.glob("*.json")) if kind_of(path) == "manifest"]
    if not found:
        raise ArtifactError(f"{exports}: expected manifests of exported models, found none; run `edgeq export` first")
    manifests = [load_manifest(path) for path in found]
    drawings = _drawings(manifests, exports, progress)
    paths = [(output or exports) / f"{name}.png" for name in drawings]
    for path in paths:
        check_output(path, force)
    for path, draw in zip(paths, drawings.values(), strict=True):
        draw(path)
    return paths


def _drawings(manifests: Sequence[Manifest], exports: Path, progress: Progress) -> dict[str, Callable[[Path], None]]:
    """Return a drawing function for each figure whose data is there, by name."""
    drawings: dict[str, Callable[[Path], None]] = {"bitops": partial(figures.plot_bitops, manifests)}
    if all(manifest.get("scheme") == "fp32" for manifest in manifests):
        progress.notice("bits_by_position.png left out: only fp32 here; `edgeq export --scheme adaptive` makes more")
    else:
        drawings["bits_by_position"] = partial(figures.plot_bits_by_position, manifests)
    timed, scored = exports / "bench.json", exports / "evaluation.json"
    if timed.exists():
        drawings["size_latency"] = partial(figures.plot_size_latency, manifests, BENCH.read(timed))
    else:
        progress.notice(f"size_latency.png left out: no {timed}; `edgeq bench --device cpu` makes it")
    if scored.exists():
        report = EVALUATION.read(scored)
        drawings["accuracy_size"] = partial(figures.plot_accuracy_size, manifests, report)
    else:
        progress.notice(f"accuracy_size.png left out: no {scored}; `edgeq evaluate` makes it")
    return drawings


@click.command("plot")
@click.option(
    "--exports", type=options.PATH, default=defaults.EXPORTS, show_default=True, help="Folder of exports, reports."
)
@click.option(
    "--output", type=options.PATH, metavar="DIR", help="Folder of the figures.  [default: that of the exports]"
)
@options.force
@options.json
def command(exports: Path, output: Path | None, force: bool, as_json: bool) -> None:
    """Draw figures of BitOps, bits, size, latency and accuracy from what is stored in a folder.

    \b
    Example:
      edgeq plot --exports exports --output figures
    """
    with listening() as progress:
        paths = [str(path) for path in plot(exports, output, force, progress)]
    if as_json:
        print_json(dumps("figures", VERSION, {"files": paths}))
    else:
        for path in paths:
            click.echo(path)
