"""How many CPUs there are: affinity, quotas of control groups as containers have them, and what a user asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeq.errors import UnsupportedError
from edgeq.system.cpus import asked_for, cpu_quota, thread_count, usable_cpus

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "36 30 0:33 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "35 30 0:32 {top} /sys/fs/cgroup/cpu,cpuacct rw master:7 - cgroup cgroup rw,cpu,cpuacct\n"
)
QUOTA, PERIOD = "sys/fs/cgroup/cpu,cpuacct/{}cpu.cfs_quota_us", "sys/fs/cgroup/cpu,cpuacct/{}cpu.cfs_period_us"


def system(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system of these files."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param("0::/\n", {"": "150000 100000\n"}, 1.5, id="one and a half"),
        pytest.param("0::/\n", {"": "max 100000\n"}, None, id="no limit"),
        pytest.param("0::/a/b\n", {"a/b/": "max 100000", "a/": "50000 100000"}, 0.5, id="limit of the group above"),
        pytest.param("0::/a/b\n", {"a/b/": "300000 100000", "a/": "800000 100000"}, 3.0, id="the strictest counts"),
        pytest.param("0::/gone\n", {"": "200000 100000"}, 2.0, id="group that is not to be seen here"),
        pytest.param("0::/../other\n", {"": "200000 100000"}, 2.0, id="group outside of the namespace"),
        pytest.param("0::/\n", {"": "200000"}, None, id="no period"),
        pytest.param("0::/\n", {"": "2e5 100000"}, None, id="no number"),
        pytest.param("0::/\n", {"": "²0 100000"}, None, id="digits that are no number"),
        pytest.param("0::/\n", {"": "100000 0"}, None, id="period of nothing"),
        pytest.param("0::/\n", {"": ""}, None, id="empty file"),
        pytest.param("0::/\n", {}, None, id="no file"),
        pytest.param("nonsense\n\n0:\n", {"": "100000 100000"}, None, id="garbage for groups"),
        pytest.param("", {"": "100000 100000"}, None, id="in no group"),
    ],
)
def test_version_2(groups: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    places = {f"sys/fs/cgroup/{folder}cpu.max": text for folder, text in files.items()}
    assert cpu_quota(system(tmp_path, groups, V2, places)) == expected


@pytest.mark.parametrize(
    ("top", "quotas", "expected"),
    [
        pytest.param("/", {"pod/box/": ("250000", "100000")}, 2.5, id="whole hierarchy mounted"),
        pytest.param("/pod/box", {"": ("50000", "100000")}, 0.5, id="mounted from the group of the container on"),
        pytest.param("/pod", {"box/": ("-1", "100000"), "": ("400000", "200000")}, 2.0, id="limit of the group above"),
        pytest.param("/elsewhere", {"": ("100000", "100000")}, 1.0, id="mounted from another group on"),
        pytest.param("/", {"pod/box/": ("-1", "100000")}, None, id="no limit"),
        pytest.param("/", {"pod/box/": ("", "")}, None, id="empty files"),
    ],
)
def test_version_1(top: str, quotas: dict[str, tuple[str, str]], expected: float | None, tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for folder, (quota, period) in quotas.items():
        files |= {QUOTA.format(folder): quota, PERIOD.format(folder): period}
    groups = "6:memory:/other\n4:cpuacct,cpu:/pod/box\n0::/\n"
    assert cpu_quota(system(tmp_path, groups, V1.format(top=top), files)) == expected


def test_a_folder_with_a_space(tmp_path: Path) -> None:
    mounts = r"31 23 0:28 / /my\040groups rw - cgroup2 cgroup2 rw"
    assert cpu_quota(system(tmp_path, "0::/a b\n", mounts, {"my groups/a b/cpu.max": "700000 100000"})) == 7


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {QUOTA.format(""): "100000", PERIOD.format(""): "50000", "sys/fs/cgroup/unified/cpu.max": "max 100000"}
    mounts = V1.format(top="/") + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    assert cpu_quota(system(tmp_path, "4:cpu,cpuacct:/\n0::/\n", mounts, files)) == 2


@pytest.mark.parametrize(
    "mounts",
    [
        "",
        "\n",
        " - \n",
        "1 2 - cgroup2\n",
        "1 2 3 4 - cgroup2 cgroup2 rw\n",
        "1 2 3 / /x - cgroup\n",
        r"1 2 3 / /\000 rw - cgroup2",
    ],
)
def test_mounts_that_say_nothing(mounts: str, tmp_path: Path) -> None:
    assert cpu_quota(system(tmp_path, "0::/\n", mounts, {"sys/fs/cgroup/cpu.max": "100000 100000"})) is None


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "expected"),
    [(None, 6), (0.2, 1), (1.0, 1), (1.01, 2), (2.5, 3), (64.0, 6)],
)
def test_affinity_and_quota(quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(2, 8)), raising=False)
    monkeypatch.setattr("edgeq.system.cpus.cpu_quota", lambda: quota)
    assert usable_cpus() == expected


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr("edgeq.system.cpus.cpu_quota", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cpus() == 12


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_that_may_run_on_one_cpu() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from edgeq.system.cpus import thread_count; print(thread_count())"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert found.stdout == "1\n"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("3", 3), (" 3 ", 3), ("5,2", 5), ("", 4), ("0", 4), ("-2", 4), ("many", 4), ("٣", 4)],
)
def test_openmp_variable(variable: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.system.cpus.usable_cpus", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert thread_count() == expected


def test_what_was_asked_for_counts_first_and_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with asked_for(7):
        assert thread_count() == 7
        with asked_for(None):
            assert thread_count() == 7
        with pytest.raises(ZeroDivisionError), asked_for(2):
            assert thread_count() == 2 / 0
    assert thread_count() == 4


@pytest.mark.parametrize("threads", [0, -1, 9])
def test_numbers_that_make_no_sense(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with (
        pytest.raises(UnsupportedError, match=f"^threads: expected 1 to 8, the CPUs of this machine, found {threads}$"),
        asked_for(threads),
    ):
        pytest.fail("not refused")
