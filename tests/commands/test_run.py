"""`edgeq.toml` and `edgeq run`: defaults of commands, and runs that go on where they were."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from commandline import Capture, fail, picture, run, tree

from edgeq.cli import cli, main
from edgeq.commands.config import as_arguments, as_defaults, values_of
from edgeq.commands.plan import command as plan_command

FILE = Path("edgeq.toml")
RUN = """
[calibrate]
seed = 1

[bench]
runs = 3

[run]
exports = [{ scheme = "8bit" }, { scheme = "adaptive", budget = "size=1MB" }]
"""
STAGES = ["calibrate", "export", "export", "evaluate", "bench", "report"]


def states(capsys: Capture) -> list[str | None]:
    """Why every stage has to run; None if it is done."""
    body = json.loads(run(capsys, "run", "--dry-run", "--json"))
    assert [stage["command"][0] for stage in body["stages"]] == STAGES
    return [stage["reason"] for stage in body["stages"]]


# --- edgeq run ------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was(tiny: Path, capsys: Capture) -> None:
    FILE.write_text(RUN)
    assert states(capsys) == [
        "no calib/mobilenet_v2.calib", "no exports/mobilenet_v2-8bit.onnx",
        "no exports/mobilenet_v2-adaptive-size-1MB.onnx", "no exports/evaluation.json", "no exports/bench.json",
        "no exports/report.html",
    ]  # fmt: skip
    assert tree(Path()).keys() == {"edgeq.toml"}, "a dry run writes nothing"
    printed = run(capsys, "run")
    assert printed.endswith("exports/report.html\n")
    assert len(json.loads(Path("exports/bench.json").read_text())["rows"][0]["samples_ms"]) == 3
    assert states(capsys) == [None] * 6

    before = tree(Path())
    assert run(capsys, "run") == "", "all is done"
    assert tree(Path()) == before

    Path("exports/evaluation.json").unlink()
    assert states(capsys) == [
        None, None, None, "no exports/evaluation.json", None, "exports/evaluation.json will be made anew",
    ]  # fmt: skip
    run(capsys, "run")
    assert states(capsys) == [None] * 6

    FILE.write_text(RUN.replace("runs = 3", "runs = 4"))
    assert states(capsys) == [None] * 4 + [
        "other options than the last time", "exports/bench.json will be made anew",
    ]  # fmt: skip
    FILE.write_text(RUN.replace("seed = 1", "seed = 2"))
    assert states(capsys)[:2] == ["other options than the last time", "calib/mobilenet_v2.calib will be made anew"]
    FILE.write_text(RUN)
    path = Path("exports/mobilenet_v2-8bit.json")
    path.write_text(path.read_text() + "\n")
    assert states(capsys)[1] == "exports/mobilenet_v2-8bit.json has changed"


def test_images_that_changed_are_read_again(tiny: Path, capsys: Capture) -> None:
    for seed in range(4):
        picture(Path(f"photos/{seed}.png"), seed=seed)
    FILE.write_text(
        '[calibrate]\ndata = "photos"\nsamples = 4\n[run]\nstages = ["calibrate"]\nexports = [{ scheme = "8bit" }]\n'
    )
    run(capsys, "run")
    assert run(capsys, "run", "--dry-run").startswith("done: edgeq calibrate ")
    os.utime("photos/0.png", (1, 1))
    assert run(capsys, "run", "--dry-run").startswith("to do (what it reads has changed): edgeq calibrate ")


def test_what_a_stage_says_is_the_error_of_the_run(tiny: Path, capsys: Capture) -> None:
    FILE.write_text('[calibrate]\ndata = "nowhere"\n[run]\nexports = [{ scheme = "8bit" }]\n')
    assert main(["run"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: nowhere")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[calibrate\n", "edgeq.toml: expected TOML, found something unreadable"),
        ("[calibarte]\n", "edgeq.toml: unknown key 'calibarte' in the file; did you mean calibrate?"),
        ("plan = 3\n", "edgeq.toml: plan: expected a table [plan], found 3"),
        ("[calibrate]\nsead = 1\n", "edgeq.toml: unknown key 'sead' in [calibrate]; did you mean seed?"),
        ("[calibrate]\nforce = 1\n", "edgeq.toml: force in [calibrate]: expected true or false, found 1"),
        ("[calibrate]\nseed = { a = 1 }\n", "seed in [calibrate]: expected a text or a number, or a list of them"),
        ("[calibrate]\nsamples = 'x'\n", "edgeq.toml: [calibrate]: Invalid value for '--samples': 'x' is not"),
        ("[bench]\nrun = 1\n", "edgeq.toml: unknown key 'run' in [bench]; did you mean runs?"),
        ("[export]\nsheme = '4bit'\n", "edgeq.toml: unknown key 'sheme' in [export]; did you mean scheme?"),
        ("[run]\nexports = 3\n", "exports in [run]: expected a list of tables"),
        ("[run]\nexports = []\n", "exports in [run]: expected a list of tables"),
        ("[run]\nexports = [{ shceme = '4bit' }]\n", "unknown key 'shceme' in exports in [run]; did you mean scheme?"),
        ("[run]\nexports = [{ scheme = '5bit' }]\n", "edgeq.toml: exports in [run]: unknown scheme '5bit'"),
        (
            "[run]\nexports = [{ scheme = '4bit' }, { scheme = '4bit' }]\n",
            "edgeq.toml: expected each export once, found exports/mobilenet_v2-4bit.onnx twice",
        ),
        ("[run]\nstage = []\n", "edgeq.toml: unknown key 'stage' in [run]; did you mean stages?"),
        ("[run]\nstages = ['plot']\n", "stages in [run]: expected some of calibrate, export, evaluate, bench, report"),
        (
            "[run]\nexports = [{ scheme = '4bit' }, { scheme = '8bit', output = 'other/a.onnx' }]\n",
            "expected all exports in exports, found other/a.onnx",
        ),
    ],
)  # fmt: skip
def test_one_line_for_what_is_wrong(text: str, line: str, tiny: Path, capsys: Capture) -> None:
    FILE.write_text(text)
    for arguments in (["run"], ["run", "--dry-run"]):
        assert line in fail(capsys, *arguments)


@pytest.mark.parametrize(("table", "scheme"), [("", "adaptive"), ("[export]\nscheme = '8bit'\n", "8bit")])
def test_without_a_scheme_it_is_that_of_exports_or_adaptive(
    table: str, scheme: str, tiny: Path, capsys: Capture
) -> None:
    FILE.write_text(table)
    (line,) = (line for line in run(capsys, "run", "--dry-run").splitlines() if ": edgeq export" in line)
    assert f"--scheme {scheme}" in line


def test_no_recipe(tiny: Path, capsys: Capture) -> None:
    assert "edgeq.toml: no such file; expected a table for each command" in fail(capsys, "run")


def test_a_ledger_of_somebody_else(tiny: Path, capsys: Capture) -> None:
    FILE.write_text(RUN)
    Path("exports").mkdir()
    Path("exports/run.json").write_text("{}")
    assert "exports/run.json: expected an edgeq run, found no format line" in fail(capsys, "run")


# --- defaults -------------------------------------------------------------------------------------------------------


def test_commands_take_their_defaults(made: Path, capsys: Capture) -> None:
    typed = run(capsys, "plan", "--scheme", "2bit", "--json")
    FILE.write_text("[plan]\nscheme = '2bit'\n")
    assert main(["plan", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out == typed
    assert err == "defaults from [plan] in edgeq.toml\n"
    assert json.loads(run(capsys, "plan", "--scheme", "8bit", "--json"))["scheme"] == "8bit"
    run(capsys, "inspect", "calib/mobilenet_v2.calib")


def test_an_unknown_default(made: Path, capsys: Capture) -> None:
    FILE.write_text("[plan]\nschema = '2bit'\n")
    assert "unknown key 'schema' in [plan]; did you mean scheme?" in fail(capsys, "plan", "--scheme", "8bit")


def test_values_are_those_of_the_command_line() -> None:
    @click.command("some")
    @click.option("--mean")
    @click.option("--format", "formats", multiple=True)
    @click.option("--yes", is_flag=True)
    @click.option("--json", "as_json", is_flag=True)
    def some() -> None: ...

    values = values_of(FILE, {"mean": [0.5, 1, 2], "format": ["a", "b"], "yes": True}, some)
    assert list(as_arguments(values)) == ["--mean", "0.5,1,2", "--format", "a", "--format", "b", "--yes"]
    assert as_defaults(values, some) == {"mean": "0.5,1,2", "formats": ["a", "b"], "yes": True}
    assert list(as_arguments(values_of(FILE, {"mean": False, "yes": False, "format": "a"}, some))) == [
        "--mean", "no", "--format", "a",
    ]  # fmt: skip


# --- completion -----------------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    """What the shell is given for the last of some words."""
    found = ShellComplete(cli, {}, "edgeq", "_EDGEQ_COMPLETE").get_completions([*words[:-1]], words[-1])
    return [item.value for item in found]


def test_commands_and_options_are_completed() -> None:
    assert completed("p") == ["plan", "plot"]
    assert "--version" in completed("--v")
    assert "--scheme" in completed("plan", "--s")
    assert completed("plan", "--policy", "p") == ["position"]
    assert completed("export", "--scheme", "a") == ["adaptive"]
    assert completed("calibrate", "--weights", "i") == ["imagenet", "i"]  # or a file: the shell finds its name
    assert completed("evaluate", "--data", "pho") == ["pho"]
    assert plan_command.name == "plan"


def test_completing_commands_loads_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(cli), "get_command", lambda *_: pytest.fail("a command was loaded"))
    assert completed("ex") == ["export"]
