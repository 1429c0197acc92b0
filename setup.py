"""Compiles the kernels of the native engine, where there is a C compiler; everything else is in pyproject.toml.

They are a plain library without Python's headers, which `edgeq.native.library` loads by ctypes. Sums of a hostile
program's weights may exceed int32, so they wrap.
"""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("edgeq", "native", "sources")

setup(
    ext_modules=[
        Extension(
            "edgeq.native._kernels",
            sorted(map(str, SOURCES.glob("*.c"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            extra_compile_args=["-std=c99", "-O3", "-ffp-contract=off", "-fwrapv"],
            optional=True,
        )
    ]
)
