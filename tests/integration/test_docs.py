"""The pages of docs/: their code runs, their readers read every exported file, their tables are those of the files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pages
import pytest
from conftest import Demo
from native_engine import compiled
from nets import Quantized, quantized
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.artifacts.manifest import VERSION as MANIFEST_VERSION
from edgeq.artifacts.measured import BENCH, EVALUATION, SWEEP
from edgeq.artifacts.record import VERSION as RECORD_VERSION
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import run
from edgeq.exporters.export import export
from edgeq.exporters.onnx import model as onnx_export
from edgeq.numerics.weights import WIDTHS
from edgeq.packed.file import VERSION as PACKED_VERSION
from edgeq.planning.plan import VERSION as PLAN_VERSION
from edgeq.planning.plan import plan
from edgeq.planning.recipe import EFFORTS, Effort

FORMATS = (pages.DOCS / "formats.md").read_text(encoding="utf-8")
WITH_CODE = [
    pytest.param(page, id=page.stem, marks=[compiled] if "edgeq.to_native" in text else [])
    for page in pages.PAGES
    if page != pages.README and "```python" in (text := page.read_text(encoding="utf-8"))
]

Layers = dict[str, tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]]


# --- code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_runs_and_prints_what_the_page_says(page: Path, run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "balanced", Effort(2, 100, 2))
    assert "edgeq" in pages.run(page)


@pytest.fixture
def run_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def readers() -> dict[str, Any]:
    """The functions of formats.md, without the code around them."""
    scope: dict[str, Any] = {"Path": Path}
    for code in pages.blocks(FORMATS, "python"):
        if "\ndef " in code:
            exec(code.partition("\n\n\ntables = ")[0], scope)
    return scope


TABLES = {width.bits: width.trellis.table for width in WIDTHS if width.bits < 8}


@pytest.fixture(params=["residual", "fire", "ragged", "flat"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("scheme", ["8bit", "4bit", "3bit", "2bit", "1.6bit", "1.33bit", "1bit"])
def test_the_readers_read_every_bit(
    name: str, scheme: str, act_bits: int, readers: dict[str, Any], tmp_path: Path
) -> None:
    made = quantized(name, scheme, act_bits)
    export(made.packed, tmp_path / "m.onnx", made.record, made.plan, made.batches)
    graph, packed = readers["read_packed"](tmp_path / "m.safetensors", TABLES)
    assert graph == made.packed.graph.to_dict()
    check(made, packed)
    check(made, readers["read_onnx"](tmp_path / "m.onnx"))


def check(made: Quantized, found: Layers) -> None:
    assert found.keys() == made.layers.keys()
    for name, (levels, scale, bias) in found.items():
        np.testing.assert_array_equal(levels, made.layers[name].weight.levels(), strict=True)
        np.testing.assert_array_equal(scale, made.layers[name].weight.scale, strict=True)
        np.testing.assert_array_equal(bias, made.layers[name].bias, strict=True)


def test_weights_for_groups_of_pixels_as_documented(readers: dict[str, Any], tmp_path: Path) -> None:
    """What the runtime makes of the levels of the first layer, by the formula of the page."""
    made = quantized("residual", "4bit")
    model = onnx_export.to_onnx(made.packed)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    taps, weight = stored["stem.0.taps"], made.layers["stem.0"].weight.dequantize()
    (groups, span, size), (out, depth, rows, _) = taps.shape, weight.shape
    expected = np.zeros((groups * out, size * depth, rows, span), np.float32)
    for (r, g, s), tap in np.ndenumerate(taps):
        if tap >= 0:
            expected[r * out : (r + 1) * out, s * depth : (s + 1) * depth, :, g] = weight[..., tap]
    kept = ("stem.0.weight", onnx.TensorProto.FLOAT, expected.shape)
    model.graph.output.append(onnx.helper.make_tensor_value_info(*kept))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["stem.0.weight"], {"image": made.batches[0]})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("width", [width for width in WIDTHS if width.bits < 8], ids=lambda width: str(width.bits))
def test_digests_of_the_tables(width: Any) -> None:
    code = width.trellis
    listed = "; ".join(", ".join(map(str, step)) for step in code.steps)
    digest = hashlib.sha256(code.table.tobytes()).hexdigest()
    assert f"| `trellis{width.bits}` | {width.per_byte} | {listed} | `{digest}` |" in FORMATS


# --- tables ---------------------------------------------------------------------------------------------------------

NAMED = dict.fromkeys(
    (
        "activations", "layers", "histograms", "in_float", "slow_kernels", "layer_sqnr_db", "outputs", "metrics",
    ),
    "NAME",
) | {
    "versions": "PACKAGE", "scales": "BITS",
}  # fmt: skip
"""Objects whose keys are data."""
SHARED = ("network", "preprocess", "data", "environment")


def section(heading: str) -> str:
    """The text under a heading, up to the next."""
    return re.split(r"^#+ ", FORMATS.partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]


def documented(heading: str) -> list[str]:
    """The fields in the first table of a section."""
    table = section(heading).partition("| field | type | meaning |\n")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)


def fields(value: Any, path: str = "") -> Iterator[str]:
    """The fields of a JSON file as the tables name them, in order; those of shared parts are left to their tables."""
    key = path.rpartition(".")[2]
    if isinstance(value, dict) and key not in SHARED:
        entries = value.items()
        if key in NAMED or path == "layers[].damage":
            entries = {NAMED.get(key, "BITS"): found for found in value.values()}.items()
        for name, found in entries:
            yield from fields(found, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from fields(value[0], f"{path}[]")
    else:
        yield path


def read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return body


def test_fields_of_the_record(demo: Demo) -> None:
    body = read(demo.folder / "calib/mobilenet_v2.calib")
    found = list(fields(body | {"in_float": {"node": "why"}}))
    assert found == documented("Calibration record")
    assert list(body["network"]) == documented("network")
    assert list(body["preprocess"]) == documented("preprocess")
    assert body["data"].keys() < set(documented("data"))


def test_fields_of_the_plan(demo: Demo) -> None:
    body = plan(CalibrationRecord.load(demo.folder / "calib/mobilenet_v2.calib"), "adaptive").to_dict()
    assert ["format", "version", *fields(body)] == documented("Plan")


def test_fields_of_the_manifest(demo: Demo) -> None:
    body = read(demo.folder / "exports/mobilenet_v2-adaptive.json")
    assert list(body["layers"][0]) == [name[9:] for name in documented("Plan") if name.startswith("layers[].")]
    found = list(fields(body | {"layers": [], "in_float": {"node": "why"}, "slow_kernels": {"layer": "why"}}))
    assert [name.replace("layers", "layers[]") for name in found] == documented("Manifest")


def test_fields_of_the_reports(demo: Demo) -> None:
    body = read(demo.folder / "exports/evaluation.json")
    for row in (body["reference"], body["models"][0]):
        row["metrics"] = {"map": 50.0}  # of class scores there are none
    assert list(fields(body)) == documented("Evaluation")
    body = read(demo.folder / "exports/bench.json")
    assert list(fields(body)) == documented("Bench")
    assert list(fields({"found": body["environment"]})) == [f"found.{name}" for name in documented("environment")]


def test_fields_of_a_sweep(finished: Path) -> None:
    body = read(finished / "exports/sweep/sweep.json")
    for row in (body["reference"], body["rows"][0]):
        row["metrics"] = {"map": 50.0}  # of class scores there are none
    assert list(fields(body)) == documented("Sweep")


def test_fields_of_a_run(tmp_path: Path) -> None:
    made = tmp_path / "report.html"
    made.write_text("a page")
    ledger = run.Ledger(tmp_path / "run.json")
    ledger.add(run.Stage(("report",), (), (made,)))
    assert list(fields(read(ledger.path))) == documented("Run")


def test_fields_of_the_packed_network(demo: Demo) -> None:
    with (demo.folder / "exports/mobilenet_v2-4bit.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    head = json.loads(header["__metadata__"]["edgeq"])
    known = {"name", "op", "inputs", "shape"}
    head["graph"]["nodes"] = [{key: value for key, value in head["graph"]["nodes"][0].items() if key in known}]
    assert set(fields(head)) == set(documented("Packed network")) - {"graph", "graph.nodes[]", "layers"}


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("record", RECORD_VERSION), ("plan", PLAN_VERSION), ("packed", PACKED_VERSION),
        ("manifest", MANIFEST_VERSION),
        *((kind.name, kind.version) for kind in (EVALUATION, BENCH, SWEEP)),
        (run.KIND, run.VERSION),
    ],
)  # fmt: skip
def test_versions(kind: str, version: int) -> None:
    assert f"| `edgeq-{kind}` | {version} |\n" in FORMATS
    assert re.findall(rf"`format` \| string \| `edgeq-{kind}` \|\n\| `version` \| integer \| (\d+) \|", FORMATS) == [
        str(version)
    ]


def test_versions_of_onnx() -> None:
    (old, old_ir), (new, new_ir) = onnx_export.IR_VERSIONS.items()
    assert f"opset {old} or {new} | IR {old_ir} or {new_ir} |" in FORMATS
    assert f"Opset {old}, IR version {old_ir}, or opset {new}, IR version {new_ir} where the network" in FORMATS
