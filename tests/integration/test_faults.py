"""What the world does to a command: full disks, kills, closed pipes, narrow terminals, odd names, links."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from commandline import ADAPTIVE, RECORD, Capture, environment, fail, picture, run, tree

from edgeq.cli import main
from edgeq.commands import defaults
from edgeq.commands.sweep import FOLDER
from edgeq.planning.recipe import EFFORTS, Effort

ROOT = Path(__file__).parents[2]
PLAN = ("plan", "--scheme", "8bit")
ODD = "größe 4 Ж"


def edgeq(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that needs no torch as a process of its own."""
    command = [sys.executable, "-m", "edgeq", *map(str, arguments)]
    settings = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, text=True, check=False, **settings)


# --- a full disk ----------------------------------------------------------------------------------------------------


def fill(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """Let the disk be full when file number `at` is written, after its first bytes; returns what counts the files."""
    written: list[object] = []
    opened = io.open

    def full(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" in mode and Path(str(file)).absolute().is_relative_to(Path.cwd()):
            written.append(file)
            if len(written) == at:
                Path(file).touch()
                os.truncate(file, 5)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return opened(file, mode, *arguments, **options)

    monkeypatch.setattr(io, "open", full)
    monkeypatch.setattr(builtins, "open", full)
    return lambda: len(written)


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (("calibrate",), 1),
        ((*PLAN, "--figure", "figure.png"), 1),
        (("export", "--scheme", "4bit", "--effort", "balanced"), 4 + 3 + 3),
        (("evaluate",), 1),
        (("bench", str(ADAPTIVE), "--runs", "1"), 1),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_full_disk_at_every_file(
    command: Sequence[str], files: int, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "balanced", Effort(1, 100, 6))
    monkeypatch.setattr(import_module("edgeq.quantization.tune"), "_SAVED_EVERY", 2)
    before = tree(made)
    for at in range(1, files + 1):
        with monkeypatch.context() as filling:
            fill(filling, at)
            assert main(command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert ": cannot write: No space left on device; " in err
        left = tree(made)
        assert {name: left[name] for name in before} == before
        assert {Path(name).suffix for name in left.keys() - before.keys()} <= {".unfinished"}
        defaults.EXPORTS.joinpath("mobilenet_v2-4bit.unfinished").unlink(missing_ok=True)
    count = fill(monkeypatch, 0)
    assert main(command) == 0
    assert count() == files


def test_a_sweep_goes_on_after_a_full_disk(tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    run(capsys, "calibrate")
    command = ["sweep", "--budgets", "size=1MB"]
    for at in (1, 4, 9, 17, 16):
        with monkeypatch.context() as filling:
            fill(filling, at)
            assert main(command) == 1
        assert "cannot write: No space left on device" in capsys.readouterr().err
        assert {path.suffix for path in FOLDER.iterdir()} <= {".onnx", ".json", ".safetensors", ".unfinished"}
    run(capsys, *command)
    (tiny / "whole").mkdir()
    run(capsys, *command, "--output", "whole")
    found, expected = tree(FOLDER), tree(Path("whole"))
    assert {Path(name).name for name in found} == {Path(name).name for name in expected}
    for path in Path("whole").iterdir():
        if path.name != "sweep.json":  # holds the seconds that the exports took
            assert found[str(FOLDER / path.name)] == expected[str(path)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], [*PLAN], [*PLAN, "--json"], ["inspect", str(RECORD)]], ids=" ".join)
def test_standard_output_on_a_full_disk(arguments: list[str], made: Path) -> None:
    with Path("/dev/full").open("w") as full:
        found = edgeq(*arguments, stdout=full)
    assert found.stderr == "error: standard output: No space left on device\n"
    assert found.returncode == 1


# --- kills ----------------------------------------------------------------------------------------------------------


def test_an_export_killed_twice_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """While it saves its work and while it replaces its files; `benchmarks/robustness/faults.py` tries many moments."""

    code = "import sys; from faults import struck; sys.exit(struck('kill', int(sys.argv[1]), sys.argv[2:]))"
    env = environment()
    env["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'benchmarks' / 'robustness'}"

    def struck(at: int, *arguments: str) -> int:
        command = [sys.executable, "-c", code, str(at), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False).returncode

    export = ("export", "--scheme", "4bit", "--output")
    assert struck(0, "calibrate", "--samples", "8") == 0
    assert struck(0, *export, "whole/net.onnx") == 0
    folder = tmp_path / "killed"
    assert struck(7, *export, "killed/net.onnx") == -signal.SIGKILL
    assert sorted(path.suffix for path in folder.iterdir()) == [".part", ".unfinished"]
    assert struck(21, *export, "killed/net.onnx") == -signal.SIGKILL
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".part", ".part", ".unfinished"]
    assert struck(0, *export, "killed/net.onnx") == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


# --- standard output ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[*PLAN, "--json"], ["inspect", str(RECORD)], ["inspect", str(RECORD), "--json"]], ids=" ".join
)
def test_a_reader_that_leaves_is_no_error(arguments: list[str], made: Path) -> None:
    command = [sys.executable, "-m", "edgeq", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start(closed: str, made: Path) -> None:
    script = f'exec "$0" -m edgeq "$@" {closed}'
    command = ["sh", "-c", script, sys.executable, *PLAN, "--figure", "figure.png"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert ("8bit: a file of" in found.stdout) == (closed == "2>&-")
    assert Path("figure.png").exists()


ENCODINGS = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", [ODD.encode(), b"x\xff"], ids=["unicode", "no unicode"])
def test_any_name_on_any_terminal(name: bytes, encoding: str, made: Path) -> None:
    path = Path(os.fsdecode(name))
    try:
        path.write_bytes(RECORD.read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("the file system has no such names")
    env = environment() | ENCODINGS[encoding]
    found = edgeq("inspect", path, env=env, errors="replace")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.count("\n") > 5
    path.unlink()
    found = edgeq("inspect", path, env=env, errors="replace")
    assert found.returncode == 1
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1


def test_without_home_and_terminal(made: Path) -> None:
    kept = {key: value for key, value in environment().items() if key not in ("HOME", "TERM", "USER", "LOGNAME")}
    found = edgeq(*PLAN, "--figure", "figure.png", env=kept)
    assert (found.returncode, found.stderr) == (0, "")


# --- paths ----------------------------------------------------------------------------------------------------------


def test_spaces_and_unicode_in_every_path(tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny / ODD
    for i in range(3):
        picture(folder / ODD / f"{i}" / f"{ODD}.png", seed=i)
    monkeypatch.chdir(folder)
    model = f"{ODD}.onnx"
    run(capsys, "calibrate", "--data", ODD, "--output", f"{ODD}.calib")
    run(capsys, "export", "--scheme", "8bit", "--record", f"{ODD}.calib", "--output", model)
    run(capsys, "evaluate", model, "--data", ODD, "--output", f"{ODD} scores.json")
    run(capsys, "bench", model, "--runs", "1", "--output", f"{ODD} times.json")
    run(capsys, "sweep", "--record", f"{ODD}.calib", "--data", ODD, "--budgets", "size=1MB", "--output", f"{ODD} all")
    run(capsys, "plot", "--exports", f"{ODD} all")
    assert json.loads(run(capsys, "inspect", model, "--json"))["file"] == model


def test_outputs_and_inputs_that_are_links(made: Path, capsys: Capture) -> None:
    for name in ("disk", "pictures"):
        (made / name).mkdir()
    for suffix in (".onnx", ".json"):
        Path(f"net{suffix}").symlink_to(f"disk/far{suffix}")
    Path("record").symlink_to(RECORD)
    Path("folder").symlink_to("disk")
    run(capsys, "export", "--scheme", "8bit", "--record", "record", "--output", "net.onnx")
    run(capsys, "export", "--scheme", "8bit", "--record", "record", "--output", "folder/near.onnx")
    assert {path.name for path in Path("disk").iterdir()} == {
        "far.onnx", "far.json", "near.onnx", "near.json", "near.safetensors",
    }  # fmt: skip
    assert Path("net.onnx").is_symlink()
    assert Path("net.onnx").read_bytes() == Path("disk/near.onnx").read_bytes()
    picture(Path("pictures/1.png"))
    Path("photos").symlink_to("pictures")
    run(capsys, "calibrate", "--data", "photos", "--output", "photos.calib")
    assert json.loads(Path("photos.calib").read_text())["data"]["root"] == str(made / "photos")
    run(capsys, "export", "--scheme", "8bit", "--record", "photos.calib", "--output", "photos.onnx")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 300, "File name too long"),
        ("loop", "Too many levels of symbolic links: 'loop'"),
        ("broken", "broken: no such file"),
        (f"{RECORD}/x", "Not a directory"),
    ],
    ids=["too long", "a loop", "a broken link", "below a file"],
)
def test_records_that_cannot_be_opened(name: str, message: str, made: Path, capsys: Capture) -> None:
    Path("loop").symlink_to("loop")
    Path("broken").symlink_to("nowhere")
    assert message in fail(capsys, *PLAN, "--record", name)


@pytest.mark.parametrize("command", [("plan", "--scheme", "8bit", "--figure"), ("calibrate", "--output")], ids=" ".join)
def test_an_output_of_too_long_a_name(command: Sequence[str], made: Path, capsys: Capture) -> None:
    assert fail(capsys, *command, "x" * 300).endswith("x: File name too long\n")


def test_a_folder_that_may_not_be_entered(made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", denied)  # root may enter any
    capsys.readouterr()
    assert main(["inspect", str(RECORD)]) == 1
    assert capsys.readouterr() == ("", f"error: {RECORD}: Permission denied\n")
