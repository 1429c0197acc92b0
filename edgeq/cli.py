"""The command line: parse, call one function of `workflow`, `reports`, `sweep` or `inspection`, print what it returns.

Results go to stdout, progress and warnings to stderr. Exit 0: done; 1: an `EdgeqError`, in one line; 2: wrong usage;
130: interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgeq.artifacts.files import dumps
from edgeq.commands import inspection, options, reports, workflow
from edgeq.commands import sweep as sweeping
from edgeq.commands.console import listening, show
from edgeq.errors import BudgetError, EdgeqError, UnsupportedError, WorkerError
from edgeq.planning.effort import EFFORTS
from edgeq.planning.plan import POLICIES
from edgeq.planning.plan import VERSION as PLAN_VERSION
from edgeq.reports import tables
from edgeq.system.cpus import asked_for
from edgeq.system.distributed import alone, first_to_speak, joined

if TYPE_CHECKING:
    from edgeq.calibration.ranges import RangeChoice
    from edgeq.data.class_folders import ClassOrder
    from edgeq.runtimes.jobs import Runtime

FIGURES_VERSION: Final = 1

SHARED: Final = ("calibrate", "evaluate")
"""The commands that several processes can share."""

DEMO: Final = (
    ("calibrate",),
    ("plan", "--scheme", "adaptive"),
    *(("export", "--scheme", scheme) for scheme in ("fp32", "8bit", "4bit", "2bit", "adaptive")),
    ("evaluate",),
    ("bench", "--device", "cpu"),
    ("plot",),
)
"""The commands that `edgeq demo` runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the only place where errors become messages."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for names and tables with characters that the terminal lacks
    try:
        result = cli.main(arguments, prog_name="edgeq", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EdgeqError as error:
        if not isinstance(error, WorkerError) or first_to_speak():
            click.echo(f"error: {error}", err=True)
        return 1
    except OSError as error:  # not of a file that a stage writes: standard output, or a path that is none
        place = error.filename or "standard output"
        click.echo(f"error: {place}: {error.strerror or error}", err=True)
        _forget_output()
        return 1
    except click.Abort:  # Ctrl-C
        click.echo("interrupted; nothing half-written is left, an export goes on where it was", err=True)
        return 130
    return result if isinstance(result, int) else 0


def _forget_output() -> None:
    """What could not be written must not be tried again when the interpreter ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_PATH: Final = click.Path(path_type=Path)
_Command = Callable[..., None]


def _json(command: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="Print the artifact's JSON instead of a table.")(
        command
    )


def _force(command: _Command) -> _Command:
    return click.option("--force", is_flag=True, help="Replace files that edgeq did not write.")(command)


def _record(command: _Command) -> _Command:
    text = "Calibration record; without it calib/mobilenet_v2.calib, made first if there is none."
    return click.option("--record", type=_PATH, metavar="FILE", help=text)(command)


def _scheme(command: _Command) -> _Command:
    text = "Bits of the weights: 8bit, 4bit or 2bit everywhere, adaptive layer by layer, or fp32."
    return click.option("--scheme", required=True, metavar="8bit|4bit|2bit|adaptive|fp32", help=text)(command)


def _act_bits(command: _Command) -> _Command:
    text = "Bits of the activations; 32 leaves them in float."
    return click.option("--act-bits", type=int, default=8, show_default=True, metavar="8|32", help=text)(command)


def _portable(command: _Command) -> _Command:
    text = (
        "Keep 8-bit weights within -63..63: kernels of x86 CPUs with AVX2 but without VNNI overflow beyond. 4, 3 and 2 "
        "bits always are."
    )
    return click.option("--portable", is_flag=True, help=text)(command)


def _labelled(command: _Command) -> _Command:
    text = "Labelled images, DIR/<class>/<image>.  [default: embedded, with embedded weights]"
    return click.option("--data", metavar="embedded|DIR", help=text)(command)


def _class_order(command: _Command) -> _Command:
    text = (
        "What numbers class folders: the class index or ImageNet id in their names, or the order of these as text, as "
        "in torchvision's ImageFolder.  [default: index, where names are such]"
    )
    return click.option("--class-order", type=click.Choice(["index", "name"]), help=text)(command)


def _budget(command: _Command) -> _Command:
    text = "What an adaptive model may cost.  [default: the size of a file by position]"
    return click.option("--budget", metavar="size=1.3MB|bitops=6G|drop=1.0", help=text)(command)


def _policy(command: _Command) -> _Command:
    text = "Of adaptive: the mix of 8, 4, 3 and 2 bits that does the least damage, or a rule by position."
    return click.option("--policy", type=click.Choice(POLICIES), default=POLICIES[0], show_default=True, help=text)(
        command
    )


def _effort(command: _Command) -> _Command:
    text = (
        "fast rounds layer by layer; balanced and best take more views of the images, then train scales and biases. "
        "A killed export goes on where it was. MobileNetV2 on 1000 images of 224 x 224 takes some 3, 12 and 30 minutes "
        "on one core."
    )
    return click.option("--effort", type=click.Choice(list(EFFORTS)), default="fast", show_default=True, help=text)(
        command
    )


def _threads(command: _Command) -> _Command:
    text = "For torch, ONNX Runtime and images.  [default: OMP_NUM_THREADS, or the CPUs that this process may use]"

    @click.option("--threads", type=int, metavar="N", help=text)
    @wraps(command)
    def run(*, threads: int | None, **arguments: Any) -> None:
        with asked_for(threads):
            command(**arguments)

    return run


def _seed(command: _Command) -> _Command:
    text = "Of the choice of positions, images and crops."
    return click.option("--seed", type=int, default=0, show_default=True, help=text)(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeq")
@click.pass_context
def cli(context: click.Context) -> None:
    """Quantize image classifiers to 8, 4 and 2 bits and export ONNX files that stock runtimes run at int8 speed.

    Every command works without files on the network and images that come with edgeq; `edgeq demo` runs them all.

    \b
    Example:
      edgeq calibrate
      edgeq export --scheme adaptive
      edgeq bench --device cpu
    """
    if context.invoked_subcommand not in SHARED and not alone():
        raise UnsupportedError(
            f"{context.invoked_subcommand} runs in one process, found several started by torchrun; start it without, "
            f"or run one of {', '.join(SHARED)}"
        )


@cli.command()
@click.option("--model", default=workflow.MODEL, show_default=True, help="A classification network of torchvision.")
@click.option(
    "--weights", default=workflow.EMBEDDED, show_default=True, metavar="embedded|imagenet|FILE",
    help="edgeq's own, torchvision's (downloaded once), or a safetensors file, PyTorch state dict or checkpoint.",
)  # fmt: skip
@click.option("--weights-key", metavar="NAME", help="Which weights of a file to take, such as model_ema.")
@click.option(
    "--transform-input", type=bool, metavar="yes|no",
    help="Of a file for googlenet or inception_v3: whether the network normalizes images once more, as torchvision's "
    "pretrained ones do.",
)  # fmt: skip
@click.option(
    "--data", metavar="embedded|DIR",
    help="Images to calibrate on, a folder of any layout.  [default: embedded, with embedded weights]",
)  # fmt: skip
@click.option("--samples", type=int, help="Number of images.  [default: 516 embedded ones, 1024 of a folder]")
@click.option(
    "--observer", type=click.Choice(["damage", "percentile", "minmax", "mse"]), default="damage", show_default=True,
    help="How the range of an activation is chosen.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images and positions.")
@click.option("--keep-float", is_flag=True, help="Leave layers that cannot be quantized in float.")
@options.preprocess
@_threads
@click.option("--output", type=_PATH, metavar="FILE", help="The record.  [default: calib/MODEL.calib]")
@_force
@_json
def calibrate(
    *,
    model: str,
    weights: str,
    weights_key: str | None,
    transform_input: bool | None,
    data: str | None,
    samples: int | None,
    observer: RangeChoice,
    device: str,
    seed: int,
    keep_float: bool,
    preprocess: Mapping[str, Any],
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure a float network on images and write a calibration record.

    Several processes share the images where `torchrun` starts them.

    \b
    Example:
      edgeq calibrate --weights imagenet --data photos --output calib/photos.calib
      edgeq calibrate --weights small.pt --data photos --resize 96 --crop 96 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
      torchrun --nproc-per-node 4 -m edgeq calibrate
    """
    with joined(device) as workers, listening(workers.first) as listener:
        path, record = workflow.calibrate(
            model=model, weights=weights, data=data, samples=samples, observer=observer, device=device, seed=seed,
            keep_float=keep_float, preprocess=preprocess, weights_key=weights_key, transform_input=transform_input,
            output=output, force=force, listener=listener, workers=workers,
        )  # fmt: skip
    if not workers.first:
        return
    if as_json:
        _print_json(record.to_json())
    else:
        click.echo(f"{path}: {tables.record_text(record)}")


@cli.command()
@_record
@_scheme
@_budget
@_policy
@_act_bits
@_portable
@click.option("--figure", type=_PATH, metavar="FILE.png", help="Draw the damage of every layer at every width, too.")
@_force
@_json
def plan(
    *,
    scheme: str,
    record: Path | None,
    budget: str | None,
    policy: str,
    act_bits: int,
    portable: bool,
    figure: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show the bits of every layer under a scheme or budget, what they cost, and which layers hurt.

    \b
    Example:
      edgeq plan --scheme adaptive --budget drop=1.0
    """
    with listening() as listener:
        calibrated, widths = workflow.plan(
            scheme, record, act_bits, budget=budget, policy=policy, portable=portable, listener=listener
        )
    if figure:
        workflow.draw(calibrated, widths, figure, force)
    if as_json:
        _print_json(dumps("plan", PLAN_VERSION, widths.to_dict()))
    else:
        show(tables.plan_table(widths))
        click.echo(tables.plan_text(widths))
    if widths.missed:
        raise BudgetError(widths.missed)


@cli.command()
@_record
@_scheme
@_budget
@_policy
@_act_bits
@_portable
@_effort
@_seed
@_threads
@click.option(
    "--input", "kind", type=click.Choice(["float", "uint8"]), default="float", show_default=True,
    help="What the file takes: normalized planes, or the pixels of a camera, rows x columns x RGB.",
)  # fmt: skip
@click.option("--output", type=_PATH, metavar="FILE", help="The file.  [default: exports/MODEL-SCHEME[-BUDGET].onnx]")
@_force
@_json
def export(
    *,
    scheme: str,
    record: Path | None,
    budget: str | None,
    policy: str,
    act_bits: int,
    portable: bool,
    effort: str,
    seed: int,
    kind: str,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Quantize a calibrated network and write an ONNX file, checked against PyTorch.

    Its manifest (.json) and the packed PyTorch network (.safetensors) are written beside it. Where no widths meet the
    budget, the closest file is written under a name that ends in -missed.

    \b
    Example:
      edgeq export --scheme adaptive --budget size=1.3MB
    """
    with listening() as listener:
        path, manifest = workflow.export(
            scheme, record, act_bits, budget=budget, policy=policy, portable=portable, effort=effort, seed=seed,
            pixels=kind == "uint8", output=output, force=force, listener=listener,
        )  # fmt: skip
    if as_json:
        _print_json(path.with_suffix(".json").read_text(encoding="utf-8"))
    else:
        click.echo(tables.export_text(path, manifest))
    if manifest["missed"]:
        raise BudgetError(f"{manifest['missed']}; {path} comes closest")


@cli.command()
@click.argument("files", nargs=-1, type=_PATH, metavar="[FILE]...")
@click.option(
    "--record", type=_PATH, metavar="FILE",
    help="Calibration record of the float network.  [default: what the manifests of the files say, or if none has one, "
    "calib/mobilenet_v2.calib]",
)  # fmt: skip
@_labelled
@_class_order
@_threads
@click.option("--output", type=_PATH, default=Path("exports/evaluation.json"), show_default=True, help="The report.")
@_force
@_json
def evaluate(
    *,
    files: tuple[Path, ...],
    record: Path | None,
    data: str | None,
    class_order: ClassOrder | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Measure accuracy on labelled images, with the float network as the reference.

    Without files, all in exports/ are evaluated. ONNX files of other tools get the same images, prepared as for the
    float network. Several processes share the images where `torchrun` starts them.

    \b
    Example:
      edgeq evaluate exports/mobilenet_v2-4bit.onnx --data validation
    """
    with joined() as workers, listening(workers.first) as listener:
        body = reports.evaluate(files, data, output, force, listener, workers, record, class_order)
    if not workers.first:
        return
    if as_json:
        _print_json(output.read_text(encoding="utf-8"))
    else:
        show(tables.evaluation_table(body))
        click.echo(f"{output}: {body['images']} images of {body['data']}")


@cli.command()
@_record
@_labelled
@_class_order
@click.option(
    "--budgets", metavar="size=1.1MB,size=1.3MB,...",
    help="Of the adaptive rows.  [default: 6 sizes between 2bit and 4bit, 2 between 4bit and 8bit]",
)  # fmt: skip
@_effort
@_seed
@_threads
@click.option("--output", type=_PATH, default=sweeping.FOLDER, show_default=True, help="Folder of all files.")
@_force
@_json
def sweep(
    *,
    record: Path | None,
    data: str | None,
    class_order: ClassOrder | None,
    budgets: str | None,
    effort: str,
    seed: int,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Export and evaluate every fixed scheme and a range of budgets: the front of size against accuracy.

    What is done is not done again, so a killed sweep goes on where it was. ONNX files of other tools in the folder are
    evaluated, too. The results are in sweep.json, the figure in sweep.png.

    \b
    Example:
      edgeq sweep --budgets size=1.1MB,size=1.3MB --effort balanced
    """
    with listening() as listener:
        body = sweeping.sweep(
            record, data, budgets.split(",") if budgets is not None else (), effort=effort, seed=seed,
            output=output, force=force, listener=listener, order=class_order,
        )  # fmt: skip
    if as_json:
        _print_json((output / "sweep.json").read_text(encoding="utf-8"))
    else:
        show(tables.sweep_table(body))
        click.echo(f"{tables.sweep_text(body)}\n{output / 'sweep.png'}")
    if missed := [row["missed"] for row in body["rows"] if row["missed"]]:
        raise BudgetError("; ".join(missed))


@cli.command()
@click.argument("files", nargs=-1, type=_PATH, metavar="[FILE]...")
@click.option("--device", default="cpu", show_default=True, metavar="cpu", help="Where to run.")
@click.option(
    "--runtime", default="onnxruntime", show_default=True, metavar="onnxruntime|openvino|torch", help="What runs them."
)
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the runtime.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images in one run.")
@click.option("--runs", type=int, default=50, show_default=True, help="Timed runs of each model.")
@click.option("--output", type=_PATH, default=Path("exports/bench.json"), show_default=True, help="The report.")
@_force
@_json
def bench(
    *,
    files: tuple[Path, ...],
    device: str,
    runtime: Runtime,
    threads: int,
    batch: int,
    runs: int,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Measure latency, load time and memory, next to the float baseline.

    Without files, all in exports/ are measured; the fp32 baseline is exported first if it is missing.

    \b
    Example:
      edgeq bench --device cpu --threads 2
    """
    with listening() as listener:
        body = reports.bench(
            files, device=device, runtime=runtime, threads=threads, batch=batch, runs=runs,
            output=output, force=force, listener=listener,
        )  # fmt: skip
    if as_json:
        _print_json(output.read_text(encoding="utf-8"))
    else:
        show(tables.bench_table(body))
        click.echo(f"{output}: {tables.bench_text(body)}")


@cli.command()
@click.option("--exports", type=_PATH, default=Path("exports"), show_default=True, help="Folder of exports, reports.")
@click.option("--output", type=_PATH, metavar="DIR", help="Folder of the figures.  [default: that of the exports]")
@_force
@_json
def plot(exports: Path, output: Path | None, force: bool, as_json: bool) -> None:
    """Draw figures of BitOps, bits, size, latency and accuracy from what is stored in a folder.

    \b
    Example:
      edgeq plot --exports exports --output figures
    """
    with listening() as listener:
        paths = [str(path) for path in reports.plot(exports, output, force, listener)]
    if as_json:
        _print_json(dumps("figures", FIGURES_VERSION, {"files": paths}))
    else:
        for path in paths:
            click.echo(path)


@cli.command()
@click.argument("file", type=_PATH)
@_json
def inspect(file: Path, as_json: bool) -> None:
    """Show what is in a record, a manifest, an .onnx file or a packed .safetensors file.

    \b
    Example:
      edgeq inspect exports/mobilenet_v2-adaptive.onnx
    """
    kind, body = inspection.inspect(file)
    if as_json:
        _print_json(dumps(kind, 1, body))
    else:
        images = tables.images_text(body)
        show(tables.content_table(kind, body))
        if images:
            click.echo(images)
        click.echo(f"{file}: {tables.content_text(kind, body)}")


@cli.command()
@_threads
@_force
@_json
def demo(force: bool, as_json: bool) -> None:
    """Run all of it on the network and images that come with edgeq: offline, in a few minutes.

    Writes into calib/ and exports/. Each command is shown before it runs.

    \b
    Example:
      edgeq demo
    """
    for command in DEMO:
        click.echo(f"$ edgeq {' '.join(command)}", err=True)
        flags = ["--force"] * force + ["--json"] * as_json
        cli.main([*command, *flags], prog_name="edgeq", standalone_mode=False)


def _print_json(text: str) -> None:
    click.echo(text, nl=False)
