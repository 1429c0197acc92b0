"""The native engine as WebAssembly, in Node: the same bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from engine import Engine
from native_engine import packed
from nets import images, pixels

from edgeq.lowering.lower import lower
from edgeq.native.program import Program

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = ("clang", "wasm-ld", "node")
LIBRARY = Path("/usr/lib/wasm32-wasi/libc.a")

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)) or not LIBRARY.exists(),
    reason=f"one of {', '.join(NEEDED)} or the C library for wasm32-wasi is not here",
)

# Arguments: the module, the program's file, and files of the input and of the output to write, whose bytes are given.
SCRIPT = """
const fs = require("fs");
const [compiled, file, input, output, bytes] = process.argv.slice(2);
const engine = new WebAssembly.Instance(new WebAssembly.Module(fs.readFileSync(compiled)), {}).exports;
const put = (content) => {
  const place = engine.reserve(content.length);
  new Uint8Array(engine.memory.buffer, place, content.length).set(content);
  return place;
};
const program = fs.readFileSync(file);
const arena = engine.open_program(put(program), program.length);
if (arena < 0) throw new Error("no program");
const from = put(fs.readFileSync(input)), to = engine.reserve(Number(bytes));
const pointers = engine.reserve(8), room = engine.reserve(arena);
new Uint32Array(engine.memory.buffer, pointers, 2).set([from, to]);
engine.run_program(pointers, pointers + 4, room);
fs.writeFileSync(output, new Uint8Array(engine.memory.buffer, to, Number(bytes)));
"""


@cache
def module() -> Path:
    """The engine, compiled once."""
    made = Path(mkdtemp()) / "engine.wasm"
    subprocess.run([sys.executable, ROOT / "tools" / "build_wasm.py", made], check=True, capture_output=True)
    return made


def in_node(program: Program, x: np.ndarray, folder: Path) -> np.ndarray:
    (output,) = program.outputs
    for name, content in (("run.cjs", SCRIPT.encode()), ("net", program.to_bytes()), ("input", x.tobytes())):
        (folder / name).write_bytes(content)
    files = [folder / "run.cjs", module(), *(folder / name for name in ("net", "input", "output"))]
    command = ["node", *map(str, files), str(4 * output.elements)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return np.fromfile(folder / "output", np.float32).reshape(output.shape)


@needs_tools
@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit"])
@pytest.mark.parametrize("name", ["residual", "ragged", "moved", "flat"])
def test_every_bit_is_the_same(name: str, scheme: str, tmp_path: Path) -> None:
    program, x = lower(packed(name, scheme)), images(1)[0]
    np.testing.assert_array_equal(in_node(program, x, tmp_path), Engine(program)(x)[0])


@needs_tools
def test_in_integers(tmp_path: Path) -> None:
    program, x = lower(packed("residual")).in_integers(), pixels(1)[0]
    np.testing.assert_array_equal(in_node(program, x, tmp_path), Engine(program)(x)[0])


@needs_tools
def test_something_else_is_no_program(tmp_path: Path) -> None:
    program = lower(packed("residual"))
    wrong = type(program)(**{**vars(program), "weights": b""})
    with pytest.raises(subprocess.CalledProcessError) as error:
        in_node(wrong, images(1)[0], tmp_path)
    assert b"no program" in error.value.stderr


def test_without_its_tools_it_names_them(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "build_wasm.py"), str(tmp_path / "engine.wasm")]
    found = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(
        "Error: expected clang, wasm-ld and the C library for wasm32-wasi, found no clang and "
    )
    assert found.stderr.count("\n") == 1
