"""The number of CPUs that this process may use, and of threads that it therefore takes.

A container on a machine of many cores is usually limited to a share of their time (`docker run --cpus 1`, limits of
Kubernetes, `CPUQuota` of systemd), which libraries that count cores do not see. Threads beyond that share only wait for
each other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Final

from edgeq.errors import UnsupportedError

_ASKED: Final[ContextVar[int | None]] = ContextVar("threads", default=None)


@contextmanager
def asked_for(threads: int | None) -> Iterator[None]:
    """Make `thread_count` return this number within the block; None changes nothing.

    Raises:
        UnsupportedError: less than 1, or more than the machine has CPUs.
    """
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise UnsupportedError(f"threads: expected 1 to {cores}, the CPUs of this machine, found {threads}")
    token = _ASKED.set(_ASKED.get() if threads is None else threads)
    try:
        yield
    finally:
        _ASKED.reset(token)


def asked() -> int | None:
    """The number set by `asked_for`, or None."""
    return _ASKED.get()


def thread_count() -> int:
    """Threads to use: the number set by `asked_for`, else `OMP_NUM_THREADS`, else `usable_cpus`."""
    return _ASKED.get() or _of_openmp(os.environ.get("OMP_NUM_THREADS", "")) or usable_cpus()


def _of_openmp(text: str) -> int | None:
    """Parse `OMP_NUM_THREADS`, `4` or `4,2` for nested regions, and return the threads of the outermost region."""
    return _number(text.partition(",")[0]) or None


def usable_cpus() -> int:
    """Number of CPUs that this process may run on (its affinity), or fewer if control groups limit its time."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cpu_quota()
    return cpus if share is None else max(1, min(cpus, ceil(share)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU time that the control groups of this process allow, in CPUs: the strictest limit of them and their parents.

    `/proc/self/cgroup` and `/proc/self/mountinfo` say where the groups are (cgroups(7), proc(5)). The limit is
    `cpu.max` in version 2, `cpu.cfs_quota_us` over `cpu.cfs_period_us` in version 1.

    Args:
        root: of the file system.

    Returns:
        CPUs, perhaps a fraction; None where there is no limit, or none that can be read.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the control groups of this process and of all their parents."""
    memberships = dict(_memberships(_read(root / "proc/self/cgroup")))
    for line in _read(root / "proc/self/mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        fields, (system, *_, options) = place.split(), (*kind.split(), "", "")[:3]
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(system)
        if controller is None or controller not in memberships or len(fields) < 5:
            continue
        if controller and controller not in options.split(","):
            continue  # another hierarchy of version 1
        top, mounted = (_below_root(field) for field in fields[3:5])
        inner = memberships[controller]
        # If a hierarchy is mounted in part, only groups below `top` are visible here.
        below = inner.relative_to(top) if inner.is_relative_to(top) and ".." not in inner.parts else PurePosixPath()
        yield from (root / mounted / part for part in (below, *below.parents))


def _memberships(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Pairs of a controller, "" in version 2, and the path of its group within the hierarchy."""
    for line in text.splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if group.startswith("/"):
            yield from ((name, _below_root(group)) for name in controllers.split(","))


def _quota(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split() or [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    limit, period = (_number(word) for word in (*words, "")[:2])
    return limit / period if limit and period else None  # `max` and -1: no limit


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: an invalid path
        return ""


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\s*[0-9]{1,18}\s*", text) else None


def _below_root(field: str) -> PurePosixPath:
    r"""Make an absolute path of mountinfo relative to the root, and unescape it (a space is `\040`)."""
    return PurePosixPath(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field).lstrip("/"))
