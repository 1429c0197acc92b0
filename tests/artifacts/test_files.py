"""Files: what a failure leaves behind, what may be overwritten, and the one line of every unreadable artifact."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgeq.artifacts import files as artifact
from edgeq.artifacts.files import check_output, dumps, read_json, replacing, replacing_all, sha256, write_json
from edgeq.artifacts.schema import COUNT, NUMBER, POSITIVE, TEXT, Schema
from edgeq.errors import ArtifactError, OutputError

EDGEQ_TEXT = '{"format": "edgeq-record"}'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- check_output -------------------------------------------------------------------------------------------------


def test_a_new_file_gets_its_folders(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "new.json")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (EDGEQ_TEXT.encode(), True),
        (b"\x08\x08\x12\x05edgeq\x1a", True),
        (b" " * 4091 + b"edgeq", True),
        (b" " * 4092 + b"edgeq", False),
        (b"", False),
        (b"PNG", False),
    ],
    ids=["json", "onnx producer", "end of the first 4 KiB", "beyond them", "empty", "somebody's"],
)
def test_only_files_of_edgeq_may_be_replaced(tmp_path: Path, content: bytes, ours: bool) -> None:
    path = tmp_path / "there"
    path.write_bytes(content)
    if ours:
        check_output(path)
    else:
        message = f"{path}: exists and was not written by edgeq; name another output or add --force"
        with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
            check_output(path)
    check_output(path, force=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_no_output(tmp_path: Path, force: bool) -> None:
    message = f"{tmp_path}: expected a file to write, found a folder; name a file in it"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        check_output(tmp_path, force)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(os.devnull)], ids=["pipe", "device"])
def test_what_is_no_file_is_no_output(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "there")
    message = f"{tmp_path / 'there'}: expected a file to write, found a device or pipe; name another output"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        check_output(tmp_path / "there", force=True)


@pytest.mark.parametrize("content", ["mine", EDGEQ_TEXT])
def test_a_link_counts_as_what_it_points_to(content: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content)
    (tmp_path / "link").symlink_to("file")
    with ExitStack() as stack:
        if content == "mine":
            stack.enter_context(pytest.raises(OutputError, match="link: exists and was not written by edgeq"))
        check_output(tmp_path / "link")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path / 'file'}: cannot make this folder: ")):
        check_output(tmp_path / "file" / "out.json")


def test_a_folder_without_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path}: no permission to write here; name another output")):
        check_output(tmp_path / "out.json")


# --- replacing ----------------------------------------------------------------------------------------------------


def test_the_file_changes_only_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["an error", "Ctrl-C"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    write_json(path, "record", 1, {"old": True})
    before = path.read_bytes()

    def full(self: Path, text: str, **_: Any) -> int:
        self.write_bytes(text[:5].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    message = f"{path}: cannot write: No space left on device; free some space or name another output"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        write_json(path, "record", 1, {"old": False})
    assert path.read_bytes() == before
    assert names(tmp_path) == ["out.json"]


def test_a_full_disk_at_the_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"), replacing(tmp_path / "out") as temporary:
        temporary.write_text("all of it")
    assert names(tmp_path) == []


def test_a_missing_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="cannot write: No such file or directory; name another output"),
        replacing(tmp_path / "none" / "out"),
    ):
        pass


def test_others_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "out") as temporary:
            temporary.write_text("x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_name_of_the_greatest_length(tmp_path: Path) -> None:
    path = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_json(path, "plan", 1, {})
    assert names(tmp_path) == [path.name]


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [["place/file"], ["other", "place/file"]], ids=["a link", "a link to a link"])
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to none yet"])
def test_a_link_stays_and_its_target_is_replaced(steps: list[str], there: bool, tmp_path: Path) -> None:
    for name, target in zip(["link", "other"], steps, strict=False):
        (tmp_path / name).symlink_to(target)
    if there:
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / "file").write_text(EDGEQ_TEXT)
    before = names(tmp_path)
    check_output(tmp_path / "link")
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "place" / "file").read_text() == "new"
    assert names(tmp_path / "place") == ["file"]
    assert names(tmp_path) == sorted({*before, "place"})


def test_a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    check_output(tmp_path / "loop")
    write_json(tmp_path / "loop", "plan", 1, {})
    assert not (tmp_path / "loop").is_symlink()


# --- files that belong together -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 3])
def test_none_is_replaced_before_all_are_on_the_disk(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text("old")
    flushed: list[int] = []

    def full(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a: cannot write: No space left"), replacing_all(*paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")
    assert [path.read_text() for path in paths] == ["old"] * 3
    assert names(tmp_path) == ["a", "b", "c"]


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_the_first_is_replaced_last_and_nobody_else_replaces_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        with artifact._locked(tmp_path, wait=False) as free:
            assert not free
        replaced.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with replacing_all(tmp_path / "a", tmp_path / "b", tmp_path / "c"), artifact._locked(tmp_path, wait=False) as free:
        assert free  # while they are written, others may write theirs
    assert replaced == ["c", "b", "a"]


CHILD = """
import sys
from pathlib import Path
from edgeq.artifacts.files import replacing_all
for turn in range(100):
    with replacing_all(*map(Path, "abc")) as temporaries:
        for temporary in temporaries:
            temporary.write_text(sys.argv[1] * 10_000)
