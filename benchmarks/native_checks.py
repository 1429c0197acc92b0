"""Does the exported C of a network make ONNX Runtime's bits, whatever compiler and processor it is for?

    python benchmarks/native_checks.py                       # all networks, to results/native_checks.json
    python benchmarks/native_checks.py --network resnet18    # some, in place of what is there of them

Small networks of many kinds, with weights drawn as in `zoo.py`, are exported at 8 and 4 bits; some with scaling in
integers as well. `make check` compares each with the outputs of ONNX Runtime: on 20 images where that is quick, on one
where loops are plain C or the processor is emulated. Scaling in integers makes other codes than ONNX Runtime; it is
compared with the engine on this processor. Weights are a file beside the sources.

Takes gcc, g++, clang, aarch64-linux-gnu-gcc, arm-none-eabi-gcc with newlib, qemu-user and qemu-system-arm. A target
whose compiler or emulator is missing is left out.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import native_checks_networks as networks
import numpy as np
import torch
from numpy.typing import NDArray
from shared import publish
from zoo_networks import images, prepared
from zoo_stages import CALIBRATION, calibrated, layers_of

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.errors import EdgeqError, one_line
from edgeq.exporters.answers import is_exact
from edgeq.exporters.c.export import CForm, export_c, program_of
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import overflows, runner
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.runtimes.native import NativeModel
from edgeq.system.environment import environment

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "results" / "native_checks.json"
SCHEMES: Final = ("8bit", "4bit")
_LIMIT: Final = 600
_LINE: Final = re.compile(
    r"^(.+): (\d+) of (\d+) values differ(?: by up to ([^\s,]+), of values up to ([^\s:]+))?", re.MULTILINE
)
_M7: Final = "-mcpu=cortex-m7 -mthumb -mfpu=fpv5-d16 -mfloat-abi=hard"
_SET: Final = """#include "primitives.h"
const eq_primitives *eq_set(int32_t place) {{ return place ? NULL : &{name}; }}
const eq_primitives *eq_here(void) {{ return &{name}; }}
"""


class Target(NamedTuple):
    """What C is compiled for, and how it is run.

    Attributes:
        compiler: its command.
        flags: of it.
        inner: the set of inner loops that is taken in place of the processor's fastest.
        images: that are compared: few where it is slow.
        emulator: the command that runs a program; nothing if this processor does.
        board: where the data of a bare board start; nothing for what has an operating system.
    """

    compiler: str
    flags: str = "-O3"
    inner: str = ""
    images: int = 1
    emulator: str = ""
    board: str = ""


TARGETS: Final = {
    "gcc": Target("gcc", images=20),
    "clang": Target("clang", images=20),
    "g++": Target("g++", images=20),
    "gcc, AVX2": Target("gcc", inner="eq_avx2", images=20),
    "clang, AVX2": Target("clang", inner="eq_avx2", images=20),
    "gcc, portable": Target("gcc", "-O3 -DEQ_PORTABLE"),
    "clang, portable": Target("clang", "-O3 -DEQ_PORTABLE"),
    "gcc, sanitizers": Target("gcc", "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"),
    "x86-64 with AVX2": Target("gcc", emulator="qemu-x86_64 -cpu Haswell"),
    "x86-64 without": Target("gcc", emulator="qemu-x86_64 -cpu Nehalem"),
    "ARMv8": Target("aarch64-linux-gnu-gcc", "-O3 -static", emulator="qemu-aarch64 -cpu cortex-a53"),
    "ARMv8.2, dotprod": Target(
        "aarch64-linux-gnu-gcc", "-O3 -static -march=armv8.2-a+dotprod", emulator="qemu-aarch64 -cpu max"
    ),
    "ARMv8.2, i8mm": Target(
        "aarch64-linux-gnu-gcc", "-O3 -static -march=armv8.2-a+dotprod+i8mm", emulator="qemu-aarch64 -cpu max"
    ),
    "Cortex-M7": Target("arm-none-eabi-gcc", f"-O2 {_M7}", "", 1, "qemu-system-arm -M mps2-an500", "0x60000000"),
    "Cortex-M0+, code on M3": Target(
        "arm-none-eabi-gcc", "-O2 -mcpu=cortex-m0plus -mthumb", "", 1, "qemu-system-arm -M mps2-an385", "0x21000000"
    ),
}  # fmt: skip


class Vector(NamedTuple):
    """An image `[1, ...]` in float32, and the outputs that are expected of it."""

    image: NDArray[np.float32]
    outputs: Sequence[NDArray[np.float32]]


class Builds:
    """A folder for each target, in which networks take turns: kernels are compiled once.

    Args:
        root: of the folders; kept.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, name: str, exported: Path, vectors: Sequence[Vector]) -> dict[str, Any]:
        """Build an exported network for a target, and compare what it makes of images with what is expected."""
        target, folder = TARGETS[name], self._root / re.sub(r"\W+", "-", name)
        _update(folder, exported, target.inner)
        found: dict[str, Any] = {"images": 0, "values": 0, "different": 0, "largest": 0.0, "of": 0.0, "passed": True}
        command = self._command(target, folder)
        for vector in vectors[: target.images]:
            for kind, arrays in (("input", [vector.image]), ("output", vector.outputs)):
                for i, array in enumerate(arrays):
                    (folder / "check" / f"{kind}{i}.bin").write_bytes(np.ascontiguousarray(array, np.float32).tobytes())
            try:
                ran = subprocess.run(
                    command, cwd=folder, capture_output=True, text=True, check=False, timeout=_LIMIT
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return {"failed": f"took more than {_LIMIT} s"}
            lines = _LINE.findall(ran.stdout)
            if len(lines) != len(vector.outputs):
                return {"failed": (ran.stderr.strip() or ran.stdout).splitlines()[-1].replace(str(folder), "")[:300]}
            found["images"] += 1
            found["passed"] &= ran.returncode == 0
            for _, different, values, largest, of in lines:
                found["different"] += int(different)
                found["values"] += int(values)
                if float(largest or 0) > found["largest"]:
                    found |= {"largest": float(largest), "of": float(of)}
            command = ["./check/check"]  # what `make check` has built and run
        return found

    def _command(self, target: Target, folder: Path) -> list[str]:
        run, flags, linked = target.emulator, target.flags, ""
        if target.board:
            start = folder / "start.o"
            flags += " --specs=rdimon.specs"
            subprocess.run([target.compiler, *flags.split(), "-c", HERE / "mps2.c", "-o", start], check=True)
            linked = f"-nostartfiles -Wl,-Tdata={target.board} -T {shlex.quote(str(HERE / 'mps2.ld'))} {start}"
            run += " -nographic -semihosting -kernel"
        return [
            "make", "-s", "check", f"CC={target.compiler}", f"CFLAGS={flags}", f"LDFLAGS={linked}", f"RUN={run}",
        ]  # fmt: skip


def _update(folder: Path, exported: Path, inner: str) -> None:
    """Copy the files that are others, so that `make` compiles no more than these."""
    for source in (path for path in exported.rglob("*") if path.is_file()):
        copied, content = folder / source.relative_to(exported), source.read_bytes()
        if inner and source.name == "here.c":
            content = _SET.format(name=inner).encode()
        if not copied.exists() or copied.read_bytes() != content:
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(content)


def variants(traced: Network, shape: tuple[int, ...], integer: bool) -> Iterator[tuple[str, Network, CForm]]:
    """A network at every width, with each way to scale its sums."""
    record, rounded = calibrated(traced, images(shape, CALIBRATION))
    for scheme in SCHEMES:
        plan = edgeq.plan(record, scheme)
        packed = edgeq.pack(traced, layers_of(traced, record, plan.bits, rounded), record, plan)
        yield scheme, packed, CForm(mapped=True)
        if integer:
            yield f"{scheme}, integers", packed, CForm(mapped=True, integer=True)


def vectors_of(network: Network, form: CForm, seen: NDArray[np.float32]) -> list[Vector]:
    """What is expected of every image: from ONNX Runtime, or, of scaling in integers, from the engine."""
    each = [seen[i : i + 1] for i in range(len(seen))]
    if form.integer:
        engine = NativeModel(program_of(network, form, False), "net")
        return [Vector(image, [*engine(image).values()]) for image in each]
    made = translate(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(made.model.SerializeToString())
        run = runner(made, path, exact=overflows(network))
        return [Vector(image, [*run(Images.of(network.graph, image))]) for image in each]


def available() -> list[str]:
    """The targets whose compiler and emulator are here."""
    return [
        name for name, target in TARGETS.items()
        if shutil.which(target.compiler) and shutil.which((target.emulator or target.compiler).split()[0])
    ]  # fmt: skip


def checked(name: str, builds: Builds, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All variants of a network on all targets."""
    torch.manual_seed(0)
    module, shape = networks.NETWORKS[name]()
    traced, rows = edgeq.trace(prepared(module, shape), shape), []
    for scheme, packed, form in variants(traced, shape, name in networks.IN_INTEGERS):
        row: dict[str, Any] = {"scheme": scheme, "shape": shape}
        rows.append(row)
        seen = images(shape, max(target.images for target in TARGETS.values()))
        with tempfile.TemporaryDirectory() as folder:
            try:
                about = export_c(packed, Path(folder) / "net", [seen[:1]], form)
            except EdgeqError as error:
                row["refused"] = one_line(error)
                say(f"{name} {scheme}: {row['refused']}")
                continue
            row |= {
                "arena_bytes": about["arena"], "weights_bytes": about["weights"], "steps": about["steps"],
                "exact": is_exact(program_of(packed, form, False)), "targets": {},
            }  # fmt: skip
            vectors = vectors_of(packed, form, seen)
            for target in available():
                found = row["targets"][target] = builds.check(target, Path(folder) / "net", vectors)
                if "failed" in found or found["different"]:
                    say(f"{name} {scheme} {target}: {found}")
        say(f"{name} {scheme}: done")
    return rows


def versions() -> dict[str, str]:
    """The first line that every compiler and emulator says of itself."""
    tools = sorted(
        {t.compiler for t in TARGETS.values()} | {t.emulator.split()[0] for t in TARGETS.values() if t.emulator}
    )
    return {
        tool: subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
        for tool in tools if shutil.which(tool)
    }  # fmt: skip


def stored(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Put what was found of a network in place of what is stored of it."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["networks"] if RESULTS.exists() else {}
    found[name] = {"environment": environment(), "tools": versions(), "rows": rows}
    report = Path(tempfile.mkdtemp()) / RESULTS.name
    write_json(report, "native-checks", 1, {"networks": {one: found[one] for one in networks.NETWORKS if one in found}})
    publish(report, RESULTS, [report.parent])


@click.command()
@click.option("--network", "chosen", multiple=True, type=click.Choice(list(networks.NETWORKS)), help="Default: all.")
def main(chosen: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        builds = Builds(Path(folder))
        for name in chosen or networks.NETWORKS:
            stored(name, checked(name, builds, lambda line: click.echo(line, err=True)))


if __name__ == "__main__":
    main()
