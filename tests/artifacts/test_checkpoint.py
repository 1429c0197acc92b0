from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeq.artifacts import files as artifact
from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.errors import OutputError

TENSORS = {"packed": torch.tensor([[1, 254]], dtype=torch.uint8), "scale": torch.tensor([0.5]), "done": torch.tensor(7)}


def written(path: Path, work: str = "work") -> Checkpoint:
    checkpoint = Checkpoint(path, work)
    checkpoint.put("a/", TENSORS)
    return checkpoint


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.unfinished"


def test_what_was_put_is_found_by_the_same_work(path: Path) -> None:
    written(path).put("ab/", {"packed": torch.ones(2)})
    found = Checkpoint(path, "work")
    assert same(found.under("a/"), TENSORS)
    assert same(found.under("ab/"), {"packed": torch.ones(2)})
    assert found.under("b/") == {}


def test_nothing_yet(path: Path) -> None:
    assert Checkpoint(path, "work").under("") == {}
    assert not path.exists()


def test_putting_again_replaces(path: Path) -> None:
    written(path).put("a/", {"done": torch.tensor(8)})
    assert same(Checkpoint(path, "work").under("a/"), TENSORS | {"done": torch.tensor(8)})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_tensor_changed_later_is_kept_as_it_was(layout: torch.memory_format, path: Path) -> None:
    value = torch.zeros(2, 3, 4, 4).contiguous(memory_format=layout)
    checkpoint = Checkpoint(path, "work")
    checkpoint.put("", {"value": value})
    value += 1
    assert not checkpoint.under("")["value"].any()
    checkpoint.put("", {"other": torch.ones(1)})
    assert not Checkpoint(path, "work").under("")["value"].any()


def test_other_work_is_ignored_and_replaced(path: Path) -> None:
    written(path)
    other = Checkpoint(path, "other work")
    assert other.under("") == {}
    other.put("b/", {"done": torch.tensor(1)})
    assert Checkpoint(path, "work").under("") == {}
    assert same(Checkpoint(path, "other work").under(""), {"b/done": torch.tensor(1)})


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_cut_off_file_is_ignored(kept: int, path: Path) -> None:
    written(path)
    path.write_bytes(path.read_bytes()[:kept])
    checkpoint = Checkpoint(path, "work")
    assert checkpoint.under("") == {}
    checkpoint.put("a/", TENSORS)
    assert same(Checkpoint(path, "work").under("a/"), TENSORS)


def test_a_file_of_something_else_is_ignored(path: Path) -> None:
    path.write_text("notes")
    assert Checkpoint(path, "work").under("") == {}


def test_an_interrupt_while_writing_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = written(path)

    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeq.artifacts.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.put("b/", {"done": torch.tensor(8)})
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert same(Checkpoint(path, "work").under(""), {f"a/{name}": value for name, value in TENSORS.items()})


def test_a_full_disk_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"net\.unfinished: cannot write: No space left on device; free some space"):
        written(path)


def test_the_file_counts_as_edgeqs(path: Path) -> None:
    written(path)
    artifact.check_output(path)


def test_removed_at_the_end(path: Path) -> None:
    checkpoint = written(path)
    checkpoint.remove()
    assert not path.exists()
    checkpoint.remove()


def test_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint()
    checkpoint.put("a/", TENSORS)
    assert same(checkpoint.under("a/"), TENSORS)
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
