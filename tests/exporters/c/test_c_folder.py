"""The folder of C: what is in it, that a compiler takes it without a word, and that it answers as ONNX Runtime does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_engine import packed_of
from nets import images, quantized
from torch import nn

from edgeq.errors import DataError, OutputError, UnsupportedError
from edgeq.exporters.c.export import CForm, export_c
from edgeq.exporters.c.source import Source, identifier
from edgeq.native.library import is_compiled
from edgeq.native.program import End, Kind, Program, Step

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS or not shutil.which("make"), reason="no C compiler with make is here")
STRICT = "-O1 -Wall -Wextra -pedantic -Werror"


def made(name: str, scheme: str, folder: Path, **form: Any) -> Mapping[str, Any]:
    return export_c(quantized(name, scheme).packed, folder, [images(3)], CForm(**form))


def make(folder: Path, *arguments: str) -> str:
    found = subprocess.run(["make", "-s", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and not found.stderr, found.stdout + found.stderr
    return found.stdout


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- what is written ------------------------------------------------------------------------------------------------

KERNELS = ["convolution.c", "edgeq.h", "elementwise.c", "here.c", "portable.c", "primitives.h", "run.c"]
COMMON = ["Makefile", "README.md", "about.json", "check/check.c", "check/input0.bin", "check/output0.bin"]


@pytest.mark.parametrize(("mapped", "weights"), [(False, "my_net_weights.c"), (True, "my_net.bin")])
def test_the_files_of_a_network(mapped: bool, weights: str, tmp_path: Path) -> None:
    about = made("residual", "4bit", tmp_path / "My-Net", mapped=mapped)
    found = files(tmp_path / "My-Net")
    assert {*COMMON, "my_net.c", "my_net.h", weights} == {name for name in found if not name.startswith("kernels/")}
    assert {f"kernels/{name}" for name in KERNELS} <= {*found}
    stored = json.loads((tmp_path / "My-Net" / "about.json").read_text())
    assert stored == {
        "format": "edgeq-c",
        "version": 1,
        **about,
        "files": ["about.json", *(name for name in found if name != "about.json")],
    }
    assert about["name"] == "my_net"
    header = (tmp_path / "My-Net" / "my_net.h").read_text()
    assert f"#define MY_NET_ARENA {about['arena']} " in header
    assert (f"#define MY_NET_WEIGHTS {about['weights']} " in header) == mapped
    readme = (tmp_path / "My-Net" / "README.md").read_text()
    assert "@" not in readme
    assert f"{about['arena']:,} bytes" in readme


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made("flat", "2bit", tmp_path / name / "net")
    for file in files(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("net", "net"),
        ("MobileNet-v2.4bit", "mobilenet_v2_4bit"),
        ("8bit", "net_8bit"),
        ("été", "ete"),
        ("Größe ½", "gro_e_1_2"),
        ("网络", "net"),
        ("---", "net"),
        ("EQ", "net_eq"),
    ],
)
def test_names_in_c(stem: str, name: str) -> None:
    assert identifier(stem) == name


def test_names_of_arguments_are_their_own() -> None:
    ends = [End(name, (1,), True) for name in ("x", "X", "float", "arena")]
    step = Step(Kind.COPY, from_=-1, to=-1)
    source = Source("net", Program([step], ["x"], ends[:2], ends[1:], 64, [0], b"", 1), False)
    assert [one.name for one in source.inputs] == ["x", "x_"]
    assert [one.name for one in source.outputs] == ["x__", "float_", "arena_"]
    assert source.prototype == (
        "void net_run(const float *x, const float *x_, float *x__, float *float_, float *arena_, void *arena)"
    )


def test_floats_are_written_so_that_the_same_are_read() -> None:
    step = Step(Kind.QUANTIZE, from_=-1, to=0, to_scale=float(np.float32(0.1)), from_scale=1e-20, other_scale=3.0)
    ends = [End("x", (1,), True)]
    code = Source("net", Program([step], ["x"], ends, ends, 64, [0], b"", 1), False).code()
    assert "9.99999968e-21f, 3.0f, 0.100000001f," in code


def test_threads_are_part_of_the_prototype(tmp_path: Path) -> None:
    alone, shared = (made("residual", "4bit", tmp_path / f"net{n}", threads=n) for n in (1, 2))
    assert (alone["threads"], shared["threads"]) == (1, 2)
    assert alone["arena"] < shared["arena"]
    header = (tmp_path / "net2" / "net2.h").read_text()
    assert "void net2_run(const float *image, float *logits, void *arena, const eq_team *team);" in header
    assert "#define NET2_THREADS 2 " in header
    assert "team" not in (tmp_path / "net1" / "net1.h").read_text()
    assert {*files(tmp_path / "net2" / "kernels")} - {*files(tmp_path / "net1" / "kernels")} == {"team.c"}


# --- compilers ------------------------------------------------------------------------------------------------------


TEAM = """
#include "net.h"
#include <omp.h>
#include <stdio.h>
#include <string.h>

