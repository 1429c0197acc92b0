"""What each effort makes of each size: exports as a user would make them, scored on held-out images.

    python benchmarks/accuracy.py --weights mobilenet_v2.safetensors --images FOLDER --work DIR
    python benchmarks/accuracy.py --work DIR --rows 8bit,4bit,0.9MB,2bit --output benchmarks/results/embedded

The second line takes the network and the images that come with edgeq. FOLDER has `calib/` (images to calibrate on) and
`val/<wnid>/` (images to report on; they decide nothing). Two exports run at a time, on one thread each; a row is a
fixed scheme, `adaptive`, or the size of an adaptive file. Files are scored in the native engine, which computes what
ONNX Runtime does on any CPU, without the overflow of some. Rows that are in DIR already are kept, so that the script
can be run again with other efforts or seeds. All rows go to `benchmarks/results/MODEL/accuracy.json`. Where an effort
has every row of seed 0, `edgeq sweep` draws its front of size against accuracy, with files of other tools on it:
`sweep-EFFORT.png`. The files of the first effort are compared with their PyTorch modules on 320 of these images.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from shared import CLI, publish, timed

import edgeq
from edgeq.artifacts.files import dumps
from edgeq.commands.image_sets import labelled_images
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import compare
from edgeq.system.environment import environment

FIXED: Final = ("8bit", "4bit", "2bit")
BUDGETS: Final = ("1.3MB", "1.1MB", "0.9MB")
SHOWN: Final = ("8bit", "4bit", "1.1MB", "2bit")
LANES: Final = 2
PARITY_BATCHES: Final = 40  # of 8 images; PyTorch's reference is slow


def export(work: Path, record: str, row: str, effort: str, seed: int) -> None:
    """Export one row in a process of its own, and note what it took."""
    name = f"{row}-{effort}-{seed}"
    note = work / f"{name}.json"
    if note.exists():
        return
    scheme = ["--scheme", row] if row in (*FIXED, "adaptive") else ["--scheme", "adaptive", "--budget", f"size={row}"]
    flags = ["--record", record, "--effort", effort, "--seed", str(seed), "--output", f"exports/{name}.onnx"]
    cost = timed([*CLI, "export", *scheme, *flags], work, threads=1)
    note.write_text(json.dumps({"row": row, "effort": effort, "seed": seed} | cost))


@click.command()
@click.option("--model", default="mobilenet_v2")
@click.option("--weights", type=click.Path(exists=True, path_type=Path))
@click.option("--images", type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for models; kept.")
@click.option("--efforts", default="balanced,fast")
@click.option("--seeds", default="0")
@click.option("--rows", default=",".join((*FIXED, *BUDGETS)))
@click.option("--peer", "peers", type=click.Path(exists=True, path_type=Path), multiple=True, help="Of another tool.")
@click.option("--output", type=click.Path(path_type=Path), default=None)
def main(
    model: str,
    weights: Path | None,
    images: Path | None,
    work: Path,
    efforts: str,
    seeds: str,
    rows: str,
    peers: tuple[Path, ...],
    output: Path | None,
) -> None:
    output = output or Path(__file__).parent / "results" / model
    work.mkdir(parents=True, exist_ok=True)
    record = f"calib/{model}.calib"
    if not (work / record).exists():
        flags = ["--weights", str(weights.absolute())] if weights else []
        subprocess.run([*CLI, "calibrate", "--model", model, *flags, *data(images, "calib")], cwd=work, check=True)
    wanted = [
        (row, effort, int(seed))
        for effort in efforts.split(",")
        for seed in seeds.split(",")
        for row in rows.split(",")
    ]
    with ThreadPoolExecutor(LANES) as lanes:
        for done in [lanes.submit(export, work, record, *item) for item in wanted]:
            done.result()
    costs = {path.stem: json.loads(path.read_text()) for path in sorted(work.glob("*-*-*.json"))}
    files = [f"exports/{name}.onnx" for name in costs]
    subprocess.run([*CLI, "evaluate", *files, *data(images, "val"), "--runtime", "native"], cwd=work, check=True)
    evaluation = json.loads((work / "exports" / "evaluation.json").read_text())
    scores = {score["name"]: score for score in evaluation["models"]}
    first = [name for name in costs if name.endswith(f"-{efforts.partition(',')[0]}-0")]
    source = edgeq.load(model, str(weights or "embedded"))
    held_out = labelled_images(str(images / "val") if images else None, source.weights, source.classes)
    body = {
        "model": model,
        "images": evaluation["images"],
        "environment": environment(),
        "reference": evaluation["reference"],
        "rows": [summary(work, name, cost, scores[name], evaluation["reference"]) for name, cost in costs.items()],
        "parity": {name: parity(work, name, source, held_out) for name in first},
    }
    (output / "accuracy.json").write_text(dumps("accuracy", 1, body))
    figures(work, [name for name in first if name.rpartition("-")[0].rpartition("-")[0] in SHOWN], output)
    for effort in efforts.split(","):
        if all(f"{row}-{effort}-0" in costs for row in FIXED):
            sweep(work, record, effort, [cost["row"] for cost in costs.values()], data(images, "val"), peers)
            made, private = (
                work / "exports" / f"sweep-{effort}",
                [path.absolute() for path in (weights, images) if path],
            )
            publish(made / "sweep.json", output / f"sweep-{effort}.json", private)
            shutil.copy(made / "sweep.png", output / f"sweep-{effort}.png")


def figures(work: Path, names: list[str], output: Path) -> None:
    """BitOps, and the bits of every layer, of a few exports."""
    shown = work / "exports" / "shown"
    shown.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(work / "exports" / f"{name}.json", shown)
    subprocess.run([*CLI, "plot", "--exports", str(shown.absolute())], cwd=work, check=True)
    for name in ("bitops", "bits_by_position"):
        shutil.copy(shown / f"{name}.png", output)


def data(images: Path | None, part: str) -> list[str]:
    """Flags that name the images; without a folder of them, the embedded ones are taken."""
    return ["--data", str(images.absolute() / part)] if images else []


def sweep(work: Path, record: str, effort: str, rows: list[str], images: list[str], peers: tuple[Path, ...]) -> None:
    """Draw the front of the exports of one effort, under the names by which `edgeq sweep` finds them finished."""
    folder = work / "exports" / f"sweep-{effort}"
    folder.mkdir(exist_ok=True)
    names = [row for row in dict.fromkeys(rows) if row != "adaptive"]  # whose budget is another's
    made = [row for row in names if (work / f"exports/{row}-{effort}-0.onnx").exists()]
    budgets = [f"size={row}" for row in made if row not in FIXED]
    for row in made:
        name = row if row in FIXED else f"adaptive-size-{row}"
        for suffix in (".onnx", ".json", ".safetensors"):
            shutil.copy(work / f"exports/{row}-{effort}-0{suffix}", folder / f"{name}{suffix}")
    for peer in peers:
        shutil.copy(peer, folder)
    flags = ["--record", record, *images, "--effort", effort, "--runtime", "native"]
    flags += ["--output", f"exports/sweep-{effort}"]
    subprocess.run([*CLI, "sweep", "--budgets", ",".join(budgets), *flags], cwd=work, check=True)


def parity(work: Path, name: str, source: edgeq.Source, images: edgeq.ImageSet) -> dict[str, Any]:
    """How close ONNX Runtime comes to the PyTorch module on some of the images; kept beside the file."""
    path = work / "exports" / f"{name}.onnx"
    note = path.with_suffix(".parity")
    if not note.exists() or note.stat().st_mtime < path.stat().st_mtime:
        made = translate(edgeq.load_packed(path.with_suffix(".safetensors")))
        record = edgeq.CalibrationRecord.load(work / "calib" / f"{source.model}.calib")
        batches = (batch.images for batch in islice(images.batches(source.preprocess, 8), PARITY_BATCHES))
        measured = asdict(compare(made, path, record.activations, batches))
        note.write_text(json.dumps(measured | measured.pop("outputs")["logits"]))
    found: dict[str, Any] = json.loads(note.read_text())
    return found


def summary(work: Path, name: str, cost: dict[str, Any], score: dict[str, Any], fp32: dict[str, Any]) -> dict[str, Any]:
    manifest = json.loads((work / "exports" / f"{name}.json").read_text())
    kept = {key: manifest[key] for key in ("scheme", "budget", "bytes", "bitops", "damage", "drop")}
    found = {key: score[key] for key in ("top1", "top5", "agreement", "sqnr_db")}
    bits = [layer["bits"] for layer in manifest["layers"]]
    return (
        cost
        | kept
        | {"estimated_drop": kept.pop("drop")}
        | found
        | {"drop": fp32["top1"] - score["top1"], "bits": bits}
    )


if __name__ == "__main__":
    main()
