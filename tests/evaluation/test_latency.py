"""Bench: hand-computed statistics, the one line of every error, and real sessions of tiny models."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import Heard
from onnx import TensorProto, helper, numpy_helper

from edgeq.artifacts.files import sha256, write_json
from edgeq.artifacts.manifest import VERSION as MANIFEST_VERSION
from edgeq.artifacts.measured import BENCH
from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.evaluation.latency import BenchModel, BenchRow, bench, from_path, instability, summarize
from edgeq.evaluation.memory import Memory
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.packed.file import save_packed
from edgeq.runtimes.jobs import TensorType
from edgeq.runtimes.opening import OPENERS

module = import_module("edgeq.evaluation.latency")  # `edgeq.bench` is the function
SHAPE = (3, 4, 4)
INPUTS = (TensorType(SHAPE),)
NO_MEMORY = Memory(1.0, 0, 0, "none")


def save_model(path: Path, outputs: int = 2, shape: tuple[int | str, ...] = ("n", *SHAPE), inputs: int = 1) -> Path:
    """Save a 4x4 convolution from 3 to `outputs` channels; inputs after the first are unused."""
    weight = np.random.default_rng(0).standard_normal((outputs, *SHAPE)).astype(np.float32)
    names = ["x", "y", "z"][:inputs]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["out"])],
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", outputs, 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def save_manifest(path: Path, **fields: Any) -> None:
    """What those who read a manifest rely on."""
    body = {
        "file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path), "outputs": [], "scheme": "4bit",
        "budget": None, "missed": None, "act_bits": 8, "portable": False, "drop": 0.0, "effort": "fast", "macs": 1,
        "bitops": 123, "network": {}, "preprocess": {}, "layers": [], "in_float": {}, "slow_kernels": {},
        "parity": {"outputs": {}, "nodes_within_one_step": 1.0}, "layer_sqnr_db": {}, "versions": {},
    }  # fmt: skip
    write_json(path.with_suffix(".json"), "manifest", MANIFEST_VERSION, body | fields)


def rows(**samples: list[float]) -> dict[str, BenchRow]:
    """Rows of models named after their scheme, from injected samples."""
    models = [BenchModel(name, Path(name), INPUTS, None, name) for name in samples]
    found = summarize(models, [10] * len(models), list(samples.values()), [NO_MEMORY] * len(models))
    return {row.name: row for row in found}


def test_statistics_by_hand() -> None:
    row = rows(fp32=[5.0, 1.0, 4.0, 2.0, 3.0])["fp32"]
    # Sorted 1..5: the 90th percentile lies at position 0.9 * 4 = 3.6, between 4 and 5.
    assert (row.median_ms, row.min_ms) == (3.0, 1.0)
    assert row.p90_ms == pytest.approx(4.6)
    assert row.samples_ms == (5.0, 1.0, 4.0, 2.0, 3.0)


def test_speedup_is_the_ratio_of_medians_to_the_fp32_row() -> None:
    found = rows(**{"4bit": [4.0, 4.0, 9.0], "fp32": [8.0, 8.0, 1.0], "2bit": [16.0]})
    assert {name: row.speedup for name, row in found.items()} == {"4bit": 2.0, "fp32": 1.0, "2bit": 0.5}


def test_no_speedup_without_fp32() -> None:
    assert [row.speedup for row in rows(**{"4bit": [4.0], "8bit": [4.0]}).values()] == [None, None]


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        pytest.param([10.0] * 8 + [12.0] * 2, None, id="p90 exactly 20 % above"),
        pytest.param(
            [10.0] * 8 + [13.0] * 2,
            "the 90th percentile (13.00 ms) is far above the median (10.00 ms)",
            id="p90 30 % above",
        ),
        pytest.param([10.0] * 5 + [11.0] * 5, None, id="drift of exactly 10 %"),
        pytest.param([10.0] * 5 + [11.5] * 5, "(median 10.00 ms) differs from the second (11.50 ms)", id="drift up"),
        pytest.param([11.0] * 5 + [9.0] * 5, "(median 11.00 ms) differs from the second (9.00 ms)", id="drift down"),
        pytest.param([10.0], None, id="one sample"),
        pytest.param(
            [10.0, 10.0, 11.5, 11.5, 11.5],
            "(median 10.00 ms) differs from the second (11.50 ms)",
            id="odd number: the middle is in both",
        ),
    ],
)
def test_instability(samples: list[float], reason: str | None) -> None:
    found = instability(samples)
    assert rows(fp32=samples)["fp32"].unstable == (reason is not None)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert reason in found
        assert found.endswith("close other programs and run again with more --runs")


def test_unstable_rows_are_warned_about_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_is_unstable(*_: object) -> list[list[float]]:
        return [[1.0] * 10, [1.0] * 5 + [2.0] * 5]

    monkeypatch.setattr(module, "interleaved", one_is_unstable)
    models = [from_path(save_model(tmp_path / name)) for name in ("calm.onnx", "jumpy.onnx")]
    report = bench(models, runs=10)
    assert [row.unstable for row in report.rows] == [False, True]
    assert [text.partition(":")[0] for text in report.warnings] == ["jumpy"]


def test_from_path_takes_scheme_and_bitops_from_the_manifest(tmp_path: Path) -> None:
    path = save_model(tmp_path / "net.onnx")
    assert from_path(path) == BenchModel("net", path, INPUTS, None, None)
    save_manifest(path)
    assert from_path(path) == BenchModel("net", path, INPUTS, 123.0, "4bit")


def test_initializers_that_are_listed_as_inputs_do_not_count(tmp_path: Path) -> None:
    path = save_model(tmp_path / "old.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, *SHAPE]))
    onnx.save(model, path)
    assert from_path(path).inputs == INPUTS


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def text_file(path: Path) -> None:
    path.write_text("not a model")


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def dynamic_size(path: Path) -> None:
    save_model(path, shape=("n", 3, "h", "w"))


def changed(path: Path, change: Callable[[onnx.GraphProto], object]) -> None:
    model = onnx.load(path)
    change(model.graph)
    path.write_bytes(model.SerializeToString())


def unknown_input_type(path: Path) -> None:
    changed(path, lambda graph: setattr(graph.input[0].type.tensor_type, "elem_type", 77))


def huge_input(path: Path) -> None:
    save_model(path, shape=("n", 2**22, 4, 2**62))


def unknown_tensor_type(path: Path) -> None:
    changed(path, lambda graph: setattr(graph.initializer[0], "data_type", 77))


def negative_size(path: Path) -> None:
    changed(path, lambda graph: graph.initializer[0].dims.__setitem__(2, -4))


def name_of_two_lines(path: Path) -> None:
    changed(path, lambda graph: setattr(graph.initializer[0], "name", "a\nb"))


def stale_manifest(path: Path) -> None:
    save_manifest(path, sha256="0" * 64)


def manifest_without_bitops(path: Path) -> None:
    save_manifest(path, bitops=None)


def foreign_json(path: Path) -> None:
    path.with_suffix(".json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "no such file"),
        (truncated, "expected an ONNX file, found something unreadable"),
        (text_file, "expected an ONNX file, found something unreadable"),
        (empty_file, "expected an ONNX file with inputs, found none"),
        (dynamic_size, r"with fixed C, H, W; found \[0, 3, 0, 0\] of FLOAT"),
        (unknown_input_type, r"with fixed C, H, W; found \[0, 3, 4, 4\] of an unknown type$"),
        (
            huge_input,
            r"at most 67108864 numbers an image, found one of \[0, 4194304, 4, 4611686018427387904\]$",
        ),
        (unknown_tensor_type, r"as ONNX knows them, found 'w' of type 77 and size \[2, 3, 4, 4\]$"),
        (negative_size, r"as ONNX knows them, found 'w' of type 1 and size \[2, 3, -4, 4\]$"),
        (name_of_two_lines, r"as ONNX knows them, found 'a\\nb' of type 1 and size \[2, 3, 4, 4\]$"),
        (stale_manifest, "changed since net.json was written; export again"),
        (manifest_without_bitops, "net.json: a damaged manifest, its bitops is missing or no count; export again$"),
        (foreign_json, "expected an edgeq manifest, found no format line"),
    ],
)
def test_from_path_refuses_in_one_line(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = save_model(tmp_path / "net.onnx")
    damage(path)
    with pytest.raises(ArtifactError, match=message) as caught:
        from_path(path)
    assert "\n" not in str(caught.value)
    assert "net." in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "threads: expected at least 1, found 0"),
        ({"batch": 0}, "batch: expected at least 1, found 0"),
        ({"runs": 0}, "runs: expected at least 1, found 0"),
        ({"warmup": -1}, "warmup: expected at least 0, found -1"),
        ({"runtime": "tflite"}, "runtime tflite: expected one of onnxruntime, openvino, torch"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        bench([BenchModel("a", Path("a.onnx"), INPUTS)], **settings)


def test_no_models() -> None:
    with pytest.raises(UnsupportedError, match="expected at least one model, found none"):
        bench([])


def test_pytorch_runs_the_packed_module_and_gives_the_thread_count_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, tuple[int, ...], int, bool]] = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((path.name, tuple(x.shape), torch.get_num_threads(), torch.is_inference_mode_enabled()))
            return x

    monkeypatch.setattr("edgeq.runtimes.torch.load_packed", lambda _: Spy())
    monkeypatch.setattr(module, "memory_in_fresh_process", lambda *_: NO_MEMORY)
    path = save_model(tmp_path / "net.onnx").with_suffix(".safetensors")
    path.write_bytes(b"packed")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        report = bench([from_path(tmp_path / "net.onnx")], "torch-reference", batch=3, runs=4, warmup=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [("net.safetensors", (3, *SHAPE), 1, True)] * (1 + 2 + 4)  # the first one when it is loaded
    assert report.rows[0].bytes == len(b"packed")


def test_models_take_turns_on_the_same_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bytes]] = []

    def fake_open(job: Any) -> Callable[[Any], None]:
        return lambda inputs: calls.append((Path(job.file).stem, inputs[0].tobytes()))

    monkeypatch.setitem(OPENERS, "onnxruntime", fake_open)
    monkeypatch.setattr(module, "memory_in_fresh_process", lambda *_: NO_MEMORY)
    models = [from_path(save_model(tmp_path / f"{name}.onnx")) for name in "abc"]
    heard = Heard()
    report = bench(models, runs=20, warmup=5, progress=heard)
    names = [name for name, _ in calls[3:]]  # the first three are the runs at loading
    rounds = [tuple(names[i : i + 3]) for i in range(0, len(names), 3)]
    assert len(rounds) == 25
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 1, "the order never changed"
    assert len({x for _, x in calls}) == 1
    assert [len(row.samples_ms) for row in report.rows] == [20, 20, 20]
    assert heard.steps == [("measuring", i, 28) for i in range(1, 29)]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_report_of_real_sessions(tmp_path: Path, runtime: Any) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    small, big = save_model(tmp_path / "small.onnx"), save_model(tmp_path / "big.onnx", outputs=200_000)
    save_manifest(small, scheme="fp32")
    report = bench([from_path(small), from_path(big)], runtime, batch=2, runs=3, warmup=1)
    first, second = report.rows
    assert (first.name, first.scheme, first.bitops, first.speedup) == ("small", "fp32", 123.0, 1.0)
    assert (second.scheme, second.bitops) == (None, None)
    assert second.bytes == big.stat().st_size
    assert second.speedup == first.median_ms / second.median_ms
    assert all(len(row.samples_ms) == 3 and min(row.samples_ms) > 0 for row in report.rows)
    weights = 200_000 * 3 * 4 * 4 * 4
    assert second.memory.peak_rss_bytes - first.memory.peak_rss_bytes > 0.8 * weights
    assert second.memory.uss_bytes - first.memory.uss_bytes > 0.8 * weights
    assert first.memory.load_ms > 0
    path = tmp_path / "bench.json"
    write_json(path, BENCH.name, BENCH.version, report.to_dict())
    body = json.loads(path.read_text())
    assert (body["format"], body["runtime"], body["batch"]) == ("edgeq-bench", runtime, 2)
    assert body["rows"][1]["memory"]["peak_method"] == second.memory.peak_method
    assert body["environment"]["versions"][runtime]


def test_torch_in_real_processes(tmp_path: Path) -> None:
    attrs = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    for name, outputs in (("small", 2), ("big", 200_000)):
        layer = torch.nn.Conv2d(3, outputs, 4)
        graph = Graph.of_image(SHAPE, (Node("conv", "conv2d", ("input",), (outputs, 1, 1), attrs),))
        save_packed(Network(graph, {"conv": layer}), save_model(tmp_path / f"{name}.onnx").with_suffix(".safetensors"))
    small, big = bench([from_path(tmp_path / f"{name}.onnx") for name in ("small", "big")], "torch", runs=2).rows
    weights = 200_000 * 3 * 4 * 4 * 4
    assert big.bytes > weights
    assert big.memory.peak_rss_bytes - small.memory.peak_rss_bytes > 0.8 * weights
    assert big.memory.uss_bytes - small.memory.uss_bytes > 0.8 * weights