EQ_ALIGNED static unsigned char arena[NET_ARENA];
static float image[NET_IMAGE], alone[NET_LOGITS], together[NET_LOGITS];

static void wait(void *barrier) {
  (void)barrier;
#pragma omp barrier
}

int main(void) {
  int i, threads;
  for (i = 0; i < NET_IMAGE; i++) image[i] = (float)(i % 7) - 3.0f;
  net_run(image, alone, arena, NULL);
  for (threads = 1; threads <= NET_THREADS; threads++) {
    eq_barrier barrier = {0, 0, 0};
    barrier.parts = threads;
    memset(together, 0, sizeof together);
#pragma omp parallel num_threads(threads)
    {
      eq_team team = {0, 0, wait, NULL};
      team.part = omp_get_thread_num();
      team.parts = omp_get_num_threads();
      net_run(image, together, arena, &team);
      team.wait = eq_wait;
      team.barrier = &barrier;
#pragma omp barrier
      net_run(image, together, arena, &team);
    }
    if (memcmp(alone, together, sizeof alone) != 0) return 1;
  }
  puts("the same");
  return 0;
}
"""


@needs_compiler
@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc is here, which comes with OpenMP")
def test_threads_of_the_caller_run_it_together(tmp_path: Path) -> None:
    made("residual", "4bit", tmp_path / "net", threads=3)
    make(tmp_path / "net", "CC=gcc", f"CFLAGS={STRICT}")
    (tmp_path / "main.c").write_text(TEAM)
    program = str(tmp_path / "main")
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fopenmp", f"-I{tmp_path / 'net'}"]
    library = str(tmp_path / "net" / "libnet.a")
    subprocess.run(["gcc", *flags, str(tmp_path / "main.c"), library, "-lm", "-o", program], check=True)
    assert subprocess.run([program], capture_output=True, text=True, check=False).stdout == "the same\n"


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("mapped", [False, True])
def test_make_check_finds_no_difference(compiler: str, mapped: bool, tmp_path: Path) -> None:
    made("residual", "4bit", tmp_path / "net", mapped=mapped)
    assert make(tmp_path / "net", "check", f"CC={compiler}", f"CFLAGS={STRICT}") == "logits: 0 of 6 values differ\n"


@needs_compiler
@pytest.mark.parametrize("scheme", ["8bit", "3bit", "2bit", "1.6bit", "1.33bit", "1bit"])
def test_every_width_is_exact(scheme: str, tmp_path: Path) -> None:
    made("ragged", scheme, tmp_path / "net")
    assert ": 0 of" in make(tmp_path / "net", "check", f"CFLAGS={STRICT}")


@needs_compiler
def test_scaling_in_integers_is_the_same_everywhere(tmp_path: Path) -> None:
    if not is_compiled():
        pytest.skip("the native engine was not compiled: no C compiler when edgeq was installed")
    about = made("residual", "4bit", tmp_path / "net", integer=True)
    assert 0.9 < about["equal"]["logits"] <= 1
    assert "EQ_CONVOLUTION, 134," in (tmp_path / "net" / "net.c").read_text()  # by rows, small, in integers
    assert make(tmp_path / "net", "check", f"CFLAGS={STRICT}") == "logits: 0 of 6 values differ\n"
    assert "Sums are scaled in integers" in (tmp_path / "net" / "README.md").read_text()


@needs_compiler
def test_a_wrong_weight_is_found(tmp_path: Path) -> None:
    """The check compares: it fails where it should."""
    made("residual", "8bit", tmp_path / "net", mapped=True)
    weights = tmp_path / "net" / "net.bin"
    weights.write_bytes(bytes(byte ^ 0x55 for byte in weights.read_bytes()))
    found = subprocess.run(["make", "-s", "check"], cwd=tmp_path / "net", capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert re.fullmatch(r"logits: [1-6] of 6 values differ by up to [\d.]+, of values up to [\d.]+\n", found.stdout)


@needs_compiler
@pytest.mark.parametrize(
    ("behind", "within", "beyond"),
    [(nn.Conv2d(8, 4, 3), 0.05, 0.2), (nn.Softplus(beta=2), 0.0005, 0.05)],
    ids=["codes", "floats"],
)
def test_what_the_rounding_of_floats_may_change(
    behind: nn.Module, within: float, beyond: float, tmp_path: Path
) -> None:
    """Where floats become codes again, a last bit decides between two."""
    network = packed_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), behind), "8bit")
    export_c(network, tmp_path / "net", [images(1)])
    outputs = tmp_path / "net" / "check" / "output0.bin"
    expected = np.fromfile(outputs, np.float32)
    for change, code, said in (
        (within, 0, ": the rounding of floats"),
        (beyond, 2, ": more than the rounding of floats"),
    ):
        ((1 + change) * expected).astype(np.float32).tofile(outputs)
        found = subprocess.run(
            ["make", "-s", "check"], cwd=tmp_path / "net", capture_output=True, text=True, check=False
        )
        assert found.returncode == code, found.stdout
        assert found.stdout.endswith(f"{said}\n")


@needs_compiler
def test_it_is_cplusplus_as_well(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler is here")
    made("residual", "4bit", tmp_path / "net")
    for source in (tmp_path / "net").rglob("*.c"):
        command = ["g++", "-x", "c++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(source)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr


# --- bad input ------------------------------------------------------------------------------------------------------


def test_too_little_ram_names_the_layer(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match=r"^layer \S+: expected at most 1000 bytes of RAM, found \d+ in use there"
    ):
        made("residual", "4bit", tmp_path / "net", most_ram=1000)
    assert not [*tmp_path.iterdir()]


def test_float_activations_are_refused(tmp_path: Path) -> None:
    packed = quantized("residual", "4bit", 32).packed
    with pytest.raises(UnsupportedError, match=r"^layer \S+: the native engine does not compute conv2d in float$"):
        export_c(packed, tmp_path / "net", [images(1)])
    assert not [*tmp_path.iterdir()]


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no images for the test vector"):
        export_c(quantized("residual", "4bit").packed, tmp_path / "net", [])
    assert not [*tmp_path.iterdir()]


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "mine.txt").write_text("mine")
    packed = quantized("residual", "4bit").packed
    for force in (False, True):
        with pytest.raises(OutputError, match=r"^\S+net: expected a new folder or one of edgeq's, found other files"):
            export_c(packed, tmp_path / "net", [images(1)], force=force)
    assert files(tmp_path) == ["net/mine.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"^\S+file: edgeq did not write this file; .* replace it with --force$"):
        export_c(packed, tmp_path / "file", [images(1)])
    export_c(packed, tmp_path / "file", [images(1)], force=True)
    export_c(packed, tmp_path / "file", [images(2)])  # its own is replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "net"]


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    made("residual", "4bit", tmp_path / "net", mapped=True)
    (tmp_path / "net" / "main.c").write_text("int main(void) { return 0; }")
    (tmp_path / "net" / "mine").mkdir()
    (tmp_path / "net" / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "net")
    made("residual", "2bit", tmp_path / "link")
    found = files(tmp_path / "net")
    assert {"main.c", "mine/notes.txt", "net_weights.c"} <= {*found}
    assert "net.bin" not in found  # its own, which the new one has no use for
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "net"]


@needs_compiler
def test_another_compiler_compiles_all_again(tmp_path: Path) -> None:
    made("residual", "4bit", tmp_path / "net")
    make(tmp_path / "net", "check", "CFLAGS=-O1")
    before = (tmp_path / "net" / "net.o").read_bytes()
    make(tmp_path / "net", "check", "CFLAGS=-O1")
    assert (tmp_path / "net" / "net.o").read_bytes() == before
    make(tmp_path / "net", "check", "CFLAGS=-O0 -g")
    assert (tmp_path / "net" / "net.o").read_bytes() != before


@needs_compiler
def test_other_options_of_the_linker_link_again(tmp_path: Path) -> None:
    made("residual", "4bit", tmp_path / "net")
    make(tmp_path / "net", "check", "CFLAGS=-O1")
    make(tmp_path / "net", "check", "CFLAGS=-O1", "LDFLAGS=-Wl,-Map=check/map.txt")
    assert "eq_convolution" in (tmp_path / "net" / "check" / "map.txt").read_text()


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be used: File name too long; name another output$"):
        made("residual", "4bit", tmp_path / ("a" * 300))


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"^\S+net: cannot write"):
        made("residual", "4bit", tmp_path / "file" / "net")
