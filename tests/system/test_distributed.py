"""Several processes do what one does, bit for bit, or say why not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nets import float_network, images
from numpy.typing import NDArray
from PIL import Image

import edgeq
from edgeq.calibration.sample import Sample
from edgeq.cli import main
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError
from edgeq.ir.batches import Images
from edgeq.system.distributed import ALONE, Workers, joined

TINY = Preprocess(4, 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

SCRIPT = """
import json, os, signal, sys, weakref
from pathlib import Path

sys.path[:0] = {tests!r}
import torch
from nets import float_network
from test_distributed import batches, scored

import edgeq
from edgeq.errors import WorkerError
from edgeq.system.distributed import first_to_speak, joined

torch.set_num_threads(1)
try:
    with joined() as workers:
        group = weakref.ref(torch.distributed.group.WORLD)
        mine = batches()[workers.rank :: workers.size]
        if {dies} and workers.rank == 1:
            mine = (batch if i < 1 else os.kill(os.getpid(), signal.SIGKILL) for i, batch in enumerate(mine))
        record = edgeq.calibrate(float_network("residual"), mine, workers=workers)
        report = scored(Path({folder!r}), workers)
        Path(f"{out}/{{workers.rank}}.json").write_text(json.dumps([record.to_json(), report]))
    assert group() is None, "threads of the group outlive it"
except WorkerError as error:
    if first_to_speak():
        print(f"error: {{error}}", file=sys.stderr)
    sys.exit(1)
"""
FOLDER_SIZE = 203  # two of which cannot be read


def batches() -> list[NDArray[np.float32]]:
    """Seven, the last of them smaller: two or three processes do not get equally many."""
    return [images(3 if seed == 6 else 5, seed) for seed in range(7)]


def folder_of(path: Path) -> Path:
    """Labelled images of one colour each; one is broken, and one is not an image."""
    for index in range(FOLDER_SIZE):
        label = path / str(index % 2)
        label.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 255 - index)).save(label / f"{index:03}.png")
    (path / "0" / "010.png").write_bytes(b"not an image")
    (path / "1" / "121.png").write_bytes(b"not an image either")
    return path


def scored(folder: Path, workers: Workers) -> dict[str, object]:
    """An evaluation of a model that makes up its answers."""

    def answers(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([x.sum((1, 2, 3)), 5 * x[:, 0, 0, 0]], axis=1)

    def others(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return answers(x) + np.sin(40 * x[:, 2, :2, 0])

    found = edgeq.evaluate({"m": others}, answers, ImageSet.labelled(folder, 2), TINY, 8, workers=workers)
    body: dict[str, object] = json.loads(json.dumps(found.to_dict()))
    return body


def torchrun(count: int, tmp_path: Path, folder: Path, dies: bool = False) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(
            tests=[str(place) for place in Path(__file__).parents[:2]], folder=str(folder), out=tmp_path, dies=dies
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run([*command, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[object]:
    """What one process finds, on one thread as torchrun gives to each."""
    import torch  # noqa: PLC0415 (its threads belong to the whole process)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    record = edgeq.calibrate(float_network("residual"), batches())
    torch.set_num_threads(threads)
    return [record.to_json(), scored(folder, ALONE)]


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_find_what_one_finds(count: int, tmp_path: Path, folder: Path, alone: list[object]) -> None:
    done = torchrun(count, tmp_path, folder)
    assert done.returncode == 0, done.stderr
    for rank in range(count):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
    report = scored(folder, ALONE)
    assert report["images"] == FOLDER_SIZE - 2
    assert report["unreadable"] == [["0/010.png", "not an image"], ["1/121.png", "not an image"]]


def test_a_killed_process_ends_all_with_one_line(tmp_path: Path, folder: Path) -> None:
    done = torchrun(2, tmp_path, folder, dies=True)
    assert done.returncode != 0
    assert list(tmp_path.glob("*.json")) == []
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) <= 1  # none if torchrun is faster
    assert all("error: another process of this run has ended before its time (" in line for line in told)
    assert all(line.endswith("; nothing was written, start it again") for line in told)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_batches_go_around(size: int, folder: Path) -> None:
    whole = ImageSet.labelled(folder, 2)
    expected = list(whole.batches(TINY, 4))
    parts = [list(ImageSet.labelled(folder, 2).batches(TINY, 4, Workers(rank, size))) for rank in range(size)]
    together = [parts[i % size][i // size] for i in range(sum(map(len, parts)))]
    assert len(together) == -(-FOLDER_SIZE // 4)
    for batch, other in zip(expected, together, strict=True):
        np.testing.assert_array_equal(batch.images, other.images)
        assert batch.labels is not None
        np.testing.assert_array_equal(batch.labels, other.labels)


def test_a_batch_of_nothing_keeps_step(tmp_path: Path) -> None:
    for index in range(300):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{index:03}.png")
    (tmp_path / "005.png").write_bytes(b"")
    images = ImageSet.folder(tmp_path, None, 0)
    sizes = [batch.images.shape for batch in images.batches(TINY, 1, Workers(1, 2))]
    assert sizes == [(1, 3, 4, 4)] * 2 + [(0, 3, 4, 4)] + [(1, 3, 4, 4)] * 147
    assert len(list(images.batches(TINY, 1))) == 299


class Both(Workers):
    """Two processes of which the other one has skipped images, too."""

    def all_gather(self, mine: object) -> list[object]:  # type: ignore[override]  # of lists only
        return [mine, [("b.png", "broken"), ("c.png", "broken")]]


def test_unreadable_images_of_all_processes_count(folder: Path) -> None:
    images = ImageSet.labelled(folder, 2)
    list(images.batches(TINY, 50))
    with pytest.raises(
        DataError, match=r": 4 of the first 203 images cannot be read \(.* and 1 more\), and at most 2 of all 203 may"
    ):
        images.put_together(Both(0, 2))


def test_a_sample_is_that_of_one_process() -> None:
    numbers = [3, 4, 2, 4, 1, 4, 4]
    stream = [Images(((i + np.arange(n)[:, None] / 8).astype(np.float32),)) for i, n in enumerate(numbers)]
    one, two = Sample(5, [(1,)], 3), [Sample(5, [(1,)], 3, Workers(rank, 2)) for rank in range(2)]
    for batch in stream:
        one.add(batch)
    for first, second in zip(stream[::2], [*stream[1::2], None], strict=True):
        counts = [len(first), 0 if second is None else len(second)]
        two[0].add(first, counts)
        two[1].add(second, counts)
    kept = two[0]._kept | two[1]._kept
    assert two[0].seen == two[1].seen == one.seen == 22
    assert not two[0]._kept.keys() & two[1]._kept.keys()
    together = Images.joined([kept[place] for place in sorted(kept)])
    np.testing.assert_array_equal(together.arrays, one.images().arrays)


def test_rounds_of_one_process() -> None:
    def stream() -> Iterator[NDArray[np.float32]]:
        yield from (np.zeros((n, 1), np.float32) for n in (2, 0, 1))

    assert [(len(batch), counts) for batch, counts in ALONE.rounds(stream()) if batch is not None] == [
        (2, [2]), (0, [0]), (1, [1]),
    ]  # fmt: skip
    with joined() as workers:
        assert workers is ALONE


def test_what_runs_in_one_process_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["plan", "--scheme", "8bit"]) == 1
    assert capsys.readouterr().err == (
        "error: plan runs in one process, found several started by torchrun; start it without, or run one of "
        "calibrate, evaluate\n"
    )
