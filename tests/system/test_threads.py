"""Threads of torch: what runs on how many, and that their number stays the caller's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from nets import float_network, images, worked

import edgeq
from edgeq.calibration import calibrate as calibrating
from edgeq.cli import main
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError
from edgeq.ir import network
from edgeq.quantization import quantize as rounding
from edgeq.rounding import gptq, layer
from edgeq.system.cpus import asked_for
from edgeq.system.threads import side_by_side, stage_threads, torch_threads
from edgeq.tasks.classification import Classification

Bytes = tuple[str, bytes]


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A caller who has chosen three threads of torch, on a machine of eight CPUs."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr("edgeq.system.cpus.usable_cpus", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert (torch.get_num_threads(), of_a_new_thread()) == (3, 3)
    torch.set_num_threads(before)


def of_a_new_thread() -> int:
    """Threads of torch that a thread begins with."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def pipeline(folder: Path) -> Bytes:
    """All stages that take time; the record and the bytes of the file."""
    batches, net, path = [images(8, seed) for seed in range(3)], float_network("residual"), folder / "net.onnx"
    record = edgeq.calibrate(net, batches)
    plan = edgeq.plan(record, "4bit")
    layers = edgeq.quantize(net, record, plan, batches)
    layers = edgeq.tune(net, record, worked(plan, steps=2), layers, batches)
    edgeq.export(edgeq.pack(net, layers, record, plan), path, record, plan, batches, force=True)
    return record.to_json(), path.read_bytes()


def spied(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """The threads of torch that a function is called with."""
    found: list[int] = []
    function = getattr(owner, name)

    def spy(*args: Any, **kwargs: Any) -> Any:
        found.append(torch.get_num_threads())
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, spy)
    return found


# --- side by side ---------------------------------------------------------------------------------------------------


def test_pieces_run_at_once_and_come_in_order() -> None:
    met = threading.Barrier(3, timeout=60)

    def work(item: int) -> tuple[int, int]:
        met.wait()  # goes on when three pieces are at it
        return item, torch.get_num_threads()

    found = side_by_side(work, range(6))
    assert next(found) == (0, 1)
    assert torch.get_num_threads() == 1
    assert list(found) == [(item, 1) for item in range(1, 6)]


def test_items_are_read_only_a_few_ahead_and_by_the_caller() -> None:
    read: list[int] = []
    me = threading.get_ident()

    def items() -> Iterator[int]:
        for item in range(100):
            assert threading.get_ident() == me
            read.append(item)
            yield item

    found = side_by_side(lambda item: -item, items())
    assert list(islice(found, 2)) == [0, -1]
    assert len(read) <= 6


@pytest.mark.parametrize(("threads", "at_once", "expected"), [(8, 2, 4), (3, 2, 1), (8, None, 1), (1, 2, 1)])
def test_few_large_pieces_share_the_threads(threads: int, at_once: int | None, expected: int) -> None:
    with torch_threads(threads):
        assert set(side_by_side(lambda item: torch.get_num_threads(), range(4), at_once)) == {expected}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_gradients_are_as_in_the_caller(mode: Any) -> None:
    def state(_: int = 0) -> tuple[bool, bool]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    with mode():
        assert set(side_by_side(state, range(4))) == {state()}


def test_an_error_is_that_of_the_piece() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise DataError("the third")
        return item

    with pytest.raises(DataError, match="the third"):
        list(side_by_side(work, range(50)))


def test_an_error_of_the_caller_leaves_no_thread() -> None:
    with pytest.raises(ZeroDivisionError):
        for item in side_by_side(lambda item: item, range(50)):
            item / 0
    assert [thread for thread in threading.enumerate() if thread.name.startswith("edgeq-stage")] == []


# --- stages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("torchs", "usable", "wanted", "expected"),
    [(3, 8, None, 3), (8, 1, None, 1), (1, 8, None, 1), (2, 1, 4, 4), (4, 8, 2, 2)],
)
def test_threads_of_a_stage(
    torchs: int, usable: int, wanted: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeq.system.cpus.usable_cpus", lambda: usable)
    with torch_threads(torchs), asked_for(wanted):
        assert stage_threads() == expected


def test_small_work_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    float_network("residual")  # tracing compares it with its module once, on as many threads as torch has
    found = [
        spied(monkeypatch, network.Network, "run"),
        spied(monkeypatch, gptq, "descend"),
        spied(monkeypatch, layer, "gptq"),
        spied(monkeypatch, Classification, "random_direction"),
    ]
    pipeline(tmp_path)
    assert [set(threads) for threads in found] == [{1}] * 4


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    with torch_threads(1):
        alone = pipeline(tmp_path)
    assert pipeline(tmp_path) == alone


@pytest.mark.parametrize("stage", ["calibrate", "quantize", "tune"])
def test_a_stage_that_fails_gives_the_threads_back(stage: str) -> None:
    net, batches = float_network("residual"), [images(4)]
    record = edgeq.calibrate(net, batches)
    plan = edgeq.plan(record, "8bit")
    layers = edgeq.quantize(net, record, plan, batches)
    wrong: Sequence[Any] = [batches[0], batches[0][:, :, 1:]]
    calls: dict[str, Callable[[], object]] = {
        "calibrate": lambda: edgeq.calibrate(net, wrong),
        "quantize": lambda: edgeq.quantize(net, record, plan, wrong),
        "tune": lambda: edgeq.tune(net, record, worked(plan, steps=1), layers, wrong),
    }
    with pytest.raises(DataError, match="expected batches of images"):
        calls[stage]()


# --- the command line -----------------------------------------------------------------------------------------------

COMMANDS = {
    "calibrate": ("calibrate",),
    "export": ("export", "--scheme", "8bit"),
    "evaluate": ("evaluate",),
    "sweep": ("sweep", "--budgets", "size=10kB"),
    "demo": ("demo",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", ["0", "-1", "9"])
def test_numbers_that_make_no_sense(command: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMANDS[command], "--threads", number]) == 1
    expected = f"error: threads: expected 1 to 8, the CPUs of this machine, found {number}\n"
    assert capsys.readouterr() == ("", expected)


def test_the_option_reaches_torch_images_and_the_runtime(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, sessions = onnxruntime.InferenceSession, []
    decode, decoders = Preprocess.__call__, set()

    def open_session(file: Any, options: onnxruntime.SessionOptions, providers: list[str]) -> Any:
        sessions.append(options.intra_op_num_threads)
        return session(file, options, providers=providers)

    def decoding(self: Preprocess, image: Any) -> Any:
        decoders.add(threading.get_ident())
        return decode(self, image)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(Preprocess, "__call__", decoding)
    stages = [spied(monkeypatch, module, name) for module, name in ((calibrating, "_measured"), (rounding, "Stream"))]
    forward = spied(monkeypatch, network.Network, "forward")
    assert main(["calibrate", "--threads", "1"]) == 0
    assert len(decoders) == 1
    assert main(["export", "--scheme", "8bit", "--threads", "2"]) == 0
    assert stages == [[1], [2, 2]]
    assert set(sessions) == {2}  # those of parity: plain and optimized, of all nodes and of the file as it is
    assert len(sessions) >= 4
    sessions.clear()
    forward.clear()
    assert main(["evaluate", "--threads", "4"]) == 0
    assert sessions == [4]
    assert set(forward) == {2}  # the halves of a batch share them
