"""Compile the native engine to WebAssembly, for browsers and Node: modules that import nothing.

    python tools/build_wasm.py [FOLDER]

It takes clang 16 or newer with its wasm-ld, and the C library for wasm32-wasi (Debian: clang-19, lld-19, wasi-libc).
Three engines are written, by default to `edgeq/native/wasm`, from where they are packaged, and `engines.json` with
their digests and that of the sources, see docs/formats.md:

    edgeq.wasm          for networks in integers
    edgeq-relaxed.wasm  the same with relaxed vector instructions, which not every browser computes right
    edgeq-float.wasm    for networks with layers in float, too

A module exports `memory`; `reserve(bytes)`, which gives out memory at multiples of 64; `open_program(file, bytes)`,
which returns 0 or a text that says what is wrong; and `run_program(inputs, outputs, arena)`, where inputs and outputs
are lists of pointers.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import click

from edgeq.artifacts.files import write_json
from edgeq.native.wasm import FOLDER, INDEX, KIND, VERSION

SOURCES: Final = Path(__file__).resolve().parent.parent / "edgeq" / "native" / "sources"
FLAGS: Final = ("--target=wasm32-wasi", "-std=c99", "-msimd128", "-mbulk-memory", "-ffp-contract=off", "-fwrapv")
LINKED: Final = ("--no-entry", "--gc-sections", "--strip-all", "-z", "stack-size=98304")
LIBRARY: Final = Path("/usr/lib/wasm32-wasi")
OLDEST: Final = 16  # clang with relaxed dot products
INNER: Final = ("convolution", "simd128")  # loops that take the time
AROUND: Final = (
    "check",
    "elementwise",
    "file",
    "here",
    "integer",
    "portable",
    "run",
    "wasm",
)  # what may be slow, but small
IN_FLOAT: Final = ("check_floats", "float")


class Variant(NamedTuple):
    """An engine: its file, its flags, and its sources."""

    file: str
    flags: tuple[str, ...]
    inner: tuple[str, ...]
    around: tuple[str, ...]


VARIANTS: Final = {
    "integer": Variant("edgeq.wasm", ("-DEQ_NO_FLOATS",), INNER, AROUND),
    "relaxed": Variant("edgeq-relaxed.wasm", ("-DEQ_NO_FLOATS", "-mrelaxed-simd"), INNER, AROUND),
    "float": Variant("edgeq-float.wasm", (), (*INNER, "float"), (*AROUND, "check_floats")),
}


class Tools(NamedTuple):
    clang: str
    linker: str
    version: str


def tools() -> Tools:
    """Find the newest clang with its linker.

    Raises:
        ClickException: one of them or the C library is missing, or clang is too old.
    """
    found = []
    for suffix in ("", *(f"-{number}" for number in range(OLDEST, 40))):
        clang, linker = shutil.which(f"clang{suffix}"), shutil.which(f"wasm-ld{suffix}")
        if clang and linker:
            text = subprocess.run([clang, "--version"], check=True, capture_output=True, text=True).stdout
            if version := re.search(r"version ((\d+)\.\d+\.\d+)", text):
                found.append((int(version[2]), Tools(clang, linker, version[1])))
    newest, chosen = max(found, default=(0, None))
    if chosen is None or newest < OLDEST or not LIBRARY.exists():
        missing = f"clang {newest}" if newest else "none"
        missing += "" if LIBRARY.exists() else f", and no {LIBRARY}"
        raise click.ClickException(
            f"expected clang {OLDEST} or newer, its wasm-ld and the C library for wasm32-wasi, found {missing}; "
            "on Debian, install clang-19, lld-19 and wasi-libc"
        )
    return chosen


def build(target: Path, variant: Variant, by: Tools) -> None:
    """Compile the sources one by one, then link: clang's driver would run an optimizer that breaks vectors."""
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for name in (*variant.inner, *variant.around):
            level = "-O3" if name in variant.inner else "-Oz"
            objects.append(str(Path(folder) / f"{name}.o"))
            flags = (*FLAGS, *variant.flags, level)
            subprocess.run([by.clang, *flags, "-c", str(SOURCES / f"{name}.c"), "-o", objects[-1]], check=True)
        libraries = [str(LIBRARY / "libc.a"), str(LIBRARY / "libm.a")]
        subprocess.run([by.linker, *LINKED, *objects, *libraries, "-o", str(target)], check=True)


def sources_digest() -> str:
    """SHA-256 of all that the engines are made of: what is compiled, what it includes, and how."""
    names = sorted(path.name for path in SOURCES.glob("*.h"))
    names += sorted(f"{name}.c" for name in (*INNER, *AROUND, *IN_FLOAT))
    found = hashlib.sha256(repr((FLAGS, LINKED, VARIANTS)).encode())
    for name in names:
        found.update(name.encode() + b"\0" + (SOURCES / name).read_bytes())
    return found.hexdigest()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=FOLDER)
def main(folder: Path) -> None:
    by, engines, contents = tools(), {}, dict[str, bytes]()
    with tempfile.TemporaryDirectory() as made:
        for name, variant in VARIANTS.items():
            path = Path(made) / variant.file
            build(path, variant, by)
            content = contents[variant.file] = path.read_bytes()
            engines[name] = {
                "file": variant.file, "bytes": len(content), "gzip": len(gzip.compress(content, 9, mtime=0)),
                "sha256": hashlib.sha256(content).hexdigest(),
            }  # fmt: skip
            click.echo(f"{variant.file}: {len(content)} bytes, {engines[name]['gzip']} in gzip")
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    about = {"compiler": f"clang {by.version}", "sources": sources_digest(), "engines": engines}
    write_json(folder / INDEX, KIND, VERSION, about)


if __name__ == "__main__":
    main()
