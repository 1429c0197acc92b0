"""Compile the native engine to WebAssembly: one module without imports, for browsers and Node.

    python tools/build_wasm.py engine.wasm

It takes clang with wasm-ld, and the C library for wasm32-wasi (Debian: clang, lld, wasi-libc). The module exports
`memory`; `reserve(bytes)`, which gives out memory at multiples of 64; `open_program(file, bytes)`, which returns bytes
of the arena that the program takes, or -1; and `run_program(inputs, outputs, arena)`, where inputs and outputs are
lists of pointers.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import click

SOURCES: Final = Path(__file__).resolve().parent.parent / "edgeq" / "native" / "sources"
FLAGS: Final = ("--target=wasm32-wasi", "-std=c99", "-O3", "-msimd128", "-mbulk-memory", "-ffp-contract=off", "-fwrapv")
LINKED: Final = ("--no-entry", "--gc-sections", "--strip-all", "-z", "stack-size=65536")
LIBRARY: Final = Path("/usr/lib/wasm32-wasi")


def build(target: Path) -> None:
    """Compile the sources one by one, then link: clang's driver would run an optimizer that breaks vectors.

    Raises:
        ClickException: a tool or the C library is missing.
    """
    missing = [tool for tool in ("clang", "wasm-ld") if not shutil.which(tool)]
    missing += [] if LIBRARY.exists() else [str(LIBRARY)]
    if missing:
        raise click.ClickException(
            f"expected clang, wasm-ld and the C library for wasm32-wasi, found no {' and no '.join(missing)}; "
            "on Debian, install clang, lld and wasi-libc"
        )
    with tempfile.TemporaryDirectory() as folder:
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sorted(SOURCES.glob("*.c"))]
        for source, made in zip(sorted(SOURCES.glob("*.c")), objects, strict=True):
            subprocess.run(["clang", *FLAGS, "-c", str(source), "-o", made], check=True)
        libraries = [str(LIBRARY / "libc.a"), str(LIBRARY / "libm.a")]
        subprocess.run(["wasm-ld", *LINKED, *objects, *libraries, "-o", str(target)], check=True)


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
def main(target: Path) -> None:
    build(target)
    click.echo(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
