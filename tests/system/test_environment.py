"""What a report says about the machine, and what it must not say."""

import json
import platform
from datetime import date
from importlib.metadata import version

import numpy as np
import pytest

from edgeq.system.environment import PACKAGES, environment, int8_overflows, parse_cpuinfo

X86 = """processor\t: 0
model name\t: Some CPU @ 2.50GHz
flags\t\t: fpu sse2 avx512f avx2 avx512_vnni

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu amx_int8
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        pytest.param(X86, "Some CPU @ 2.50GHz", ["avx2", "avx512_vnni", "avx512f"], id="x86: first processor counts"),
        pytest.param(ARM, "", ["asimd", "asimddp"], id="arm: no model name"),
        pytest.param("", "", [], id="no /proc/cpuinfo"),
    ],
)
def test_cpuinfo(text: str, name: str, flags: list[str]) -> None:
    assert parse_cpuinfo(text) == (name, flags)


def test_keys_and_versions() -> None:
    found = environment()
    expected = ["cpu", "logical_cores", "usable_cpus", "cpu_flags", "memory_gb", "os", "python", "versions", "date"]
    assert list(found) == expected
    assert list(found["versions"]) == list(PACKAGES)
    assert found["versions"]["numpy"] == np.__version__ == version("numpy")
    assert found["python"] == platform.python_version()
    assert date.fromisoformat(found["date"])
    assert found["cpu"]


def test_a_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.system.environment.PACKAGES", ("numpy", "edgeq-no-such-package"))
    assert environment()["versions"]["edgeq-no-such-package"] is None


def test_names_neither_host_nor_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "secret-host")
    monkeypatch.setenv("USER", "secret-user")
    monkeypatch.setenv("HOME", "/home/secret-user")
    assert "secret" not in json.dumps(environment())


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ["avx2"], True),
        ("AMD64", ["avx2", "avx512f"], True),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("x86_64", ["avx2", "avx512_vnni", "avx512f"], False),
        ("aarch64", ["asimd"], False),
        ("arm64", [], False),
    ],
)
def test_cpus_whose_int8_kernels_overflow(
    machine: str, flags: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeq.system.environment.platform.machine", lambda: machine)
    monkeypatch.setattr("edgeq.system.environment.parse_cpuinfo", lambda text: ("", flags))
    assert int8_overflows() is expected
