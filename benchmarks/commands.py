"""What the commands take that make a file: `calibrate`, and `export` at 8, 4 and 2 bits with the effort `fast`.

    python benchmarks/commands.py --weights mobilenet_v2.safetensors --images FOLDER --work DIR

Every command runs as a user types it, in a process of its own, on all CPUs; all take turns. Beside the time on the
clock there are the CPU seconds of all threads, which other work on the machine changes less. Everything goes to
`benchmarks/results/MODEL/commands.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from shared import CLI, timed

from edgeq.artifacts.files import write_json
from edgeq.system.environment import environment

SCHEMES: Final = ("8bit", "4bit", "2bit")


@click.command()
@click.option("--model", default="mobilenet_v2", show_default=True)
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="To calibrate on.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for models.")
@click.option("--runs", default=3, show_default=True, help="Of every command.")
def main(model: str, weights: Path, images: Path, work: Path, runs: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    record = f"{model}.calib"
    named = ["--weights", str(weights.absolute()), "--data", str(images.absolute()), "--output", record]
    commands = {"calibrate": [*CLI, "calibrate", model, *named]}
    for scheme in SCHEMES:
        options = ["--record", record, "--effort", "fast", "--scheme", scheme, "--output", f"{model}-{scheme}.onnx"]
        commands[f"export, {scheme}, fast"] = [*CLI, "export", *options]
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            costs[name].append(timed(command, work))
    count = sum(path.is_file() for path in images.rglob("*"))
    body = {"model": model, "environment": environment(), "images": count, "commands": costs}
    write_json(Path(__file__).parent / "results" / model / "commands.json", "commands", 1, body)


if __name__ == "__main__":
    main()
