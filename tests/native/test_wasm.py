"""The native engine as WebAssembly, in Node: the same bits."""

from __future__ import annotations

import os
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

from edgeq.errors import ArtifactError
from edgeq.lowering.lower import lower
from edgeq.native.program import Program
from edgeq.native.wasm import FOLDER, read_engine, read_index

ROOT = Path(__file__).resolve().parent.parent.parent
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="Node is not here")

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
const text = (place) => {
  const bytes = new Uint8Array(engine.memory.buffer, place);
  return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
};
const wrong = engine.open_program(put(program), program.length);
if (wrong) throw new Error(text(wrong));
const from = put(fs.readFileSync(input)), to = engine.reserve(Number(bytes));
const pointers = engine.reserve(8), room = engine.reserve(program.readInt32LE(16));
new Uint32Array(engine.memory.buffer, pointers, 2).set([from, to]);
engine.run_program(pointers, pointers + 4, room);
fs.writeFileSync(output, new Uint8Array(engine.memory.buffer, to, Number(bytes)));
"""


@cache
def rebuilt() -> Path:
    """The engines, compiled once; tests are skipped where that cannot be done."""
    folder = Path(mkdtemp())
    command = [sys.executable, str(ROOT / "tools" / "build_wasm.py"), str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return folder


def engine(kind: str, where: str) -> Path:
    """The file of an engine: as it is packaged, or compiled here."""
    file = read_engine(kind)[0]
    return FOLDER / file if where == "packaged" else rebuilt() / file


def in_node(program: Program, x: np.ndarray, folder: Path, compiled: Path) -> np.ndarray:
    (output,) = program.outputs
    for name, content in (("run.cjs", SCRIPT.encode()), ("net", program.to_bytes()), ("input", x.tobytes())):
        (folder / name).write_bytes(content)
    files = [folder / "run.cjs", compiled, *(folder / name for name in ("net", "input", "output"))]
    command = ["node", *map(str, files), str(4 * output.elements)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return np.fromfile(folder / "output", np.float32).reshape(output.shape)


@needs_node
@pytest.mark.parametrize("where", ["packaged", "rebuilt"])
@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit"])
@pytest.mark.parametrize("name", ["residual", "ragged", "moved", "flat"])
def test_every_bit_is_the_same(name: str, scheme: str, where: str, tmp_path: Path) -> None:
    program, x = lower(packed(name, scheme)), images(1)[0]
    made = in_node(program, x, tmp_path, engine("integer", where))
    np.testing.assert_array_equal(made, Engine(program)(x)[0])


@needs_node
@pytest.mark.parametrize("where", ["packaged", "rebuilt"])
def test_in_integers(where: str, tmp_path: Path) -> None:
    program, x = lower(packed("residual")).in_integers(), pixels(1)[0]
    np.testing.assert_array_equal(in_node(program, x, tmp_path, engine("float", where)), Engine(program)(x)[0])


@needs_node
def test_something_else_is_no_program(tmp_path: Path) -> None:
    program = lower(packed("residual"))
    wrong = type(program)(**{**vars(program), "weights": b""})
    with pytest.raises(subprocess.CalledProcessError) as error:
        in_node(wrong, images(1)[0], tmp_path, engine("integer", "packaged"))
    assert b"a damaged program: a step beyond its memory" in error.value.stderr


def test_the_packaged_engines_are_of_these_sources() -> None:
    script = "import build_wasm; print(build_wasm.sources_digest())"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "tools", check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert found.stdout.strip() == read_index()["sources"], "run python tools/build_wasm.py"


@pytest.mark.parametrize("kind", ["integer", "relaxed", "float"])
def test_an_engine_is_the_one_that_was_made(kind: str) -> None:
    file, content = read_engine(kind)
    index = read_index()["engines"][kind]
    assert (file, len(content)) == (index["file"], index["bytes"])
    assert content.startswith(b"\0asm\1\0\0\0")


def test_the_engines_of_classifiers_are_small() -> None:
    assert max(read_index()["engines"][kind]["bytes"] for kind in ("integer", "relaxed")) <= 40_000


def test_another_engine_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER, tmp_path / "wasm")
    (tmp_path / "wasm" / "edgeq.wasm").write_bytes(b"something else")
    monkeypatch.setattr("edgeq.native.wasm.FOLDER", tmp_path / "wasm")
    with pytest.raises(ArtifactError, match=r"edgeq.wasm: expected the engine that engines.json names, found another"):
        read_engine("integer")


def test_without_its_tools_it_names_them(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "build_wasm.py"), str(tmp_path / "made")]
    env = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(
        "Error: expected clang 16 or newer, its wasm-ld and the C library for wasm32-wasi, found none"
    )
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "made").exists()
