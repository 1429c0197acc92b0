"""The command line: its contract, its output, and one clear line for everything that can go wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import click
import numpy as np
import onnx
import pytest
import torch
from commandline import ADAPTIVE, FP32, RECORD, Capture, environment, fail, picture, run, tree
from conftest import CLASSES, SAMPLES, Demo, Load
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.models._api import WeightsEnum

from edgeq.artifacts.files import sha256
from edgeq.artifacts.record import VERSION, CalibrationRecord
from edgeq.cli import COMMANDS, cli, main
from edgeq.commands import judging
from edgeq.commands.demo import COMMANDS as DEMO
from edgeq.data.preprocess import EMBEDDED
from edgeq.frontends import sources
from edgeq.frontends.sources import Source
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.ops.registry import OPS
from edgeq.native.library import is_compiled
from edgeq.planning.plan import POSITION_RULE


def edited(path: Path, **changes: object) -> Path:
    """Change fields of a JSON artifact."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


# --- the contract ---------------------------------------------------------------------------------------------------


def command_of(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "text"), COMMANDS.items())
def test_the_list_of_commands_has_the_first_line_of_their_help(name: str, text: str) -> None:
    assert str(command_of(name).help).partition("\n")[0] == text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_an_example(name: str, capsys: Capture) -> None:
    assert f"Example:\n    edgeq {name}" in run(capsys, name, "--help")


def test_the_verbs() -> None:
    assert sorted(COMMANDS) == [
        "bench",
        "calibrate",
        "demo",
        "evaluate",
        "export",
        "inspect",
        "plan",
        "plot",
        "report",
        "run",
        "sweep",
    ]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_verb_can_print_json(name: str) -> None:
    assert "--json" in [option for parameter in command_of(name).params for option in parameter.opts]


