"""Options that several commands share. Options that make up one value are passed to a command as that value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from edgeq.errors import UnsupportedError
from edgeq.planning.recipe import EFFORTS, INPUTS, POLICIES, SCHEMES, Recipe
from edgeq.system.cpus import asked_for
from edgeq.tasks import TASKS

PATH: Final = click.Path(path_type=Path)

Command = Callable[..., None]
Found = TypeVar("Found")
Decorator = Callable[[Command], Command]


def completing(paths: str | None, *names: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Complete some names, and what the shell finds itself: `file`, `dir` or, for None, nothing."""

    def found(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        known = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*known, CompletionItem(incomplete, type=paths)] if paths else known

    return found


json: Final = click.option("--json", "as_json", is_flag=True, help="Print the artifact's JSON instead of a table.")
force: Final = click.option("--force", is_flag=True, help="Replace files that edgeq did not write.")
record: Final = click.option(
    "--record", type=PATH, metavar="FILE",
    help="Calibration record; without it calib/mobilenet_v2.calib, made first if there is none.",
)  # fmt: skip
class_order: Final = click.option(
    "--class-order", type=click.Choice(["index", "name"]),
    help="How class folders are numbered: index by the class index or ImageNet id in their names, name by the sorted "
    "order of names, like torchvision's ImageFolder.  [default: index, if names are class indices or ids]",
)  # fmt: skip
effort: Final = click.option(
    "--effort", type=click.Choice(list(EFFORTS)), default="fast", show_default=True,
    help="fast rounds layer by layer; balanced and best take more augmentations of the images, then train scales and "
    "biases. Repeating a killed export resumes it. MobileNetV2 on 1000 images of 224 x 224 takes some 4 minutes on "
    "one core with fast, and 20 with balanced.",
)  # fmt: skip
seed: Final = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the choice of positions, images and crops."
)

_RECIPE: Final[dict[str, Decorator]] = {
    "scheme": click.option(
        "--scheme", required=True, metavar="8bit|4bit|2bit|adaptive|fp32", shell_complete=completing(None, *SCHEMES),
        help="Bits of the weights: 8bit, 4bit or 2bit everywhere, adaptive layer by layer, or fp32.",
    ),
    "budget": click.option(
        "--budget", metavar="size=1.3MB|bitops=6G|drop=1.0",
        help="What an adaptive model may cost.  [default: the size of a file by position]",
    ),
    "policy": click.option(
        "--policy", type=click.Choice(POLICIES), default=POLICIES[0], show_default=True,
        help="How adaptive chooses widths: the mix of 8, 4, 3, 2, 1.6, 1.33 and 1 bits with the least sensitivity, or "
        "a rule by position.",
    ),
    "act_bits": click.option(
        "--act-bits", type=int, default=8, show_default=True, metavar="8|32",
        help="Bits of the activations; 32 leaves them in float.",
    ),
    "reduce_range": click.option(
        "--reduce-range", "--portable", is_flag=True,
        help="Keep 8-bit weights within -63..63: kernels of x86 CPUs with AVX2 but without VNNI overflow beyond. "
        "Weights of fewer bits always are.",
    ),
    "effort": effort,
    "seed": seed,
    "input": click.option(
        "--input", type=click.Choice(INPUTS), default=INPUTS[0], show_default=True,
        help="What the file takes: normalized planes, or the pixels of a camera, rows x columns x RGB.",
    ),
}  # fmt: skip


def input_shapes(command: Command) -> Command:
    """Add `--input-shape`, which the command gets as `input_shapes`: a shape without the batch, or several by name."""

    @wraps(command)
    def gathered(*, shapes: tuple[tuple[str, tuple[int, ...]], ...], **arguments: Any) -> None:
        command(input_shapes=_by_name(shapes, "--input-shape"), **arguments)

    return click.option(
        "--input-shape", "shapes", type=_named_shape, multiple=True, metavar="[NAME=]1x3xROWSxCOLUMNS",
        help="Shape of an input, with a batch of 1 or n: for a function, where a file leaves sizes open, and for "
        "images of another size. Several inputs: once for each, by name.",
    )(gathered)  # fmt: skip


def tasks(command: Command) -> Command:
    """Add `--task`, which the command gets as `tasks`: one for all outputs, or by the names of outputs."""

    @wraps(command)
    def gathered(*, given_tasks: tuple[str, ...], **arguments: Any) -> None:
        found = tuple((name, task) for name, _, task in (text.rpartition("=") for text in given_tasks))
        if unknown := [task for _, task in found if task not in TASKS]:
            raise UnsupportedError(f"unknown task {unknown[0]!r}; expected one of {', '.join(TASKS)}")
        command(tasks=_by_name(found, "--task"), **arguments)

    return click.option(
                "--task", "given_tasks", multiple=True, metavar="[OUTPUT=]" + "|".join(TASKS),
        help="What the outputs mean, all of them or one by name.  [default: what the network's end looks like]",
    )(gathered)  # fmt: skip


