"""The machine and the versions that a number was measured with; stored in every report, so that reports compare."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

from edgeq.system.cpus import usable_cpus

PACKAGES: Final = ("edgeq", "torch", "torchvision", "onnx", "onnxruntime", "openvino", "numpy")

SPEED_FLAGS: Final = frozenset(
    {"avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}
    | {"asimd", "asimddp", "i8mm", "bf16", "sve"}
)
"""Instruction sets, as Linux names them, that decide which int8 and bf16 kernels a runtime uses."""

VNNI: Final = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
"""The x86 instruction sets that add products of int8 and uint8 in int32."""


def environment() -> dict[str, Any]:
    """Describe the machine and the versions as JSON values, without the name of a host, user or folder.

    Returns:
        `cpu` (model name), `logical_cores`, `usable_cpus` (see `edgeq.system.cpus`), `cpu_flags` (those of
        `SPEED_FLAGS`; empty where /proc/cpuinfo is missing), `memory_gb` (10^9 bytes), `os`, `python`, `versions`
        (package -> version, None when not installed) and `date` (ISO, UTC).
    """
    cpuinfo = Path("/proc/cpuinfo")
    cpu, flags = parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else "")
    return {
        "cpu": cpu or platform.processor() or platform.machine(),
        "logical_cores": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "cpu_flags": flags,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }


OVERFLOW: Final = "x86 CPUs without VNNI overflow on 8-bit weights beyond 63"
"""For warnings. The kernels of these CPUs add two products of a weight and a uint8 in int16."""


def int8_overflows() -> bool:
    """Whether int8 kernels of this CPU overflow on 8-bit weights beyond 63."""
    flags = environment()["cpu_flags"]
    return platform.machine().lower() in ("x86_64", "amd64") and not VNNI & set(flags)


def parse_cpuinfo(text: str) -> tuple[str, list[str]]:
    """Return the model name ("" if there is none) and the sorted `SPEED_FLAGS` of the first processor in the text."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features", "")  # x86 and ARM name the line differently
    return fields.get("model name", ""), sorted(SPEED_FLAGS.intersection(flags.split()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
