"""The same files on other CPUs, emulated: whether their int8 kernels give the same answers; says nothing about speed.

    python benchmarks/other_cpus.py --float fp32.onnx --images FOLDER --work DIR \\
        --cpu "Haswell=qemu-x86_64 -cpu Haswell PYTHON" \\
        --cpu "Cortex-A72=qemu-aarch64 -cpu cortex-a72 ARM" \\
        --cpu "Neoverse-N1=qemu-aarch64 -cpu neoverse-n1 ARM" FILE.onnx...

A `--cpu` is a name and the command of a Python with NumPy and ONNX Runtime, from their ordinary wheels. The CPU of this
machine comes first. The float file has its manifest beside it. Answers that DIR has already are not computed again.
Haswell has AVX2 and no VNNI, Cortex-A72 no dot product, Neoverse-N1 has one. Writes `results/other_cpus.json`, and into
it what `edgeq evaluate` says of those files that edgeq made, on this machine and all images.

The emulators are Debian's package `qemu-user`, 7.2 or newer. PYTHON is the path of the one that runs this script. ARM
stands for `-L ROOT -E PYTHONPATH=SITE ROOT/usr/bin/python3.11`, where

- ROOT is a folder into which `dpkg -x` has unpacked Debian's packages python3.11-minimal, libpython3.11-minimal,
  libpython3.11-stdlib, libc6, libstdc++6, libgcc-s1, zlib1g, libexpat1 and libffi8, all `:arm64` (`apt-get download`,
  after `dpkg --add-architecture arm64` and `apt-get update`);
- SITE is one into which the wheels are unpacked that `pip download --no-deps --only-binary=:all: --python-version 3.11
  --platform manylinux_2_28_aarch64 onnxruntime numpy` finds;
- ROOT/proc/cpuinfo has the lines `processor: 0`, `CPU implementer: 0x41` and `CPU part: 0xd08`: ONNX Runtime for ARM
  crashes where it finds an x86 CPU there. It learns from elsewhere what the emulated CPU can do.

Which kernels run is seen from sums of products that are as large as they get: convolutions whose inputs are all at the
highest level, 255, and whose weights are all at one level. A kernel that adds two products in 16 bits, as `vpmaddubsw`
of AVX2 does, loses all beyond 32767: two products of 255 x 127 are 64770, two of 255 x 63 are 32130.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.artifacts.manifest import read_manifest
from edgeq.commands.evaluate import Evaluation, evaluate
from edgeq.data.preprocess import Preprocess
from edgeq.system.environment import environment

NATIVE: Final = "this-machine"
LEVELS: Final = (127, 63)
KINDS: Final = {"pointwise": (64, 64, 1, 1), "depthwise": (64, 1, 3, 3)}
"""Shapes of weights."""
HIGHEST: Final = 255


def largest_sum(shape: tuple[int, ...], level: int) -> float:
    """What one output adds up."""
    return float(HIGHEST * level * np.prod(shape[1:]))


def crafted(path: Path, shape: tuple[int, ...], level: int) -> None:
    """Write a file with one convolution in integers, whose largest sum is the largest number that its output holds."""
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.full(shape, level, np.int8),
        "step": np.float32(largest_sum(shape, level) / HIGHEST),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["weight", "one"], ["w"]),
        helper.make_node("Conv", ["levels", "w"], ["sum"], group=64 // shape[1]),
        helper.make_node("QuantizeLinear", ["sum", "step", "zero"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "step", "zero"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "crafted", [x], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


class Cpu:
    """A CPU, and the command of its Python.

    Args:
        name: of the CPU.
        command: starts Python.
        work: where answers are kept.
    """

    def __init__(self, name: str, command: Sequence[str], work: Path) -> None:
        self.name, self.command = name, command
        self.work = work / name
        self.work.mkdir(parents=True, exist_ok=True)

    def answers(self, file: Path, inputs: Path) -> NDArray[np.float32]:
        """What a file gives for every input."""
        found = self.work / f"{file.stem}.npy"
        if not found.exists() or found.stat().st_mtime < max(path.stat().st_mtime for path in (file, inputs)):
            click.echo(f"{self.name}: {file.name}", err=True)
            script = str(Path(__file__).with_name("answers.py"))
            written = found.with_stem(f"{file.stem}.unfinished")
            command = [*self.command, script, str(inputs), str(file), str(written)]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            (self.work / "python.json").write_text(ran.stdout)
            written.replace(found)
        answers: NDArray[np.float32] = np.load(found)
        return answers

    def describe(self) -> dict[str, Any]:
        """What answered, and what its kernels make of the largest sums, as shares of them."""
        brightest = self.work / "brightest.npy"
        if not brightest.exists():
            np.save(brightest, np.full((1, 64, 8, 8), HIGHEST, np.float32))
        shares: dict[str, dict[str, float]] = {}
        for kind, shape in KINDS.items():
            for level in LEVELS:
                file = self.work / f"{kind}-{level}.onnx"
                if not file.exists():
                    crafted(file, shape, level)
                share = self.answers(file, brightest) / largest_sum(shape, level)
                shares.setdefault(kind, {})[str(level)] = round(float(share.mean()), 3)
        version = subprocess.run([self.command[0], "--version"], check=True, capture_output=True, text=True).stdout
        ran = json.loads((self.work / "python.json").read_text())
        return {"started_by": version.splitlines()[0], **ran, "share_of_largest_sum": shares}


def agreement(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Images with the same answer, in percent."""
    return 100 * float((one.argmax(1) == other.argmax(1)).mean())


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--float", "float_file", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="DIR/<class>/<image>.")
@click.option("--count", default=200, help="Of images for all CPUs.")
@click.option("--cpu", "commands", multiple=True, metavar="NAME=COMMAND")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for answers; kept.")
def main(
    files: tuple[Path, ...], float_file: Path, images: Path, count: int, commands: tuple[str, ...], work: Path
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    inputs = work / f"images-{count}.npy"
    if not inputs.exists():
        preprocess = Preprocess.from_dict(read_manifest(float_file)["preprocess"])
        batches = edgeq.ImageSet.folder(images, count, 0).batches(preprocess, 1)
        np.save(inputs, np.concatenate([batch.images for batch in batches]))
    native = Cpu(NATIVE, [sys.executable], work)
    reference = native.answers(float_file, inputs)
    described: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    named = [text.partition("=") for text in commands]
    for cpu in [native, *(Cpu(name, shlex.split(command), work) for name, _, command in named)]:
        described[cpu.name] = cpu.describe()
        for file in files:
            found, expected = cpu.answers(file, inputs), native.answers(file, inputs)
            row = {
                "cpu": cpu.name,
                "file": file.stem,
                "images": len(found),
                "same_as_float": agreement(found, reference),
                "same_as_native": agreement(found, expected),
                "largest_difference": float(np.abs(found - expected).max()),
                "standard_deviation_of_logits": float(expected.std()),
            }
            rows.append(row)
            click.echo(json.dumps(row))
    made = [file for file in files if file.with_suffix(".json").exists()]
    report = evaluate(Evaluation(made, data=str(images), output=work / "evaluation.json"))
    scores = [report["reference"], *report["models"]]
    evaluation = [{key: score[key] for key in ("name", "top1", "agreement", "sqnr_db")} for score in scores]
    body = {"environment": environment(), "cpus": described, "rows": rows, "evaluation": evaluation}
    write_json(Path(__file__).parent / "results" / "other_cpus.json", "other_cpus", 1, body)


if __name__ == "__main__":
    main()
