"""A package imports only from those above it, and heavy libraries stay where they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import edgeq

ROOT = Path(edgeq.__file__).parent
ROWS = (
    "errors",
    "numerics system tasks",
    "artifacts ir",
    "data native planning",
    "frontends packed reports rounding",
    "lowering",
    "runtimes quantization",
    "exporters evaluation",
    "calibration",
    "commands",
    "cli",
    "__init__ __main__",
)
ROW = {room: i for i, row in enumerate(ROWS) for room in row.split()}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
ALLOWED = {
    "click": "cli commands",
    "jinja2": "reports.page",
    "markupsafe": "reports.page",
    "matplotlib": "data.glyphs reports.figures",
    "onnx": "artifacts.onnx_files exporters frontends.onnx runtimes evaluation",
    "onnx_ir": "frontends.onnx",
    "onnxscript": "frontends.onnx",
    "onnxruntime": "runtimes",
    "openvino": "runtimes",
    "pycocotools": "tasks.detection",
    "rich": "reports commands",
    "torch": "system.devices system.distributed system.threads tasks artifacts.checkpoint ir frontends rounding packed "
    "lowering runtimes.torch runtimes.torch_native quantization exporters calibration",
    "torchvision": "frontends tasks.detection",
}


def imports(source: str) -> Iterator[str]:
    """Dotted names of all modules, or of what is in them, imported anywhere in the source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def imported(name: str) -> set[str]:
    """The modules of edgeq, without its name, that a module imports."""
    found = set()
    for target in imports(MODULES[name].read_text(encoding="utf-8")):
        place, _, rest = target.partition(".")
        while place == "edgeq" and rest:
            if rest in MODULES:
                found.add(rest)
                break
            rest = rest.rpartition(".")[0]
    return found


def room(name: str) -> str:
    return name.partition(".")[0]


def test_all_forms_of_imports_are_seen() -> None:
    source = """
import edgeq.a, torch.nn as nn
from edgeq import b
from edgeq.c import d
def f():
    if x:
        from edgeq.e import g
    return import_module("onnx"), importlib.import_module("torch")
"""
    found = sorted(imports(source))
    assert found == ["edgeq.a", "edgeq.b", "edgeq.c.d", "edgeq.e.g", "onnx", "torch", "torch.nn"]


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in MODULES} == ROW.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_package_imports_only_from_rows_above_its_own(name: str) -> None:
    own = room(name)
    wrong = {other for other in imported(name) if room(other) != own and ROW[room(other)] >= ROW[own]}
    assert not wrong


def test_no_module_imports_itself_by_way_of_others() -> None:
    order = list(TopologicalSorter({name: imported(name) for name in MODULES}).static_order())
    assert len(order) == len(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_the_package_itself_or_by_a_string(name: str) -> None:
    """Its names come from any room; and what stands in a string no type checker sees."""
    source = MODULES[name].read_text(encoding="utf-8")
    assert "edgeq" not in set(imports(source))
    assert 'import_module("edgeq' not in source


@pytest.mark.parametrize("library", ALLOWED)
def test_heavy_libraries_stay_where_they_are_needed(library: str) -> None:
    allowed = tuple(ALLOWED[library].split())
    users = {
        name
        for name, path in MODULES.items()
        if any(found.split(".")[0] == library for found in imports(path.read_text(encoding="utf-8")))
    }
    assert {
        name for name in users if not any(name == place or name.startswith(f"{place}.") for place in allowed)
    } == set()


def test_planning_loads_no_torch() -> None:
    code = "import sys, edgeq; edgeq.plan; edgeq.CalibrationRecord; print({'torch', 'onnx'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_what_reads_networks_waits_until_there_is_one_to_read() -> None:
    readers = "torchvision", "onnx_ir", "onnxscript", "torch._dynamo", "sympy"
    commands = "from edgeq.commands import bench, calibrate, evaluate, export, sweep"
    code = f"import sys; {commands}; print({set(readers)} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) != "tasks"])
def test_only_tasks_know_what_an_output_means(name: str) -> None:
    """Names of operators, as networks have them, are strings."""
    known = {"softmax", "log_softmax", "kl_div", "cross_entropy", "argmax", "topk"}
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert not known & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