@pytest.mark.parametrize(
    "arguments",
    [
        ["calib"],
        ["plan"],
        ["plan", "--policy", "magic"],
        ["calibrate", "--observer", "median"],
        ["inspect"],
        ["bench", "--runs", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: edgeq" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "--help"],
        ["plan", "--record", RECORD, "--scheme", "adaptive"],
        ["plan", "--record", RECORD, "--scheme", "adaptive", "--budget", "drop=1", "--figure", "figure.png"],
        ["inspect", RECORD],
        ["inspect", ADAPTIVE.with_suffix(".json")],
        ["report"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_without_torch(arguments: list[str | Path], made: Path) -> None:
    code = "import sys; from edgeq.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert found.stdout.endswith("0 False\n")
    assert found.stderr == ""


def test_a_closed_pipe_is_quiet(made: Path) -> None:
    command = [sys.executable, "-m", "edgeq", "plan", "--record", str(RECORD), "--scheme", "8bit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""


# --- demo, and with it every command --------------------------------------------------------------------------------


def test_demo_runs_and_announces_every_command(demo: Demo) -> None:
    assert demo.code == 0, demo.err
    announced = [line.removeprefix("$ edgeq ") for line in demo.err.splitlines() if line.startswith("$ ")]
    assert announced == [" ".join(command) for command in DEMO]


def test_demo_leaves_artifacts_and_nothing_else(demo: Demo) -> None:
    schemes = ("2bit", "4bit", "8bit", "adaptive", "fp32")
    exports = {
        f"exports/mobilenet_v2-{scheme}.{kind}" for scheme in schemes for kind in ("onnx", "json", "safetensors")
    }
    figures = {f"exports/{name}.png" for name in ("bitops", "bits_by_position", "size_latency", "accuracy_size")}
    reports = {
        f"exports/{name}" for name in ("evaluation.json", "bench.json", "report.html", "mobilenet_v2-adaptive.html")
    }
    found = {path.relative_to(demo.folder).as_posix() for path in demo.folder.rglob("*") if path.is_file()}
    assert found == exports | figures | reports | {RECORD.as_posix()}


def test_tables_fit_100_columns(demo: Demo) -> None:
    tables = [line for line in demo.out.splitlines() if line.startswith((" ", "─"))]
    assert len(tables) > 20
    assert max(map(len, tables)) <= 100


def test_plan_table(made: Path, capsys: Capture) -> None:
    out = run(capsys, "plan", "--scheme", "4bit")
    (row,) = [line.split() for line in out.splitlines() if "pointwise" in line]
    bit_ops = 16 * 8 * 12 * 12 * 4 * 8
    sensitivity = json.loads(RECORD.read_text())["layers"][2]["damage"]
    costs = [str(16 * 8 // 2 + 16 * 4), f"{bit_ops / 1e6:.1f}", f"{sensitivity['4']:.1e}"]
    row[5] = row[5].removeprefix("*")
    assert row == ["2", "pointwise", "4", *costs, *(f"{sensitivity[b]:.0e}" for b in "842"), "all", "at", "4", "bits"]


def test_plan_marks_the_worst_layers(made: Path, capsys: Capture) -> None:
    layers = json.loads(RECORD.read_text())["layers"]
    sensitivities = {layer["name"]: layer["damage"] for layer in layers}
    sensitivities["depthwise"]["2"] = 2 * sum(sensitivity["2"] for sensitivity in sensitivities.values())
    edited(RECORD, layers=layers)
    marked = [line for line in run(capsys, "plan", "--scheme", "2bit").splitlines() if re.search(r"\*\d", line)]
    assert [line.split()[1] for line in marked] == ["depthwise"]


def test_plan_by_position_shows_its_rule(made: Path, capsys: Capture) -> None:
    assert f"position: {POSITION_RULE}" in run(capsys, "plan", "--scheme", "adaptive", "--policy", "position")


def test_plan_figure(made: Path, capsys: Capture) -> None:
    out = run(capsys, "plan", "--scheme", "adaptive")
    assert run(capsys, "plan", "--scheme", "adaptive", "--figure", "figure.png") == out
    with Image.open("figure.png") as image:
        assert image.size == (1920, 1080)


def test_plan_bytes_of_a_uniform_scheme(made: Path, capsys: Capture) -> None:
    body = json.loads(run(capsys, "plan", "--scheme", "4bit", "--json"))
    # Two outputs share a byte for each input: of the 43 classes the last byte holds one. 4 bytes are scale and bias.
    rows, fan_ins = (4, 4, 8, 22), (27, 9, 8, 16)
    assert [layer["bytes"] for layer in body["layers"]] == [
        row * fan_in + 4 * channels for row, fan_in, channels in zip(rows, fan_ins, (8, 8, 16, CLASSES), strict=True)
    ]
    assert body["format"] == "edgeq-plan"
    assert body["bytes"] == sum(layer["bytes"] for layer in body["layers"])


def test_act_bits_32(made: Path, capsys: Capture) -> None:
    run(capsys, "export", "--scheme", "4bit", "--act-bits", "32")
    manifest = json.loads(Path("exports/mobilenet_v2-4bit-a32.json").read_text())
    eight = json.loads(Path("exports/mobilenet_v2-4bit.json").read_text())
    assert manifest["bitops"] == 4 * eight["bitops"]
    assert manifest["act_bits"] == 32


def test_calibrate_json_is_the_file(tiny: Path, capsys: Capture) -> None:
    out = run(capsys, "calibrate", "--json")
    assert out == RECORD.read_text()
    assert json.loads(out)["data"] == {"source": "embedded", "split": "calib", "samples": SAMPLES}


def test_export_json_is_the_manifest(made: Path, capsys: Capture) -> None:
    out = run(capsys, "export", "--scheme", "2bit", "--json")
    assert out == Path("exports/mobilenet_v2-2bit.json").read_text()
    assert json.loads(out)["parity"]["images"] == SAMPLES


def test_same_seed_same_bytes(made: Path, capsys: Capture) -> None:
    before = {path: path.read_bytes() for path in (RECORD, ADAPTIVE, ADAPTIVE.with_suffix(".safetensors"))}
    run(capsys, "calibrate")
    run(capsys, "export", "--scheme", "adaptive")
    assert {path: path.read_bytes() for path in before} == before


def test_export_of_c_alone_or_beside_the_onnx_file(made: Path, capsys: Capture) -> None:
    out = run(capsys, "export", "--scheme", "4bit", "--format", "c", "--output", "c/net.onnx")
    sizes, compared = out.splitlines()
    assert re.search(r"^c/net: net_run in C99, \d+ kB of weights, \d+ kB of memory while it runs$", sizes)
    known = "the same bits as in ONNX Runtime: 100.00% of the logits"
    assert compared == (known if is_compiled() else "make check compares it with ONNX Runtime")
    assert [path.name for path in Path("c").iterdir()] == ["net"]
    assert run(capsys, "export", "--scheme", "4bit", "--format", "c", "--output", "c/net") == out
    about = run(capsys, "export", "--scheme", "4bit", "--format", "c", "--output", "c/net.onnx", "--json")
    assert about == Path("c/net/about.json").read_text()
    for path in ("c/net", "c/net/about.json"):
        assert run(capsys, "inspect", path) == out
        assert run(capsys, "inspect", path, "--json") == about
    run(capsys, "export", "--scheme", "4bit", "--format", "c", "--format", "onnx", "--output", "c/net.onnx")
    assert {path.name for path in Path("c").iterdir()} == {"net", "net.onnx", "net.json", "net.safetensors"}


def test_export_of_c_with_pixels_and_a_file_of_weights(made: Path, capsys: Capture) -> None:
    options = ["--format", "c", "--input", "uint8", "--weights-as", "file"]
    run(capsys, "export", "--scheme", "8bit", *options, "--output", "c/net.onnx")
    assert "const uint8_t *image, float *logits, void *arena, const void *weights" in Path("c/net/net.h").read_text()
    assert Path("c/net/net.bin").stat().st_size == json.loads(Path("c/net/about.json").read_text())["weights"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "c", "--ram", "1kB"], r"layer \S+: expected at most 1000 bytes of RAM, found \d+ in use there"),
        (["--format", "c", "--ram", "much"], "--ram much: expected bytes, as in 300kB"),
        (["--ram", "1MB"], "--weights-as, --arith, --ram and --run-threads: expected --format c, found none"),
        (["--weights-as", "file"], "--weights-as, --arith, --ram and --run-threads: expected --format c, found none"),
        (["--format", "c", "--act-bits", "32"], "--format c: expected weights and activations in integers, found"),
        (["--format", "c", "--output", "."], r"^error: \.: expected the name of a folder to make$"),
        (["--output", "."], "expected a name that ends in .onnx"),
        (["--format", "c", "--output", "a" * 300], "File name too long"),
    ],
)
def test_export_of_c_refuses_before_it_works(made: Path, capsys: Capture, options: list[str], message: str) -> None:
    assert re.search(message, fail(capsys, "export", "--scheme", "4bit", *options))


def test_export_says_what_it_costs_and_its_parity(made: Path, capsys: Capture) -> None:
    first, second, third = run(capsys, "export", "--scheme", "fp32").splitlines()
    floats = 4 * (3 * 8 * 9 + 8 * 9 + 8 * 16 + 16 * CLASSES + 8 + 8 + 16 + CLASSES)
    assert first.startswith(f"{FP32}: {FP32.stat().st_size / 1e6:.2f} MB (float weights: {floats / 1e6:.2f} MB, ")
    assert second == "parity with PyTorch, node by node: at least 100.00% of values within 1 step"
    assert third == "parity of the logits on 16 images: 100.0% within 1 step, top-1 equal on 100.0% (100.0% optimized)"


def test_export_calibrates_first_where_there_is_no_record(tiny: Path, capsys: Capture) -> None:
    assert main(["export", "--scheme", "8bit"]) == 0
    assert "no calib/mobilenet_v2.calib yet, so calibrating first" in capsys.readouterr().err
    assert RECORD.exists()


def test_record_works_from_another_folder(tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        picture(Path(f"photos/{i}.png"), seed=i)
    Path("mine.pt").touch()
    run(capsys, "calibrate", "--weights", "mine.pt", "--data", "photos")
    body = json.loads(RECORD.read_text())
    assert body["network"]["weights"] == str(tiny / "mine.pt")
    assert body["data"]["root"] == str(tiny / "photos")
    elsewhere = tiny / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run(capsys, "export", "--scheme", "8bit", "--record", tiny / RECORD)
    assert Path("exports/mobilenet_v2-8bit.onnx").exists()


def test_evaluation_report(demo: Demo) -> None:
    body = json.loads((demo.folder / "exports/evaluation.json").read_text())
    assert body["images"] == CLASSES
    assert body["environment"]["cpu"]
    rows = {row["name"]: row for row in body["models"]}
    assert set(rows) == {f"mobilenet_v2-{scheme}" for scheme in ("2bit", "4bit", "8bit", "adaptive", "fp32")}
    assert rows["mobilenet_v2-fp32"]["agreement"] == 100
    assert rows["mobilenet_v2-fp32"]["predictions"] == body["reference"]["predictions"]
    for name, row in rows.items():
        assert row["bytes"] == (demo.folder / f"exports/{name}.onnx").stat().st_size
        assert name == f"mobilenet_v2-{row['scheme']}"


def test_evaluate_on_a_folder(made: Path, capsys: Capture) -> None:
    for label in (0, 7):
        for i in range(2):
            picture(Path(f"photos/{label}/{i}.png"), seed=label + i)
    body = json.loads(run(capsys, "evaluate", ADAPTIVE, "--data", "photos", "--json"))
    assert body == json.loads(Path("exports/evaluation.json").read_text())
    assert body["labels"] == [0, 0, 7, 7]
    assert [row["scheme"] for row in body["models"]] == ["adaptive"]


def test_a_file_that_takes_pixels(made: Path, capsys: Capture) -> None:
    manifest = json.loads(run(capsys, "export", "--scheme", "8bit", "--input", "uint8", "--json"))
    path = Path("exports/mobilenet_v2-8bit-uint8.onnx")
    assert (manifest["file"], manifest["input"]) == (path.name, "uint8")
    assert manifest["preprocess"] | {"mean": [0, 0, 0], "std": [1, 1, 1]} == manifest["preprocess"]
    run(capsys, "export", "--scheme", "8bit")
    names = [path, Path("exports/mobilenet_v2-8bit.onnx")]
    scores = json.loads(run(capsys, "evaluate", *names, "--json"))["models"]
    assert min(score["agreement"] for score in scores) > 95  # the images are the same, and seen as such
    for runtime in ("onnxruntime", "torch-reference"):
        body = json.loads(run(capsys, "bench", path, FP32, "--runtime", runtime, "--runs", "2", "--json"))
        assert [row["name"] for row in body["rows"]] == [path.stem, FP32.stem]


def test_bench_exports_a_missing_baseline(made: Path, capsys: Capture) -> None:
    FP32.unlink()
    capsys.readouterr()
    assert main(["bench", str(ADAPTIVE), "--runs", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    body = json.loads(out)
    assert [row["scheme"] for row in body["rows"]] == ["adaptive", "fp32"]
    assert body["rows"][0]["speedup"] == body["rows"][1]["median_ms"] / body["rows"][0]["median_ms"]
    assert f"no fp32 baseline yet, so exporting {FP32} first" in err
    assert out == Path("exports/bench.json").read_text()


def test_bench_without_a_baseline_says_how_to_get_one(made: Path, capsys: Capture) -> None:
    FP32.unlink()
    RECORD.unlink()
    capsys.readouterr()
    assert main(["bench", str(ADAPTIVE), "--runs", "2"]) == 0
    out, err = capsys.readouterr()
    assert "warning: no fp32 baseline, so no ratios to it" in err
    assert "edgeq export --scheme fp32" in err
    assert "mobilenet_v2-adaptive" in out


def test_plot_says_what_is_missing(made: Path, capsys: Capture) -> None:
    Path("exports/bench.json").unlink()
    Path("exports/evaluation.json").unlink()
    capsys.readouterr()
    assert main(["plot", "--output", "figures", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["files"] == ["figures/bitops.png", "figures/bits_by_position.png"]
    assert "size_latency.png left out: no exports/bench.json; `edgeq bench --device cpu` makes it" in err
    assert "accuracy_size.png left out: no exports/evaluation.json; `edgeq evaluate` makes it" in err


# --- budgets --------------------------------------------------------------------------------------------------------


def smallest_size(capsys: Capture) -> int:
    """The least that a plan predicts for a file."""
    assert main(["plan", "--scheme", "adaptive", "--budget", "size=1B", "--json"]) == 1
    size = json.loads(capsys.readouterr().out)["file_bytes"]
    assert isinstance(size, int)
    return size


def test_export_within_a_size(made: Path, capsys: Capture) -> None:
    budget = f"size={smallest_size(capsys)}B"
    manifest = json.loads(run(capsys, "export", "--scheme", "adaptive", "--budget", budget, "--json"))
    path = Path(f"exports/mobilenet_v2-adaptive-{budget.replace('=', '-')}.onnx")
    assert manifest == json.loads(path.with_suffix(".json").read_text())
    assert (manifest["budget"], manifest["policy"], manifest["missed"]) == (budget, "mix", None)
    assert path.stat().st_size == manifest["bytes"] <= int(budget.removeprefix("size=").removesuffix("B"))


def test_names_of_other_exports(made: Path, capsys: Capture) -> None:
    run(capsys, "export", "--scheme", "adaptive", "--policy", "position")
    run(capsys, "export", "--scheme", "adaptive", "--budget", "bitops=0.5G", "--act-bits", "32")
    names = {path.name for path in Path("exports").glob("*.onnx")}
    assert {"mobilenet_v2-adaptive-position.onnx", "mobilenet_v2-adaptive-bitops-0.5G-a32.onnx"} <= names


@pytest.mark.parametrize("form", ["--json", "text"])
def test_plan_of_a_budget_that_cannot_be_met(form: str, made: Path, capsys: Capture) -> None:
    flags = [form] * (form == "--json")
    assert main(["plan", "--scheme", "adaptive", "--budget", "size=1.5kB", *flags]) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r"error: budget size=1\.5kB: expected a file of at most 1,500 bytes, the least possible is [\d,]+; "
        "allow a little more than that\n",
        err,
    )
    if form == "--json":
        assert f"error: {json.loads(out)['missed']}\n" == err
    else:
        assert "pointwise" in out


@pytest.mark.parametrize("output", [None, "mine.onnx"])
def test_export_of_a_budget_that_cannot_be_met(output: str | None, made: Path, capsys: Capture) -> None:
    flags = ["--output", output] if output else []
    before = set(tree(made))
    assert main(["export", "--scheme", "adaptive", "--budget", "bitops=0.01M", "--json", *flags]) == 1
    out, err = capsys.readouterr()
    manifest = json.loads(out)
    path = "mine-missed.onnx" if output else "exports/mobilenet_v2-adaptive-bitops-0.01M-missed.onnx"
    assert err == f"error: {manifest['missed']}; {path} comes closest\n"
    assert {layer["bits"] for layer in manifest["layers"]} == {1}
    stem = path.removesuffix(".onnx")
    assert set(tree(made)) - before == {str(made / f"{stem}{end}") for end in (".onnx", ".json", ".safetensors")}


def test_a_file_that_turns_out_larger_than_planned_has_missed(made: Path, capsys: Capture) -> None:
    body = json.loads(RECORD.read_text())
    size = smallest_size(capsys)
    edited(RECORD, graph_bytes=0)  # the plan takes the file for smaller than it will be
    budget = f"size={size - body['graph_bytes']}B"
    assert main(["export", "--scheme", "adaptive", "--budget", budget, "--output", "mine.onnx"]) == 1
    found = Path("mine-missed.onnx").stat().st_size
    assert (
        f"the least possible is {found:,}; allow a little more than that; mine-missed.onnx" in capsys.readouterr().err
    )
    assert not Path("mine.onnx").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scheme", "adaptive", "--budget", "size=nanMB"], "budget 'size=nanMB': expected size=1.3MB"),
        (["--scheme", "4bit", "--budget", "drop=1"], "expected scheme adaptive with policy mix, found scheme 4bit"),
        (["--scheme", "4bit", "--policy", "position"], "policy position: expected scheme adaptive, found 4bit"),
        (["--scheme", "8bit", "--portable", "--act-bits", "32"], "expected weights and activations in integers"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "export"])
def test_options_of_a_plan_that_make_no_sense(
    verb: str, flags: list[str], message: str, tiny: Path, capsys: Capture
) -> None:
    assert message in fail(capsys, verb, *flags)


@pytest.mark.parametrize("scheme", ["8bit", "adaptive"])
def test_portable_files_have_no_large_weights(scheme: str, made: Path, capsys: Capture) -> None:
    """Adaptive ones have codebooks, too. That 63 occurs says that the range is used, as 127 is without the option."""

    def largest(path: Path) -> int:
        tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
        return max(int(np.abs(tensor.astype(int)).max()) for tensor in tensors if tensor.dtype == np.int8)

    plain = json.loads(run(capsys, "export", "--scheme", scheme, "--json"))
    portable = json.loads(run(capsys, "export", "--scheme", scheme, "--portable", "--json"))
    assert (plain["portable"], portable["portable"]) == (False, True)
    assert portable["file"] == f"mobilenet_v2-{scheme}-portable.onnx"
    assert [largest(Path("exports") / manifest["file"]) for manifest in (plain, portable)] == [127, 63]
    assert portable["damage"] > plain["damage"]


@pytest.mark.parametrize("flags", [["--scheme", "4bit"], ["--scheme", "8bit", "--portable"]], ids=" ".join)
def test_files_that_every_cpu_computes_alike_need_no_warning(flags: list[str], made: Path, capsys: Capture) -> None:
    assert main(["export", *flags]) == 0
    assert "VNNI" not in capsys.readouterr().err


@pytest.mark.parametrize("overflows", [True, False], ids=["overflows", "does not"])
def test_cpus_that_overflow_are_named(
    overflows: bool, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On export always, as the file may go elsewhere; on evaluation, where it runs on one of them."""
    monkeypatch.setattr(judging, "int8_overflows", lambda: overflows)
    assert main(["export", "--scheme", "8bit"]) == 0
    expected = "warning: x86 CPUs without VNNI overflow on 8-bit weights beyond 63"
    assert expected in capsys.readouterr().err
    assert main(["evaluate", "exports/mobilenet_v2-8bit.onnx", "exports/mobilenet_v2-4bit.onnx"]) == 0
    way_out = "better on others, with --runtime native or --reduce-range"
    found = f"{expected}, as this one; {way_out}: mobilenet_v2-8bit.onnx"
    assert (found in capsys.readouterr().err) == overflows


# --- images and files of others -------------------------------------------------------------------------------------


def of_another_tool(path: Path, source: Path = ADAPTIVE) -> Path:
    """An exported file as another tool would leave it: without a manifest, its weights in a second file."""
    path.parent.mkdir(exist_ok=True)
    onnx.save(onnx.load(source), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=100)
    return path


def test_the_network_of_another_tools_file_is_not_guessed(made: Path, capsys: Capture) -> None:
    other = of_another_tool(Path("others/net.onnx"))
    RECORD.unlink()
    message = fail(capsys, "evaluate", str(other))
    assert "expected a manifest beside it or the record of the float network" in message
    assert not RECORD.exists()


def test_evaluate_a_file_of_another_tool(made: Path, capsys: Capture) -> None:
    """Alone, with the network of the record; beside exported files, with theirs."""
    other = of_another_tool(Path("others/net.onnx"))
    other.with_suffix(".json").write_text('{"epochs": 90}')
    (alone,) = json.loads(run(capsys, "evaluate", other, "--record", RECORD, "--json"))["models"]
    first, second = json.loads(run(capsys, "evaluate", ADAPTIVE, other, "--json"))["models"]
    assert alone == second == {**first, "name": "net", "scheme": None, "bytes": alone["bytes"]}
    assert alone["bytes"] == other.stat().st_size + Path("others/net.onnx.data").stat().st_size
    assert " net " in run(capsys, "evaluate", other)
    assert run(capsys, "plot") == "".join(f"exports/{name}.png\n" for name in FIGURES)


FIGURES = ("bitops", "bits_by_position", "size_latency", "accuracy_size")


def test_evaluate_a_file_of_another_tool_that_takes_pixels(made: Path, capsys: Capture) -> None:
    run(capsys, "export", "--scheme", "8bit", "--input", "uint8")
    other = of_another_tool(Path("others/net.onnx"), Path("exports/mobilenet_v2-8bit-uint8.onnx"))
    rows = json.loads(run(capsys, "evaluate", "exports/mobilenet_v2-8bit-uint8.onnx", other, "--json"))["models"]
    assert rows[0]["predictions"] == rows[1]["predictions"]


def test_evaluate_a_file_of_another_number_of_classes(made: Path, capsys: Capture) -> None:
    model = onnx.load(FP32)
    head = model.graph.output[0].name
    last = next(node for node in model.graph.node if head in node.output)
    last.output[0] = "all"
    steps = [onnx.helper.make_node("Concat", ["all", "all"], [head], axis=1)]
    model.graph.node.extend(steps)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2 * CLASSES
    onnx.save(model, "other.onnx")
    assert f"other: expected logits [8, {CLASSES}], found [8, {2 * CLASSES}]" in fail(capsys, "evaluate", "other.onnx")


def test_a_damaged_manifest_is_no_other_tools_file(made: Path, capsys: Capture) -> None:
    manifest = ADAPTIVE.with_suffix(".json")
    manifest.write_bytes(manifest.read_bytes()[:1000])
    assert f"{manifest}: expected an edgeq manifest (JSON), found something unread" in fail(
        capsys, "evaluate", ADAPTIVE
    )


def test_evaluate_with_the_record_of_another_network(made: Path, capsys: Capture) -> None:
    network = json.loads(RECORD.read_text())["network"]
    edited(RECORD, network={**network, "sha256": "6" * 64})
    message = f"{ADAPTIVE}: expected a model of the same network as {RECORD}, found one of other weights"
    assert message in fail(capsys, "evaluate", ADAPTIVE, "--record", RECORD)


def test_a_file_whose_other_half_is_missing(made: Path, capsys: Capture) -> None:
    other = of_another_tool(Path("others/net.onnx"))
    Path("others/net.onnx.data").unlink()
    for command in (["evaluate"], ["bench", "--runs", "1"], ["inspect"]):
        message = fail(capsys, *command, other)
        assert f"{other}: expected the file net.onnx.data beside it, which holds " in message


def numbered_photos(count: int = CLASSES) -> None:
    for label in range(count):
        picture(Path(f"photos/{label}/a.png"), seed=label)


@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_class_order(command: str, made: Path, capsys: Capture) -> None:
    numbered_photos()
    capsys.readouterr()
    options = ["--budgets", "size=1MB"] if command == "sweep" else [ADAPTIVE]
    said = []
    for order in ([], ["--class-order", "index"], ["--class-order", "name"]):
        assert main([command, *map(str, options), "--data", "photos", *order]) == 0
        said.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("photos: ")])
    assert said[0] == said[1]
    assert said[0][0].startswith("photos: the names of class folders are read as class indices (10 is class 10), where")
    assert said[2][0].startswith("photos: class folders are numbered in the order of their names as text, as torchvis")
    assert [len(lines) for lines in said] == [1, 1, 1]


def test_class_order_of_the_labels(made: Path, capsys: Capture) -> None:
    numbered_photos()
    names = sorted(map(str, range(CLASSES)))
    labels = json.loads(run(capsys, "evaluate", ADAPTIVE, "--data", "photos", "--json"))["labels"]
    assert labels == list(map(int, names))
    options = ["--data", "photos", "--class-order", "name", "--json"]
    assert json.loads(run(capsys, "evaluate", ADAPTIVE, *options))["labels"] == list(range(CLASSES))


def test_a_network_no_better_than_guessing(made: Path, capsys: Capture) -> None:
    """As one that was never trained; said once, and for a sweep, too."""
    for command in (["evaluate"], ["sweep", "--budgets", "size=1MB"]):
        capsys.readouterr()
        assert main(command) == 0
        err = capsys.readouterr().err
        assert err.count("warning: embedded test images: the float network's top-1 is ") == 1
        assert f"not clearly better than guessing among {CLASSES} classes; the usual causes are" in err


def test_class_order_of_embedded_images(made: Path, capsys: Capture) -> None:
    message = "class order name: expected a folder of class folders, found embedded images"
    assert message in fail(capsys, "evaluate", "--class-order", "name")


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_what_is_no_image_is_counted(command: str, made: Path, capsys: Capture) -> None:
    numbered_photos(10)
    for name in ("photos/0/a.xml", "photos/1/a.xml", "photos/classes.txt"):
        Path(name).write_text("x")
    capsys.readouterr()
    assert main([command, "--data", "photos"]) == 0
    assert capsys.readouterr().err.count("photos: 3 left out, no images: 2 .xml, 1 .txt\n") == 1


# --- inspect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [RECORD, ADAPTIVE.with_suffix(".json")], ids=["record", "manifest"])
def test_inspect_json_is_the_file(path: Path, made: Path, capsys: Capture) -> None:
    assert run(capsys, "inspect", path, "--json") == path.read_text()


def test_inspect_agrees_on_all_forms_of_an_export(made: Path, capsys: Capture) -> None:
    onnx = json.loads(run(capsys, "inspect", ADAPTIVE, "--json"))
    packed = json.loads(run(capsys, "inspect", ADAPTIVE.with_suffix(".safetensors"), "--json"))
    keys = ("name", "position", "shape", "bits", "bytes", "bitops", "scales")
    assert [[layer[key] for key in keys] for layer in onnx["layers"]] == [
        [layer[key] for key in keys] for layer in packed["layers"]
    ]
    assert onnx["bitops"] == packed["bitops"]


@pytest.mark.parametrize("suffix", [".onnx", ".json", ".safetensors"])
def test_inspect_shows_every_layer(suffix: str, made: Path, capsys: Capture) -> None:
    out = run(capsys, "inspect", ADAPTIVE.with_suffix(suffix))
    assert [name for name in ("stem", "depthwise", "pointwise", "classifier") if f" {name} " in out] == [
        "stem", "depthwise", "pointwise", "classifier",
    ]  # fmt: skip
    assert out.splitlines()[-1].endswith("G BitOps")


def test_inspect_shows_scales_and_sensitivity_of_a_record(made: Path, capsys: Capture) -> None:
    out = run(capsys, "inspect", RECORD)
    layer = json.loads(RECORD.read_text())["layers"][3]
    (row,) = [line.split() for line in out.splitlines() if " classifier " in line]
    sensitivity = [f"{layer['damage'][bits]:.0e}" for bits in "8421"]
    scales = layer["scales"]["8"]
    assert row[-5:] == [*sensitivity, f"{min(scales):.0e}..{max(scales):.0e}"]
    assert f"{RECORD}: a calibration record, scales of " in out


def test_inspect_an_onnx_file_without_a_manifest(made: Path, capsys: Capture) -> None:
    FP32.with_suffix(".json").unlink()
    body = json.loads(run(capsys, "inspect", FP32, "--json"))
    sizes = {tensor["name"]: tensor["bytes"] for tensor in body["tensors"]}
    assert sizes["stem.weight"] == 4 * 8 * 3 * 9
    assert "stem.weight" in run(capsys, "inspect", FP32)


def test_names_in_brackets_are_no_markup(made: Path, capsys: Capture) -> None:
    FP32.with_suffix(".json").unlink()
    model = onnx.load(FP32)
    model.graph.initializer[0].name = "[/red] :cat:"
    FP32.write_bytes(model.SerializeToString())
    assert "[/red] :cat:" in run(capsys, "inspect", FP32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.float32("nan").tobytes() * 8, "stem.scale: expected finite scales, found [nan, nan]; export again"),
        (b"", "stem.scale: expected scales, found "),
    ],
    ids=["NaN", "none"],
)
def test_inspect_damaged_scales(content: bytes, message: str, made: Path, capsys: Capture) -> None:
    model = onnx.load(ADAPTIVE)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "stem.scale")
    scale.data_type, scale.raw_data = onnx.TensorProto.FLOAT, content
    ADAPTIVE.write_bytes(model.SerializeToString())
    edited(ADAPTIVE.with_suffix(".json"), sha256=sha256(ADAPTIVE))
    assert f"{ADAPTIVE}: {message}" in fail(capsys, "inspect", ADAPTIVE)


def test_inspect_reads_no_other_file(made: Path, capsys: Capture) -> None:
    Path("secret").write_bytes(bytes(64))
    model = onnx.load(ADAPTIVE)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "stem.scale")
    scale.ClearField("raw_data")
    scale.data_location = onnx.TensorProto.EXTERNAL
    scale.external_data.add(key="location", value="secret")
    ADAPTIVE.write_bytes(model.SerializeToString())
    edited(ADAPTIVE.with_suffix(".json"), sha256=sha256(ADAPTIVE))
    message = f"{ADAPTIVE}: stem.scale: expected scales in the file, found them in another; export again\n"
    assert message in fail(capsys, "inspect", ADAPTIVE)


def test_inspect_another_file(made: Path, capsys: Capture) -> None:
    forms = "a record, a manifest, an .onnx or a .safetensors file, a folder of C, or a page for browsers"
    expected = f"expected {forms}, found"
    assert f"{expected} bench" in fail(capsys, "inspect", "exports/bench.json")
    assert f"{expected} another file" in fail(capsys, "inspect", "exports/bitops.png")
    assert "nowhere: no such file" in fail(capsys, "inspect", "nowhere")
    assert "exports: found another folder; expected " in fail(capsys, "inspect", "exports")


# --- bad input: images ----------------------------------------------------------------------------------------------


def test_missing_folder(tiny: Path, capsys: Capture) -> None:
    assert "nowhere: no such folder" in fail(capsys, "calibrate", "--data", "nowhere")


def test_empty_folder(tiny: Path, capsys: Capture) -> None:
    Path("empty").mkdir()
    assert "empty: expected images" in fail(capsys, "calibrate", "--data", "empty")


def text_named_jpg(path: Path) -> None:
    path.write_text("not an image")


def truncated_jpg(path: Path) -> None:
    picture(path)
    path.write_bytes(path.read_bytes()[:600])


@pytest.mark.parametrize("broken", [text_named_jpg, truncated_jpg])
def test_no_readable_image(broken: Callable[[Path], None], tiny: Path, capsys: Capture) -> None:
    Path("photos").mkdir()
    broken(Path("photos/a.jpg"))
    assert "1 of the first 1 images cannot be read (a.jpg" in fail(
        capsys, "calibrate", "--data", "photos", "--samples", "1"
    )


def test_unreadable_images_are_named_and_counted(tiny: Path, capsys: Capture) -> None:
    for i in range(100):
        picture(Path(f"photos/{i}.png"))
    text_named_jpg(Path("photos/notes.jpg"))
    assert main(["calibrate", "--data", "photos"]) == 0
    err = capsys.readouterr().err
    assert "photos: expected 1024 images, found 101; all of them are used" in err
    assert "warning: notes.jpg: skipped, not an image" in err
    assert "warning: 1 of 101 images could not be read" in err


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.jpg"), ("L", "a.jpg"), ("P", "a.png"), ("I;16", "a.png")])
def test_other_colour_modes_are_converted(mode: str, name: str, tiny: Path, capsys: Capture) -> None:
    picture(Path("photos") / name, mode)
    assert ", 1 images, observer damage" in run(capsys, "calibrate", "--data", "photos")


def test_samples_of_a_folder(tiny: Path, capsys: Capture) -> None:
    for i in range(5):
        picture(Path(f"photos/{i}.png"), seed=i)
    run(capsys, "calibrate", "--data", "photos", "--samples", "2")
    assert len(json.loads(RECORD.read_text())["data"]["files"]) == 2


def test_class_folders_that_do_not_fit(made: Path, capsys: Capture) -> None:
    for name in ("cat", "dog"):
        picture(Path(f"photos/{name}/a.png"))
    assert f"expected {CLASSES} class folders, one a class of the network, found 2" in fail(
        capsys, "evaluate", "--data", "photos"
    )


def test_changed_calibration_images(tiny: Path, capsys: Capture) -> None:
    picture(Path("photos/a.png"))
    run(capsys, "calibrate", "--data", "photos")
    picture(Path("photos/a.png"), seed=1)
    assert "images are not those that were recorded: a.png (changed)" in fail(capsys, "export", "--scheme", "8bit")


def test_doubtful_images(tiny: Path, capsys: Capture) -> None:
    for i in range(40):
        picture(Path(f"photos/{i}.png"))
    assert main(["calibrate", "--data", "photos", "--samples", "40"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        "warning: photos: 39 of 40 images are copies of others, or nearly; take different images, as many as are to be "
        "calibrated on"
    )
    assert main(["calibrate", "--samples", "5"]) == 0
    assert capsys.readouterr().err == (
        "warning: embedded calib images: 5 images are few to calibrate on; take at least 16, better some hundred, like "
        "those in use\n"
    )


@pytest.mark.parametrize("samples", ["0", "-5"])
@pytest.mark.parametrize("data", ["embedded", "photos"])
def test_samples_below_1(samples: str, data: str, tiny: Path, capsys: Capture) -> None:
    picture(Path("photos/a.png"))
    message = fail(capsys, "calibrate", "--data", data, "--samples", samples)
    assert f"expected at least 1 sample, found {samples}" in message


def test_other_weights_need_their_own_images(tiny: Path, capsys: Capture) -> None:
    message = fail(capsys, "calibrate", "--weights", "mine.pt")
    assert "mine.pt weights need images of their own, found none; name a folder with --data DIR" in message


def test_evaluating_other_weights_needs_their_own_images(tiny: Path, capsys: Capture) -> None:
    run(capsys, "calibrate", "--weights", "mine.pt", "--data", "embedded")
    run(capsys, "export", "--scheme", "8bit")
    assert "--data DIR" in fail(capsys, "evaluate")


# --- bad input: weights and networks --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(mobilenet_v2(num_classes=5).state_dict())


def of_another_architecture(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.zeros(2, 2)}


def with_a_missing_key(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name != "features.1.conv.1.weight"}


def with_nan(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, "features.1.conv.1.weight": torch.full_like(state["features.1.conv.1.weight"], float("nan"))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_architecture, "expected weights of mobilenet_v2, found none named classifier.1.weight"),
        (with_a_missing_key, "these are not weights of mobilenet_v2: features.1.conv.1.weight is missing"),
        (with_nan, "features.1.conv.1.weight holds NaN or infinite values"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_do_not_fit(
    *,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    message: str,
    suffix: str,
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"mine{suffix}")
    if suffix == ".pt":
        torch.save(change(weights), path)
    else:
        save_file(change(weights), path)
    assert message in fail(capsys, "calibrate", "--weights", path, "--data", "embedded")


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pt"])
@pytest.mark.parametrize(("content", "message"), [(b"rubbish", "found something else"), (None, "no such file")])
def test_unreadable_weights(
    *,
    name: str,
    content: bytes | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content:
        Path(name).write_bytes(content)
    line = fail(capsys, "calibrate", "--weights", name, "--data", "embedded")
    assert f"{tmp_path / name}: " in line
    assert message in line


def test_no_network_for_the_imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", unreachable)
    monkeypatch.chdir(tmp_path)
    message = fail(capsys, "calibrate", "--weights", "imagenet", "--data", "embedded")
    assert "cannot download the ImageNet weights of mobilenet_v2" in message
    assert "--weights FILE, or use --weights embedded" in message


def test_unknown_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert "unknown model 'mobilenet_v9'" in fail(capsys, "calibrate", "--model", "mobilenet_v9")


def test_a_channel_of_zeros_works(demo: Demo) -> None:
    record = CalibrationRecord.load(demo.folder / RECORD)
    scales = record.layers[2].scales
    assert scales[8][3] == 1.0
    assert all(scales[bits][3] < np.median(scales[bits]) / 100 for bits in (4, 2))
    parity = json.loads((demo.folder / "exports/mobilenet_v2-2bit.json").read_text())["parity"]
    assert parity["outputs"]["logits"]["within_one_step"] == 1


class Bounded(nn.Module):
    """Has a layer that runtimes compute in float."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=8)
        self.act = nn.Tanh()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.pool(self.act(self.down(x))).flatten(1))
        return logits


def test_a_layer_that_is_computed_in_float(tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Bounded()

    def load(model: str, *_: object, **options: object) -> Source:
        return Source(trace(module, EMBEDDED.shape), EMBEDDED, model, "embedded", "7" * 64, CLASSES)

    monkeypatch.setattr(sources, "load", load)
    run(capsys, "calibrate")
    out = run(capsys, "export", "--scheme", "8bit")
    assert "\ncomputed in float, the manifest says why: act.tanh\n" in out
    manifest = json.loads(Path("exports/mobilenet_v2-8bit.json").read_text())
    assert [layer["name"] for layer in manifest["layers"]] == ["down", "classifier"]
    assert manifest["in_float"] == {"act.tanh": OPS["tanh"].in_float}


def test_what_was_taken_of_a_file_of_weights_is_said(
    tiny: Path, tiny_load: Load, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **options: Any) -> Source:
        key, transform_input = options["weights_key"], options["transform_input"]
        note = f"took {key}, transform_input {transform_input}"
        source = tiny_load(*arguments, **options)
        return replace(source, weights_key=key, transform_input=transform_input, notes=(note,))

    monkeypatch.setattr(sources, "load", load)
    capsys.readouterr()
    assert main(["calibrate", "--weights-key", "model_ema", "--transform-input", "no"]) == 0
    assert "took model_ema, transform_input False\n" in capsys.readouterr().err
    network = json.loads(Path(RECORD).read_text())["network"]
    assert (network["weights_key"], network["transform_input"]) == ("model_ema", False)
    assert main(["export", "--scheme", "8bit"]) == 0
    assert "took" not in capsys.readouterr().err


def test_cuda_without_a_gpu(tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device cuda: expected a CUDA GPU that torch can use, found none" in fail(
        capsys, "calibrate", "--device", "cuda"
    )


# --- bad input: artifacts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["plan", "export"])
def test_unknown_scheme(verb: str, tiny: Path, capsys: Capture) -> None:
    message = fail(capsys, verb, "--scheme", "3bit")
    assert "unknown scheme '3bit'; expected one of fp32, 8bit, 4bit, 2bit, adaptive" in message


def test_unknown_act_bits(tiny: Path, capsys: Capture) -> None:
    assert "activations of 16 bits; expected 8 or 32" in fail(capsys, "plan", "--scheme", "8bit", "--act-bits", "16")


@pytest.mark.parametrize("verb", ["plan", "export"])
def test_corrupt_record(verb: str, made: Path, capsys: Capture) -> None:
    RECORD.write_bytes(RECORD.read_bytes()[:1000])
    assert f"{RECORD}: expected an edgeq record (JSON), found something unreadable" in fail(
        capsys, verb, "--scheme", "8bit"
    )


def test_record_without_layers(made: Path, capsys: Capture) -> None:
    body = json.loads(RECORD.read_text())
    del body["layers"]
    RECORD.write_text(json.dumps(body))
    assert f"{RECORD}: a damaged record" in fail(capsys, "plan", "--scheme", "8bit")


def test_record_of_another_version(made: Path, capsys: Capture) -> None:
    edited(RECORD, version=99)
    message = fail(capsys, "export", "--scheme", "8bit")
    assert f"expected version {VERSION} of an edgeq record, found 99; write it again with this edgeq" in message


def test_missing_record(made: Path, capsys: Capture) -> None:
    assert "nowhere: no such file" in fail(capsys, "plan", "--scheme", "8bit", "--record", "nowhere")


def test_record_of_changed_weights(made: Path, capsys: Capture) -> None:
    network = json.loads(RECORD.read_text())["network"]
    edited(RECORD, network={**network, "sha256": "6" * 64})
    assert "the weights have changed since calibration" in fail(capsys, "export", "--scheme", "8bit")


def test_record_of_another_network(made: Path, capsys: Capture) -> None:
    body = json.loads(RECORD.read_text())
    edited(RECORD, layers=body["layers"][:-1])
    assert "the plan is of another network" in fail(capsys, "export", "--scheme", "8bit")


def test_record_of_a_network_of_the_api(made: Path, capsys: Capture) -> None:
    edited(RECORD, network={})
    assert "the record is of a network that was passed to the API" in fail(capsys, "export", "--scheme", "8bit")


@pytest.mark.parametrize("arguments", [["evaluate"], ["bench", "--runs", "1"], ["inspect"]], ids=lambda a: str(a[0]))
def test_corrupt_onnx_file(arguments: list[str], made: Path, capsys: Capture) -> None:
    ADAPTIVE.write_bytes(ADAPTIVE.read_bytes()[:1000])
    message = fail(capsys, *arguments, ADAPTIVE)
    assert f"{ADAPTIVE}: " in message
    assert "changed since mobilenet_v2-adaptive.json was written" in message or "unreadable" in message


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("evaluate", "found something unreadable"),
        ("bench", "found something unreadable"),
        ("inspect", "found something unreadable"),
    ],
)
def test_corrupt_onnx_file_without_a_manifest(verb: str, message: str, made: Path, capsys: Capture) -> None:
    ADAPTIVE.write_bytes(ADAPTIVE.read_bytes()[:1000])
    ADAPTIVE.with_suffix(".json").unlink()
    assert message in fail(capsys, verb, ADAPTIVE)


def test_corrupt_packed_file(made: Path, capsys: Capture) -> None:
    path = ADAPTIVE.with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    assert f"{path}: expected a packed network (safetensors), found" in fail(capsys, "inspect", path)


def test_damaged_manifest(made: Path, capsys: Capture) -> None:
    edited(ADAPTIVE.with_suffix(".json"), layers=None)
    message = fail(capsys, "inspect", ADAPTIVE)
    assert "mobilenet_v2-adaptive.json: a damaged manifest, its layers is missing or no list; export again" in message


def test_evaluating_files_of_two_networks(made: Path, capsys: Capture) -> None:
    network = json.loads(FP32.with_suffix(".json").read_text())["network"]
    edited(FP32.with_suffix(".json"), network={**network, "sha256": "6" * 64})
    assert f"{FP32}: expected a model of the same network as {ADAPTIVE}" in fail(capsys, "evaluate", ADAPTIVE, FP32)


@pytest.mark.parametrize("verb", ["evaluate", "bench", "plot"])
def test_nothing_exported_yet(verb: str, tiny: Path, capsys: Capture) -> None:
    message = fail(capsys, verb)
    assert "exports: expected" in message
    assert "run `edgeq export" in message


def test_bench_on_another_device(made: Path, capsys: Capture) -> None:
    assert "device cuda: expected cpu" in fail(capsys, "bench", "--device", "cuda")


def test_bench_of_no_runs(made: Path, capsys: Capture) -> None:
    assert "runs: expected at least 1, found 0" in fail(capsys, "bench", ADAPTIVE, "--runs", "0")


def test_bench_in_an_unknown_runtime(made: Path, capsys: Capture) -> None:
    assert "runtime tflite: expected one of" in fail(capsys, "bench", ADAPTIVE, "--runtime", "tflite")


# --- bad input: outputs ---------------------------------------------------------------------------------------------

WRITING = {
    "calibrate": (["calibrate", "--output"], "a.calib"),
    "export": (["export", "--scheme", "8bit", "--output"], "a.onnx"),
    "evaluate": (["evaluate", str(ADAPTIVE), "--output"], "a.json"),
    "bench": (["bench", str(FP32), "--runs", "1", "--output"], "b.json"),
}


@pytest.mark.parametrize("verb", WRITING)
def test_unwritable_output(verb: str, made: Path, capsys: Capture) -> None:
    command, name = WRITING[verb]
    Path("file").touch()
    assert "file: cannot make this folder" in fail(capsys, *command, f"file/{name}")


@pytest.mark.parametrize("verb", WRITING)
def test_output_is_a_folder(verb: str, made: Path, capsys: Capture) -> None:
    command, name = WRITING[verb]
    Path(name).mkdir()
    assert f"{name}: expected a file to write, found a folder" in fail(capsys, *command, name)


@pytest.mark.parametrize("verb", WRITING)
def test_somebody_elses_file_is_kept(verb: str, made: Path, capsys: Capture) -> None:
    command, name = WRITING[verb]
    Path(name).write_text("mine")
    message = fail(capsys, *command, name)
    assert f"{name}: exists and was not written by edgeq; name another output or add --force" in message


def test_somebody_elses_picture_is_kept(made: Path, capsys: Capture) -> None:
    picture(Path("figure.png"))
    message = fail(capsys, "plan", "--scheme", "8bit", "--figure", "figure.png")
    assert "figure.png: exists and was not written by edgeq" in message


def test_somebody_elses_figure_is_kept(made: Path, capsys: Capture) -> None:
    Path("exports/size_latency.png").write_text("mine")
    assert "exports/size_latency.png: exists and was not written by edgeq" in fail(capsys, "plot")


def test_force_replaces(made: Path, capsys: Capture) -> None:
    Path("a.calib").write_text("mine")
    run(capsys, "calibrate", "--output", "a.calib", "--force")
    assert CalibrationRecord.load(Path("a.calib")).layers


def test_export_to_a_name_that_is_not_onnx(made: Path, capsys: Capture) -> None:
    message = fail(capsys, "export", "--scheme", "8bit", "--output", "net.json")
    assert "net.json: expected a name that ends in .onnx" in message


@pytest.mark.parametrize("verb", ["calibrate", "export", "evaluate"])
def test_full_disk(verb: str, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    commands = {"calibrate": "calibrate", "export": "export --scheme 8bit", "evaluate": f"evaluate {ADAPTIVE}"}
    message = fail(capsys, *commands[verb].split())
    assert "cannot write: No space left on device; free some space or name another output" in message


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def interrupted(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["calibrate"], "edgeq.data.images.ImageSet.batches"),
        (["calibrate"], "os.fsync"),
        (["export", "--scheme", "8bit"], "edgeq.data.images.ImageSet.batches"),
        (["export", "--scheme", "8bit"], "os.fsync"),
        (["evaluate"], "os.fsync"),
    ],
    ids=["calibrating", "writing a record", "quantizing", "writing an export", "writing a report"],
)
def test_interrupt(
    arguments: list[str], where: str, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, interrupted)
    before = tree(made)
    capsys.readouterr()
    assert main(arguments) == 130
    out, err = capsys.readouterr()
    assert (out, err.strip()) == (
        "",
        "interrupted; no half-written file is left, and the same export resumes where it stopped",
    )
    assert tree(made) == before


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
@pytest.mark.parametrize("command", ["calibrate", "export --scheme 4bit"])
def test_seeds_that_no_generator_takes(command: str, seed: str, made: Path, capsys: Capture) -> None:
    assert f"seed: expected a whole number from 0 to {2**31 - 1}, found {seed}" in fail(
        capsys, *command.split(), "--seed", seed
    )
