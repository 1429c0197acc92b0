"""`edgeq calibrate`: load a network, measure it on images, and write the record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final

import click

from edgeq.artifacts.files import check_output
from edgeq.artifacts.model_names import ending, short_name
from edgeq.artifacts.record import CalibrationRecord
from edgeq.calibration import calibrate as calibration
from edgeq.calibration.preflight import LOOKS, preflight
from edgeq.calibration.ranges import RangeChoice
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json
from edgeq.commands.image_sets import batches, calibration_images, choose_data, report_unreadable
from edgeq.data.image_files import Kind
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError, UnsupportedError
from edgeq.exporters.import_parity import Feed, feeds_of, import_parity
from edgeq.frontends import sources as loading
from edgeq.frontends.sources import InputShapes
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.planning.recipe import check_seed
from edgeq.reports import tables
from edgeq.system.devices import check_device
from edgeq.system.distributed import ALONE, Workers, joined
from edgeq.system.progress import SILENT, Progress, tracked

COMPARED: Final = 4
"""Images on which an ONNX file is compared with the network that was read from it."""

DOUBTFUL: Final = 40
"""Fewer dB between the two are no rounding, not even of files in half precision."""


@dataclass(frozen=True)
class Calibration:
    """The options of `edgeq calibrate`.

    Attributes:
        model: a file, a function, or the name of an architecture, see `edgeq.load`.
        weights: `embedded`, `imagenet` or a file, see `edgeq.load`; None is what the model comes with.
        weights_key: which weights of a file to take, see `edgeq.load`.
        transform_input: whether a GoogLeNet or Inception v3 normalizes its input once more, see `edgeq.load`.
        input_shapes: shapes of inputs without the batch, see `edgeq.load`.
        tasks: what the outputs mean, see `edgeq.load`.
        data: `embedded`, or a folder of images or arrays; None is `embedded` if the weights are embedded, too.
        samples: number of images; None is `defaults.CALIBRATION_SAMPLES`, or `FOLDER_SAMPLES` for a folder.
        observer: see `edgeq.calibration.ranges.RangeChoice`.
        device: `cpu` or `cuda`.
        seed: seed of the choice of images and positions.
        preprocess: fields of an `edgeq.Preprocess` by name; the others are those of the weights if known, else those of
            torchvision's weights.
        output: path of the record; None is `calib/NAME.calib`, see `edgeq.artifacts.model_names.short_name`.
        force: replace a file that edgeq did not write.
    """

    model: str = defaults.MODEL
    weights: str | None = None
    weights_key: str | None = None
    transform_input: bool | None = None
    input_shapes: InputShapes | None = None
    tasks: str | Mapping[str, str] | None = None
    data: str | None = None
    samples: int | None = None
    observer: RangeChoice = "damage"
    device: str = "cpu"
    seed: int = 0
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None
    force: bool = False


def calibrate(
    asked: Calibration, progress: Progress = SILENT, workers: Workers = ALONE
) -> tuple[Path, CalibrationRecord]:
    """Load a network, measure it on images, and write the record.

    Args:
        asked: the options.
        progress: receives progress, and notices about missing, unreadable or doubtful images, files that are not
            images, the weights that were taken from a file, and assumptions about the preprocessing.
        workers: the processes of a distributed run, which share the images; rank 0 writes the record.

    Returns:
        The path of the record, and the record.

    Raises:
        EdgeqError: bad input; nothing is written.
    """
    check_device(asked.device)
    check_seed(asked.seed)
    has_own = bool(ending(asked.model)) or ":" in asked.model
    weights = asked.weights or (asked.model if has_own else defaults.EMBEDDED)
    images = calibration_images(choose_data(asked.data, weights), asked.samples, asked.seed, progress)
    source = _source(asked, images.kind, progress)
    output = asked.output or defaults.RECORDS / f"{short_name(asked.model)}.calib"
    check_output(output, asked.force)
    preprocess = source.preprocess if images.kind == "images" else None
    sources = {"network": source.to_dict(), "preprocess": preprocess.to_dict() if preprocess else {}}
    source.network.to(asked.device)
    if workers.first:
        _compare(source, images, preprocess, progress)
        _look(source.network, images, preprocess, progress)
        sources["data"] = images.to_dict()
    given = batches(images, source.network.graph, preprocess, workers)
    passed = tracked(given, "calibrating", len(images), progress, workers.size)
    record = calibration.calibrate(
        source.network, passed, asked.observer, asked.seed,
        sources=sources, progress=progress, workers=workers,
    )  # fmt: skip
    images.put_together(workers)
    report_unreadable(images, progress)
    if workers.first:
        record.save(output)
    return output, record


def _compare(source: loading.Source, images: ImageSet, preprocess: Preprocess | None, progress: Progress) -> None:
    """Tell how close the network that was read from an ONNX file is to the file itself, on some of the images."""
    if source.reference is None or source.ends is None:
        return
    network = source.network
    feeds: list[Feed] = []
    with suppress(DataError):  # of images that cannot be read; without any, random ones are compared
        for batch in batches(images.spread(COMPARED), network.graph, preprocess):
            feeds += feeds_of(Images.of(network.graph, batch), source.ends)
    found = import_parity(source.reference, network, source.ends, feeds)
    worst = min(found, key=found.__getitem__)
    close = "equal" if found[worst] == inf else f"{found[worst]:.0f} dB"
    line = f"{source.reference.name} in ONNX Runtime and the network that was read from it: {close} at output {worst}"
    doubtful = f"warning: {line}; expected at least {DOUBTFUL} dB, please report this file"
    progress.notice(doubtful if found[worst] < DOUBTFUL else line)


def _look(network: Network, images: ImageSet, preprocess: Preprocess | None, progress: Progress) -> None:
    """Warn of images that do not look like those of the training."""
    with suppress(DataError):  # of images that cannot be read; the pass over all of them tells
        for doubt in preflight(network, batches(images.spread(LOOKS), network.graph, preprocess), preprocess):
            progress.notice(f"warning: {images.name}: {doubt}")


def _source(asked: Calibration, kind: Kind, progress: Progress) -> loading.Source:
    """Load the network with its preprocessing, and tell the user what was assumed about either; arrays need none."""
    source = loading.load(
        _found_again(asked.model) if ending(asked.model) else asked.model,
        asked.weights and _found_again(asked.weights),
        asked.preprocess,
        weights_key=asked.weights_key,
        transform_input=asked.transform_input,
        input_shapes=asked.input_shapes,
        tasks=asked.tasks,
    )
    for note in (*source.notes, *(source.assumed if kind == "images" else ())):
        progress.notice(note)
    return source


def _found_again(file: str) -> str:
    """An absolute path, so that the record can be used from another folder; names of weights as they are."""
    return file if file in (defaults.EMBEDDED, "imagenet") else str(Path(file).absolute())


@click.command("calibrate")
@click.argument("source", required=False, metavar="[MODEL]")
@click.option(
    "--model", metavar="FILE.onnx|FILE.pt2|timm:NAME|MODULE:FUNCTION|NAME",
    help="The network, also as an argument: an ONNX file, a program of torch.export.save, a network of timm, a "
    f"function of yours that returns a module, or a network of torchvision.  [default: {defaults.MODEL}]",
)  # fmt: skip
@click.option(
    "--weights", metavar="embedded|imagenet|FILE", shell_complete=options.completing("file", "embedded", "imagenet"),
    help="edgeq's own, torchvision's or timm's (downloaded once), or a safetensors file, PyTorch state dict or "
    "checkpoint.  [default: what the model comes with; of torchvision, embedded]",
)  # fmt: skip
@click.option("--weights-key", metavar="NAME", help="Which weights of a file to take, such as model_ema.")
@click.option(
    "--transform-input", type=bool, metavar="yes|no",
    help="Whether the googlenet or inception_v3 in a file normalizes its input once more, as torchvision's pretrained "
    "ones do.",
)  # fmt: skip
@options.input_shapes
@options.tasks
@click.option(
    "--data", metavar="embedded|DIR", shell_complete=options.completing("dir", "embedded"),
    help="Images to calibrate on, or arrays (.npy, .npz) that the network takes: a folder of any layout.  [default: "
    "embedded, with embedded weights]",
)  # fmt: skip
@click.option("--samples", type=int, help="Number of images.  [default: 516 embedded ones, 1024 of a folder]")
@click.option(
    "--observer", type=click.Choice(["damage", "percentile", "minmax", "mse"]), default="damage", show_default=True,
    help="How the range of an activation is chosen.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of images and positions.")
@options.preprocess
@options.threads
@click.option("--output", type=options.PATH, metavar="FILE", help="The record.  [default: calib/NAME.calib]")
@options.force
@options.json
def command(source: str | None, model: str | None, as_json: bool, **given: Any) -> None:
    """Measure a float network on images and write a calibration record.

    Several processes that `torchrun` starts share the images.

    \b
    Example:
      edgeq calibrate detector.onnx --data photos
      edgeq calibrate --weights imagenet --data photos --output calib/photos.calib
      edgeq calibrate --weights small.pt --data photos --resize 96 --crop 96 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
      torchrun --nproc-per-node 4 -m edgeq calibrate
    """
    if source is not None and model is not None:
        raise UnsupportedError(f"expected one model, found {source} and --model {model}; leave one out")
    asked = Calibration(source or model or defaults.MODEL, **given)
    with joined(asked.device) as workers, listening(workers.first) as progress:
        path, record = calibrate(asked, progress, workers)
    if not workers.first:
        return
    if as_json:
        print_json(record.to_json())
    else:
        click.echo(f"{path}: {tables.record_text(record)}")
