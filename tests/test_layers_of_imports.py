"""Imports go one way only, and the heavy libraries stay where they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeq

PACKAGE = Path(edgeq.__file__).parent
LAYERS = (
    # These need NumPy at most.
    "effort errors cpus forms artifact environment memory quantize record cost budget allocate plan",
    "glyphs preprocess image_files class_folders workers images label_check",
    "graph steps threads hard_sigmoid observers network pixels",
    "calls constants float_operators builder fold",
    "aten_shapes aten_arithmetic aten_layers aten_pools aten_activations aten lending program trace",
    "presets weights_file state_dicts models moments gptq activations ops modules",
    "pixel_groups onnx_float onnx_export overhead",
    "sensitivity ranges calibrate checkpoint augment streams rounding tune",
    "onnx_files runtimes evaluate parity export bench plots",
    "workflow inspection reports sweep tables console options cli",
)
ORDER = [name for layer in LAYERS for name in layer.split()]
ENTRIES = {"__init__", "__main__"}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
ALLOWED = {
    "click": {"options", "cli"},
    "matplotlib": {"glyphs", "plots"},
    "onnx": {
        "onnx_float",
        "onnx_export",
        "overhead",
        "parity",
        "export",
        "onnx_files",
        "runtimes",
        "bench",
        "inspection",
    },
    "onnxruntime": {"evaluate", "parity", "runtimes"},
    "openvino": {"runtimes"},
    "torch": {"workers", *ORDER[ORDER.index("steps") + 1 :]},
    "torchvision": {"presets", "models"},
}


def imports(source: str) -> Iterator[str]:
    """Dotted names of all modules imported anywhere in the source, also by `import_module("name")`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = [f"edgeq.{alias.name}" for alias in node.names] if node.module == "edgeq" else [str(node.module)]
            yield from names
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def imports_of(module: str) -> list[str]:
    return list(imports((PACKAGE / f"{module}.py").read_text(encoding="utf-8")))


def test_all_forms_of_imports_are_seen() -> None:
    source = """
import edgeq.a, torch.nn as nn
from edgeq import b
from edgeq.c import d
def f():
    if x:
        from edgeq.e import g
    return import_module("edgeq.h"), importlib.import_module("torch")
"""
    found = sorted(imports(source))
    assert found == ["edgeq.a", "edgeq.b", "edgeq.c", "edgeq.e", "edgeq.h", "torch", "torch.nn"]


def test_every_module_has_its_place() -> None:
    assert set(MODULES) == {*ORDER, *ENTRIES}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ENTRIES])
def test_imports_go_up_the_list_only(module: str) -> None:
    above = {f"edgeq.{name}" for name in ORDER[: ORDER.index(module)]}
    assert {name for name in imports_of(module) if name.startswith("edgeq.")} <= above


@pytest.mark.parametrize("library", ALLOWED)
def test_heavy_libraries_stay_where_they_are_needed(library: str) -> None:
    users = {module for module in MODULES for name in imports_of(module) if name.split(".")[0] == library}
    assert users <= ALLOWED[library]


def test_the_package_itself_is_imported_only_above_all_stages() -> None:
    """Its names come from any stage, so for a stage it would be an import of what is below."""
    users = {module for module in MODULES if "edgeq" in imports_of(module)}
    assert users <= {*ORDER[ORDER.index("workflow") :], *ENTRIES}


def test_planning_and_help_load_no_torch() -> None:
    code = "import sys, edgeq; edgeq.plan; edgeq.CalibrationRecord; print({'torch', 'onnx'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
