"""Threads of torch: how many a stage uses, and how independent pieces of work run side by side.

Torch splits the loops of each operation over its threads, which wait for each other at the end of the operation. That
pays for millions of numbers. But a network has thousands of small operations, and where another process keeps one
thread from its CPU, all others wait for it thousands of times. So stages give each thread whole images, batches or
layers: threads wait for each other only once, and results do not depend on the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import torch

from edgeq.system.cpus import asked, thread_count

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

_AT_ONCE: Final = 8  # concurrent pieces of work; each takes memory


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of threads of torch, and restore the caller's number at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stage_threads() -> int:
    """Threads for a stage: the number set by `asked_for`, else that of torch, but at most `thread_count`."""
    return asked() or min(torch.get_num_threads(), thread_count())


def on_usable_cpus(stage: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Decorate a stage to run on `stage_threads` threads of torch."""

    @wraps(stage)
    def run(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        with torch_threads(stage_threads()):
            return stage(*args, **kwargs)

    return run


def side_by_side(
    work: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int | None = None
) -> Iterator[_Result]:
    """Map a function over items concurrently: as many calls at a time as torch has threads, one thread of torch each.

    Args:
        work: the function. It must not change anything that another call sees, and runs in the caller's inference and
            gradient mode.
        items: its arguments, read a few ahead in the caller's thread.
        at_once: the number of items if they are few and large: if torch has more threads, each call gets several.

    Yields:
        The results, in order. Until the last one, torch has one thread in the caller, too.
    """
    threads = torch.get_num_threads()
    count = min(threads, at_once or _AT_ONCE)
    share = threads // count if at_once else 1
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def piece(item: _Item) -> _Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(item)

    if count == 1:
        yield from map(work, items)
        return
    with torch_threads(1):
        pool = ThreadPoolExecutor(count, "edgeq-stage", torch.set_num_threads, (share,))
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(piece, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
