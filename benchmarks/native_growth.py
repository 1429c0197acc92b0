"""How the native engine's time grows with resolution and width, beside ONNX Runtime's on the same files.

    python benchmarks/native_growth.py --work DIR --store

The networks of growth.py at 4 bits, one image on one thread; all files of a quantity take turns in both runtimes.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from growth import Case, files
from native import RUNTIMES, measured
from shared import publish

from edgeq.artifacts.files import write_json
from edgeq.evaluation.latency import from_path
from edgeq.system.environment import environment

GROWING: Final = {
    "resolution": [Case(resolution=size) for size in (128, 224, 320)],
    "width": [Case(width=width) for width in (0.5, 1.0, 1.4)],
}


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder that keeps the exported files.")
@click.option("--runs", default=100, show_default=True, help="Timed runs of each file in each runtime.")
@click.option("--store", is_flag=True, help="Store what was found.")
def main(work: Path, runs: int, store: bool) -> None:
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for quantity, cases in GROWING.items():
        grown = {case: from_path(files(case, work)[1]) for case in cases}
        found = measured([*grown.values()], runs, memory=False)
        for case, model in grown.items():
            rows.append({"quantity": quantity, **asdict(case), **found[model.name]})
            theirs, ours = (found[model.name][runtime]["median_ms"] for runtime in RUNTIMES)
            click.echo(f"{quantity} {getattr(case, quantity)}: {ours:.2f} of {theirs:.2f} ms ({ours / theirs:.2f}x)")
    if store:
        report = Path(tempfile.mkdtemp()) / "native_growth.json"
        write_json(report, "native-growth", 1, {"environment": environment(), "runs": runs, "rows": rows})
        publish(report, Path(__file__).parent / "results" / "native_growth.json", [report.parent, work.absolute()])


if __name__ == "__main__":
    main()