def _named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse `NAME=1x3x32x32` into the name, empty if there is none, and the shape without the batch."""
    name, _, shape = text.rpartition("=")
    batch, *sizes = shape.split("x")
    if batch not in ("1", "-1", "n", "N") or not sizes or not all(s.isdecimal() and int(s) for s in sizes):
        raise UnsupportedError(
            f"--input-shape {text}: expected sizes above 0 with x between them, a batch of 1 or n first, such as "
            "1x3x320x320"
        )
    return name, tuple(map(int, sizes))


def _by_name(pairs: Sequence[tuple[str, Found]], option: str) -> Found | dict[str, Found] | None:
    """Put values together: the only one without a name, or all by name.

    Raises:
        UnsupportedError: several, of which not all have names of their own.
    """
    if len(pairs) == 1 and not pairs[0][0]:
        return pairs[0][1]
    found = dict(pairs)
    if "" in found or len(found) < len(pairs):
        raise UnsupportedError(f"expected one {option}, or several with different names, as in NAME=..., found others")
    return found or None


def recipe(*names: str) -> Decorator:
    """Add options for some fields of a `Recipe`, which the command gets as `recipe`."""

    def add(command: Command) -> Command:
        @wraps(command)
        def gathered(**arguments: Any) -> None:
            fields = {name: arguments.pop(name) for name in names}
            command(recipe=Recipe(**fields), **arguments)

        added: Command = gathered
        for name in reversed(names):
            added = _RECIPE[name](added)
        return added

    return add


def threads(command: Command) -> Command:
    """Add `--threads`, which applies to everything that the command does."""
    text = (
        "Threads of torch, ONNX Runtime and image decoding.  [default: OMP_NUM_THREADS, or the CPUs that this process "
        "may use]"
    )

    @click.option("--threads", "wanted", type=int, metavar="N", help=text)
    @wraps(command)
    def run(*, wanted: int | None, **arguments: Any) -> None:
        with asked_for(wanted):
            command(**arguments)

    return run


INTERPOLATIONS: Final = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CHANNEL_ORDERS: Final = ("rgb", "bgr", "gray")
LAYOUTS: Final = ("channels_first", "channels_last")


def _numbers(kind: type[int | float], *counts: int) -> Callable[[str], float | tuple[float, ...]]:
    """Return a parser of numbers with commas between them: into a tuple, or a single whole number into itself.

    Args:
        kind: type of the numbers.
        counts: how many there may be.
    """

    def parse(text: str) -> float | tuple[float, ...]:
        try:
            numbers = tuple(map(kind, text.split(",")))
        except ValueError:
            numbers = ()
        if len(numbers) not in counts:
            expected, what = " or ".join(map(str, counts)), "whole numbers" if kind is int else "numbers"
            raise click.BadParameter(f"expected {expected} {what} with commas between them, found {text!r}")
        return numbers[0] if kind is int and len(numbers) == 1 else numbers

    return parse


_SIZE: Final = "N|ROWS,COLUMNS"
_CHANNELS: Final = "A,B,C|A"
PREPROCESS: Final = {
    "resize": (_numbers(int, 1, 2), _SIZE, "Pixels of the shorter side of the resized image, or of both sides."),
    "crop": (_numbers(int, 1, 2), _SIZE, "Pixels of the centre that the network takes."),
    "mean": (_numbers(float, 1, 3), _CHANNELS, "Mean of the network's channels, for pixels scaled to 0..1."),
    "std": (_numbers(float, 1, 3), _CHANNELS, "Standard deviation of the channels, for the same pixels."),
    "interpolation": (click.Choice(INTERPOLATIONS), None, "Filter for resizing."),
    "channel_order": (click.Choice(CHANNEL_ORDERS), None, "Order of the network's channels; gray is one channel."),
    "layout": (click.Choice(LAYOUTS), None, "Whether the network takes the channels before or behind the pixels."),
}


def preprocess(command: Command) -> Command:
    """Add an option for every field of a `Preprocess`; the command gets those that are given as a dict `preprocess`."""

    @wraps(command)
    def gathered(**arguments: Any) -> None:
        parts = {name: arguments.pop(name) for name in PREPROCESS}
        command(preprocess={name: part for name, part in parts.items() if part is not None}, **arguments)

    added: Command = gathered
    for name, (kind, metavar, text) in reversed(PREPROCESS.items()):
        added = click.option(
            f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=f"{text}  [default: that of the weights]"
        )(added)
    return added
