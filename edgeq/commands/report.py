"""`edgeq report`: one HTML page about a folder of exports."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from edgeq.artifacts.files import check_output, dumps, replacing
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json
from edgeq.errors import ArtifactError, OutputError
from edgeq.reports.page.folder import Folder, belongs, read_folder
from edgeq.reports.page.model_explorer import node_data
from edgeq.reports.page.page import page
from edgeq.system.progress import SILENT, Progress

VERSION: Final = 1
LARGEST: Final = 5_000_000
"""Bytes of a page."""


def report(
    exports: Path = defaults.EXPORTS,
    record: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    model_explorer: bool = False,
    progress: Progress = SILENT,
) -> list[Path]:
    """Write one HTML page about all that a folder holds.

    Args:
        exports: folder with manifests and, if they were made, reports of `evaluate`, `bench` and `sweep`, in it or in
            folders in it.
        record: the calibration record of the exports; None is the one in `calib/` that they were made with, if any.
        output: path of the page; None is `report.html` in the folder.
        force: replace files that edgeq did not write.
        model_explorer: also write a folder `NAME.nodes` beside every export, with one file for each value that Model
            Explorer shows on the nodes of the ONNX file.
        progress: receives a notice where sensitivities are left out.

    Returns:
        The files.

    Raises:
        ArtifactError: no manifest, manifests of several networks, a damaged artifact, or a record of another network.
        OutputError: a file cannot be written, or the page would be larger than 5 MB.
    """
    folder = read_folder(exports)
    found = _record(folder, record, progress)
    written = {output or exports / "report.html": page(folder, found)}
    if model_explorer:
        for name, manifest in folder.exports.items():
            own = found if found and belongs(found, manifest) else None
            nodes = (exports / name).with_suffix(".nodes")
            written |= {nodes / f"{value}.json": text for value, text in node_data(manifest, own)}
    for path, text in written.items():
        check_output(path, force)
        if (size := len(text.encode())) > LARGEST:
            raise OutputError(
                f"{path}: expected a page of at most {LARGEST / 1e6:.0f} MB, found {size / 1e6:.1f} MB; report fewer "
                "exports, from a folder of their own"
            )
    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(written)


def _record(folder: Folder, path: Path | None, progress: Progress) -> CalibrationRecord | None:
    """The record that exports of a folder were made with; None if it was not named and is not there."""
    for place in [path] if path else sorted(defaults.RECORDS.glob("*.calib")):
        try:
            record = CalibrationRecord.load(place)
        except ArtifactError as error:
            if path:
                raise
            progress.notice(f"left out: {error}")
            continue
        made = [name for name, manifest in folder.exports.items() if belongs(record, manifest)]
        if made and (others := [name for name in folder.exports if name not in made]):
            progress.notice(f"no sensitivities of exports of another record: {', '.join(others)}")
        if made:
            return record
    if path:
        raise ArtifactError(f"{path}: expected the record that {folder.path} was exported with, found another one")
    progress.notice(
        f"no record of these exports in {defaults.RECORDS}, so the page has no sensitivities, ranges and costs; name "
        "it with --record FILE"
    )
    return None


@click.command("report")
@click.argument("exports", type=options.PATH, default=defaults.EXPORTS, metavar="[FOLDER]")
@click.option(
    "--record", type=options.PATH, metavar="FILE",
    help="Calibration record of the exports.  [default: the one in calib/ that is theirs]",
)  # fmt: skip
@click.option("--output", type=options.PATH, metavar="FILE", help="The page.  [default: report.html in the folder]")
@click.option(
    "--model-explorer", is_flag=True,
    help="Write NAME.nodes/ beside every export, too: values that Model Explorer shows on the nodes of the file.",
)  # fmt: skip
@options.force
@options.json
def command(
    exports: Path, record: Path | None, output: Path | None, model_explorer: bool, force: bool, as_json: bool
) -> None:
    """Write one HTML page about a folder of exports: files, accuracy, speed, and every layer.

    The page needs no server and no network. Without a folder, exports/ is reported.

    \b
    Example:
      edgeq report
      edgeq report exports/sweep --model-explorer
    """
    with listening() as progress:
        paths = [str(path) for path in report(exports, record, output, force, model_explorer, progress)]
    if as_json:
        print_json(dumps("pages", VERSION, {"files": paths}))
    else:
        for path in paths:
            click.echo(path)
