"""Networks that people deploy: what can be converted, what becomes integer kernels, what it gains.

    python benchmarks/zoo.py --work DIR --peers --store
    python benchmarks/zoo.py --work DIR --set yolo --stages trace

Classifiers, 120 networks of timm, detectors and segmentation networks of torchvision, and the YOLO family
(`zoo_networks.py`), each in a process of its own (`zoo_stages.py`): a crash or a timeout is a result. DIR keeps the
files, and a log of every network: a later run does what is missing. What the logs have can be stored in
`benchmarks/results/zoo.json`, with the speeds in `zoo.png`, in place of what is there of the same networks.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import click
from zoo_log import Log
from zoo_networks import SETS, STATISTICS
from zoo_report import figure
from zoo_stages import CALIBRATION, STAGES, measure

from edgeq.artifacts.files import write_json
from edgeq.system.environment import environment

_PROCESSES: Final = get_context("forkserver")
_PROCESSES.set_forkserver_preload([
    "edgeq.calibration.calibrate", "edgeq.exporters.export", "edgeq.frontends.torch_export.trace",
    "onnxruntime.quantization", "timm", "torch._dynamo", "ultralytics.nn.tasks",
])  # fmt: skip


def run(log: Log, stages: Sequence[str], runs: int, limit: int) -> None:
    """Stages of one network in a process. How it ended is the result of the stage that it did not finish."""
    done = len(log.lines())
    errors = log.path.with_suffix(".err")
    process = _PROCESSES.Process(target=measure, args=(log, runs, stages, errors))
    process.start()
    process.join(limit)
    problem = ""
    if process.exitcode is None:
        process.kill()
        process.join()
        problem = f"took more than {limit} s"
    elif process.exitcode:
        last = (errors.read_text(errors="replace").strip().splitlines() or [""])[-1][:500]
        problem = f"the process ended with {process.exitcode}: {last}"
    if problem:
        log.add({"stage": stages[len(log.lines()) - done], "failed": problem})


def merged(log: Log) -> dict[str, Any]:
    """What all stages say of a network: of its trace, of each of its files, of the time they took, and what failed."""
    body: dict[str, Any] = {"failed": {}, "seconds": {}}
    files: dict[str, Any] = defaultdict(dict)
    for stage, line in log.newest().items():
        if "failed" in line:
            body["failed"][stage] = line["failed"]
            continue
        body["seconds"][stage] = line["seconds"]
        if stage == "trace":
            body |= line["found"]
        else:
            for scheme, row in line["found"].items():
                files[scheme] |= row
    return {**body, "files": files}


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for files and logs; kept.")
@click.option("--set", "sets", multiple=True, type=click.Choice(list(SETS)), default=list(SETS))
@click.option("--network", "networks", multiple=True, help="Names; all by default.")
@click.option("--stages", default="trace,export,speed", show_default=True)
@click.option("--peers", is_flag=True, help="Beside the files of quantize_static.")
@click.option("--again", is_flag=True, help="Try again what has failed.")
@click.option("--store", is_flag=True, help="Store what the logs of these sets have.")
@click.option("--runs", default=15, help="Timed runs of each file.")
@click.option("--limit", default=900, help="Seconds that a network may take.")
@click.option("--jobs", default=1, help="Networks at a time; with more than one, no time means anything.")
def main(
    work: Path, sets: tuple[str, ...], networks: tuple[str, ...], stages: str, peers: bool, again: bool, store: bool,
    runs: int, limit: int, jobs: int,
) -> None:  # fmt: skip
    if unknown := set(stages.split(",")) - set(STAGES):
        raise click.BadParameter(f"unknown stages {', '.join(unknown)}; expected some of {', '.join(STAGES)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    wanted = [stage for stage in STAGES if stage in stages.split(",") or (stage == "static" and peers)]
    for folder in ("exports", "log"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    logs = [
        Log(work.absolute(), kind, name) for kind in sets for name in SETS[kind].names if name in (networks or (name,))
    ]

    def measured(log: Log) -> None:
        remaining = log.missing(wanted, again)
        while remaining:
            run(log, remaining, runs, limit)
            remaining = log.missing(wanted)
        click.echo(f"{log.kind}: {log.name}: {log.problem() or 'done'}", err=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(measured, logs))
    if store:
        stored(sets, work)


def stored(sets: Sequence[str], work: Path) -> None:
    """Put what the logs have of some sets in place of what is stored of the same networks."""
    results = Path(__file__).parent / "results"
    images = {"statistics": STATISTICS, "calibration": CALIBRATION}
    found: dict[str, Any] = json.loads((results / "zoo.json").read_text(encoding="utf-8"))["sets"]
    for kind in sets:
        logs = {name: Log(work.absolute(), kind, name) for name in SETS[kind].names}
        here = environment()
        made = {name: merged(log) | {"environment": here} for name, log in logs.items() if log.lines()}
        # Networks that were stored before this field was are of the environment of their set.
        found[kind] = {"environment": here, **found.get(kind, {}), "images": images}
        found[kind]["networks"] = found[kind].get("networks", {}) | made
    write_json(results / "zoo.json", "zoo", 4, {"sets": found})
    figure({kind: body["networks"] for kind, body in found.items()}).savefig(results / "zoo.png")


if __name__ == "__main__":
    main()
