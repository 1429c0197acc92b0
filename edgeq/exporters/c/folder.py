"""Write a packed network as a folder of C99 sources, with a test that its user can run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.artifacts.files import dumps, read_json
from edgeq.artifacts.folders import replacing_folder, target_of, written_in
from edgeq.artifacts.schema import COUNT, NUMBER, PATH, TEXT, TRUTH, Schema
from edgeq.exporters.c.project import check, makefile, readme
from edgeq.exporters.c.source import Source, identifier
from edgeq.native.program import Program

KIND: Final = "c"
VERSION: Final = 1
ABOUT: Final = "about.json"
"""What is in the folder, in JSON."""
_SCHEMA: Final[Schema] = {
    "name": TEXT, "arena": COUNT, "weights": COUNT, "mapped": TRUTH, "threads": COUNT, "steps": COUNT,
    "equal": ({str: NUMBER}, None), "files": [PATH],
}  # fmt: skip
_FLOATS: Final = ("float.c",)  # what networks need that compute in float
_TEAMS: Final = ("team.c",)  # what those need that several threads run
_OTHERS: Final = (
    "file.c",
    "file.h",
    "check.c",
    "check_floats.c",
    "encode.c",
    "encode.h",
    "quantize.c",
    "round.c",
    "places.h",
    "wasm.c",
)  # what only programs in files need, and what rounds weights


class Vector(NamedTuple):
    """What a network takes, and what it has to answer.

    Attributes:
        inputs: one array an input, of the types of the program, one image.
        outputs: float32, one array an output, as ONNX Runtime computes them in integers.
        allowed: squares of the errors of an output, by squares of its values, that other processors may make; 0 where
            it comes from integers alone, so that every bit is the same.
    """

    inputs: Sequence[NDArray[Any]]
    outputs: Sequence[NDArray[np.float32]]
    allowed: float


def write_folder(
    folder: Path, program: Program, vector: Vector, mapped: bool, equal: Mapping[str, float] | None
) -> dict[str, Any]:
    """Write a network as C.

    Args:
        folder: to make, or to replace; its name is that of the network.
        program: the network.
        vector: for `make check`.
        mapped: whether the weights are a file, `NAME.bin`, whose content the caller passes; else an array.
        equal: of every output, which share of its values is the same in ONNX Runtime; None if that is not known.

    Returns:
        What `about.json` says of it.

    Raises:
        OutputError: it cannot be written.
    """
    name = identifier(target_of(folder).name)
    source = Source(name, program, mapped)
    about = {
        "name": name, "arena": program.arena, "weights": len(program.weights), "mapped": mapped,
        "threads": program.threads, "steps": len(program.steps), "equal": equal,
    }  # fmt: skip
    with replacing_folder(folder, ABOUT) as made:
        _fill(made, source, vector, about)
    return about


def read_about(folder: Path) -> dict[str, Any]:
    """Read what `about.json` says of a folder of C.

    Raises:
        ArtifactError: there is none, or a damaged one.
    """
    return read_json(folder / ABOUT, KIND, VERSION, _SCHEMA, "export again")


def _fill(folder: Path, source: Source, vector: Vector, about: Mapping[str, Any]) -> None:
    name, sources = source.name, files("edgeq") / "native" / "sources"
    (folder / "kernels").mkdir()
    for kernel in sources.iterdir():
        left_out = (*_OTHERS, *(() if source.in_float else _FLOATS), *(() if source.shared else _TEAMS))
        if kernel.name not in left_out:
            (folder / "kernels" / kernel.name).write_bytes(kernel.read_bytes())
    _write(folder / f"{name}.h", [source.header()])
    _write(folder / f"{name}.c", [source.code()])
    if source.mapped:
        (folder / f"{name}.bin").write_bytes(source.program.weights)
    else:
        _write(folder / f"{name}_weights.c", source.array())
    (folder / "check").mkdir()
    for kind, arrays in (("input", vector.inputs), ("output", vector.outputs)):
        for i, array in enumerate(arrays):
            (folder / "check" / f"{kind}{i}.bin").write_bytes(np.ascontiguousarray(array).tobytes())
    _write(folder / "check" / "check.c", [check(source, vector.allowed)])
    _write(folder / "Makefile", [makefile(source)])
    _write(folder / "README.md", [readme(source)])
    _write(folder / ABOUT, [dumps(KIND, VERSION, {**about, "files": [ABOUT, *written_in(folder)]})])


def _write(path: Path, parts: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(parts)


def too_large(program: Program, most: int) -> str:
    """Say that a program takes more than so many bytes of RAM, and which layer is to blame."""
    worst = max(range(len(program.steps)), key=lambda i: program.used[i])
    return (
        f"layer {program.names[worst]}: expected at most {most} bytes of RAM, found {program.used[worst]} in use there "
        f"(the arena takes {program.arena}); take smaller images or a narrower network"
    )