"""


def child(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_wins_whole(tmp_path: Path) -> None:
    children = [child(CHILD, tmp_path, name) for name in "xy"]
    for process in children:
        process.communicate()
    assert [process.returncode for process in children] == [0, 0]
    assert names(tmp_path) == ["a", "b", "c"]
    (winner,) = {(tmp_path / name).read_text() for name in "abc"}
    assert winner in ("x" * 10_000, "y" * 10_000)


# --- leftovers ----------------------------------------------------------------------------------------------------

WRITING = """
import time
from pathlib import Path
from edgeq.artifacts.files import replacing
with replacing(Path("other")) as temporary:
    temporary.write_text("half")
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_writes(tmp_path: Path) -> None:
    mine = [".edgeq-notes.part", ".other.part", "edgeq-abcdefgh.part"]
    for name in mine:
        (tmp_path / name).touch()
    writing = child(WRITING, tmp_path)
    assert writing.stdout is not None
    writing.stdout.readline()
    (temporary,) = set(names(tmp_path)) - {*mine}
    write_json(tmp_path / "out", "plan", 1, {})
    assert names(tmp_path) == sorted([*mine, temporary, "out"])
    writing.kill()
    writing.communicate()
    assert names(tmp_path) == sorted([*mine, temporary, "out"])
    write_json(tmp_path / "out", "plan", 1, {})
    assert names(tmp_path) == sorted([*mine, "out"])


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_the_head_comes_first_and_the_text_is_that_of_dumps(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", "plan", 3, {"x": [1.5, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == dumps("plan", 3, {"x": [1.5, None]})
    assert list(json.loads(text).items()) == [("format", "edgeq-plan"), ("version", 3), ("x", [1.5, None])]
    assert read_json(tmp_path / "a.json", "plan", 3, {})["x"] == [1.5, None]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_a_standard_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", "plan", 1, {"x": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an edgeq record (JSON), found something unreadable: "),
        (b"{", "expected an edgeq record (JSON), found something unreadable: "),
        (b"\xff\xfe\xfa", "expected an edgeq record (JSON), found something unreadable: "),
        (b"[" * 100_000, "expected an edgeq record (JSON), found something unreadable: "),
        (b"[]", "expected an edgeq record, found list"),
        (b"{}", "expected an edgeq record, found no format line"),
        (b'{"format": "edgeq-plan", "version": 1}', "expected an edgeq record, found edgeq-plan"),
        (
            b'{"format": "edgeq-record", "version": 2}',
            "expected version 1 of an edgeq record, found 2; write it again with this edgeq",
        ),
        (b'{"format": "edgeq-record"}', "expected version 1 of an edgeq record, found None"),
    ],
    ids=["empty", "cut", "binary", "too deep", "list", "no format", "another kind", "another version", "no version"],
)
def test_files_that_are_no_such_artifact(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
        read_json(path, "record", 1, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"a": 1', "a is missing or no line of text"),
        ('"a": "b\\nc"', "a is missing or no line of text"),
        ('"a": "x", "n": true', "n is missing or no count"),
        ('"a": "x", "n": -1', "n is missing or no count"),
        ('"a": "x", "n": 9223372036854775808', "n is missing or no count"),
        ('"a": "x", "n": 1', "many is missing or no list"),
        ('"a": "x", "n": 1, "many": [{"x": 0.5}, {"x": 1e999}]', "many[1].x is missing or no number or null"),
        ('"a": "x", "n": 1, "many": [{}]', "many[0].x is missing or no number or null"),
        ('"a": "x", "n": 1, "many": [], "named": {"\\u001b": 1}', "named has a name that is no line of text"),
        ('"a": "x", "n": 1, "many": [], "named": {"y": 0}', "named.y is missing or no number above 0"),
        ('"a": "x", "n": 1, "many": [], "named": {}, "more": NaN', "numbers are not all finite"),
        ('"a": "x", "n": 1, "many": [{"x": null}], "named": {"y": 1e-9}, "more": [1]', None),
    ],
)
def test_the_form_of_an_artifact(tmp_path: Path, text: str, problem: str | None) -> None:
    form: Schema = {"a": TEXT, "n": COUNT, "many": [{"x": (NUMBER, None)}], "named": {str: POSITIVE}}
    path = tmp_path / "a.json"
    path.write_text(f'{{"format": "edgeq-plan", "version": 1, {text}}}')
    if problem is None:
        assert read_json(path, "plan", 1, form)["more"] == [1]
        return
    message = f"{path}: a damaged plan, its {problem}; plan again"
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        read_json(path, "plan", 1, form, "plan again")


def test_a_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"^{re.escape(str(tmp_path / 'a.json'))}: no such file"):
        read_json(tmp_path / "a.json", "record", 1, {})
    with pytest.raises(ArtifactError, match=r"expected an edgeq record, found a folder$"):
        read_json(tmp_path, "record", 1, {})


def test_sha256_of_abc(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
