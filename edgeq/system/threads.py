"""Threads of torch: as many as may be used, one for small work, and independent pieces of work side by side.

Torch shares out the loops of a single operation, and all its threads meet again at the end of each. That pays for
millions of numbers; of small operations a network has thousands, and where another process keeps one thread from its
CPU, all others wait for it, thousands of times. So stages share out whole images, batches or layers, each on one
thread: those meet once, and what they compute does not depend on how many there are.
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

_AT_ONCE: Final = 8  # pieces of work, each of which takes memory


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on so many threads, then on as many as before: their number belongs to the caller."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stage_threads() -> int:
    """Threads for a stage: as many as were asked for; else as torch has, but not more than may be used."""
    return asked() or min(torch.get_num_threads(), thread_count())


def on_usable_cpus(stage: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Make a stage run on `stage_threads` threads of torch."""

    @wraps(stage)
    def run(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        with torch_threads(stage_threads()):
            return stage(*args, **kwargs)

    return run


def side_by_side(
    work: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int | None = None
) -> Iterator[_Result]:
    """Map a function over items concurrently, as many at once as torch has threads, each on one thread of torch.

    Args:
        work: changes nothing that another piece of work sees; inference mode and gradients are as in the caller.
        items: one for each piece; read by the caller's thread, a few ahead.
        at_once: of a few large pieces, how many there are: where torch has more threads, each piece gets several.

    Yields:
        What each gives, in order. Until the last one, the caller has one thread of torch, too.
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
